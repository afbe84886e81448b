"""CLIP of the host: contexts of prompts, its vocabulary, and a copy that gradients can pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import comfy.clip_model
import comfy.model_management
import torch
from torch import Tensor

from ...darkminer.errors import DarkMinerError
from ...darkminer.finite import TEXT_ENCODER, finite
from ...darkminer.method.words import without
from ...darkminer.model.sampling import Made, unwatched
from .carry import check_carried, settle
from .copy import plain_copy
from .session import Conditioning

PLACEHOLDER = "*"


def conditioning(clip: Any, prompt: str) -> Conditioning:
    """CONDITIONING of a prompt, as the host's own text encode node gives it."""
    return clip.encode_from_tokens_scheduled(clip.tokenize(prompt))


def contexts(clip: Any, prompts: Sequence[str], made: Made = unwatched) -> list[Tensor]:
    """The context ``[L, D]`` float32 CPU of every prompt.

    Args:
        made: told after every prompt.

    Raises:
        NotFiniteError: if the text encoder gives contexts that are not finite.
    """
    found: list[Tensor] = []
    for prompt in prompts:
        with torch.no_grad():
            context = conditioning(clip, prompt)[0][0][0].detach().float().cpu().clone()
        found.append(finite(context, TEXT_ENCODER, "contexts"))
        made(1)
    return found


def pooled(clip: Any, prompt: str) -> Tensor:
    """The text encoder's embedding of a whole prompt, ``[n, D]`` float32 CPU.

    The host keeps that of the first chunk of a long prompt; here each of n chunks gives its own.

    Raises:
        DarkMinerError: if the text encoder gives none, which not every family has.
        NotFiniteError: if it is not finite.
    """
    tokens = clip.tokenize(prompt)
    found: list[Tensor] = []
    for i in range(max(map(len, tokens.values()))):
        chunk = {name: [own[min(i, len(own) - 1)]] for name, own in tokens.items()}
        with torch.no_grad():
            _, whole = clip.encode_from_tokens(chunk, return_pooled=True)
        if whole is None:
            raise DarkMinerError(
                "This CLIP says nothing of a prompt as a whole (it has no pooled embedding): use "
                "one of a family that has, such as Stable Diffusion 1.x, SDXL or Flux."
            )
        found.append(whole.detach().reshape(-1).float().cpu().clone())
    return finite(torch.stack(found), TEXT_ENCODER, "embeddings")


def vocabulary(clip: Any, exclude: Sequence[str] = ()) -> list[str]:
    """The tokenizer's whole words: plain letters, at least three; sorted.

    None speaks of what is in ``exclude``, see :mod:`~...darkminer.method.words`.
    Of several tokenizers a CLIP's is taken, whose words are the plainest.
    """
    parts = _parts(clip, clip.tokenizer)
    names = sorted(parts, key=lambda name: not hasattr(clip.tokenizer, f"clip_{name}"))
    found = {_whole_word(str(token)) for token in parts[names[0]].inv_vocab.values()}
    plain = {w for w in found if w.isascii() and w.isalpha() and w.islower() and len(w) >= 3}
    return without(plain, exclude)


def _whole_word(token: str) -> str:
    """The word that a token stands for, empty if it is a part of one.

    CLIP's tokenizer marks a word's end, those of T5 and of language models the space before it.
    """
    if token.endswith("</w>"):
        return token.removesuffix("</w>")
    return token[1:] if token.startswith(("\u2581", "\u0120")) else ""


def _parts(clip: Any, owner: Any) -> dict[str, Any]:
    """The tokenizers or text models inside the host's wrapper, by the names of its tokens.

    A model that the files lacked (a Stable Diffusion 3 without its T5) is None.
    """
    names = clip.tokenize("")
    return {n: getattr(owner, f"clip_{n}", getattr(owner, n, None)) for n in names}


def speaks(clip: Any) -> bool:
    """Whether tokens can be mined through it: all its text encoders are there and are CLIPs.

    A T5 or a language model would have to be copied whole, many times as large as a CLIP.
    """
    models = _parts(clip, clip.cond_stage_model).values()
    kinds = [getattr(m, "transformer", None) for m in models]
    return all(isinstance(k, comfy.clip_model.CLIPTextModel) for k in kinds)


def _layer_forward(
    self: Any, x: Tensor, mask: Any = None, optimized_attention: Any = None
) -> Tensor:
    """One transformer layer without the host's in-place sums, which autograd cannot pass."""
    x = x + self.self_attn(self.layer_norm1(x), mask, optimized_attention)
    return x + self.mlp(self.layer_norm2(x))


def _is(token: Any, number: Any) -> bool:
    """Whether a token is this number; the host's embeddings stand among tokens as vectors."""
    return not isinstance(token, Tensor) and token == number


class _TrainableLayer(comfy.clip_model.CLIPLayer):
    forward = _layer_forward


class TextEncoder:
    """A copy of the text encoders that lets gradients reach one token at their input.

    It says what the host's own text encode node says with this CLIP: its patches, its last layer
    (CLIP skip) and the prompt's weights, whatever was encoded before. Where there are several
    encoders (SDXL), a token's vector is theirs side by side, in the order of the host's own token
    names. Make it inside :func:`~.session.training_mode`.

    Raises:
        DarkMinerError: if the CLIP changes its weights while sampling (hooks), or a tokenizer has
            no token for ``*``.
    """

    def __init__(self, clip: Any):
        if getattr(clip.patcher, "forced_hooks", None) is not None:
            raise DarkMinerError(
                "This CLIP carries hooks, which change its weights while pictures are made, and "
                "tokens cannot be mined through them: connect the CLIP without hooks."
            )
        check_carried(clip.patcher, "CLIP")
        settle(clip.patcher, clip.cond_stage_model)
        self.clip = clip
        device = clip.patcher.load_device
        self._model = plain_copy(clip.patcher, clip.cond_stage_model).requires_grad_(False)
        size = sum(p.numel() * p.element_size() for p in self._model.parameters())
        comfy.model_management.free_memory(size, device)
        self._model.to(device)
        # The host keeps these on the model that all clones of a CLIP share, from the last encode.
        self._model.reset_clip_options()
        if clip.layer_idx is not None:
            self._model.set_clip_options({"layer": clip.layer_idx})
        self._model.set_clip_options({"execution_device": device})
        for module in self._model.modules():
            if type(module) is comfy.clip_model.CLIPLayer:
                module.__class__ = _TrainableLayer
        self._parts = _parts(clip, self._model)
        tables = {n: p.transformer.get_input_embeddings().weight for n, p in self._parts.items()}
        self._tables: dict[str, Tensor] = tables
        self._placeholder = {n: self._only(n, PLACEHOLDER) for n in self._parts}

    def tokens(self, prompt: str) -> dict[str, list[list[tuple[Any, float]]]]:
        """A prompt's chunks of tokens and weights, by encoder; each ``*`` is a token of its own."""
        apart = prompt.replace(PLACEHOLDER, f" {PLACEHOLDER} ")
        tokens = self.clip.tokenize(apart)
        return {n: [[(t, w) for t, w, *_ in chunk] for chunk in tokens[n]] for n in tokens}

    def _only(self, name: str, word: str) -> Any:
        """The one token of a word for an encoder.

        Raises:
            DarkMinerError: if its tokenizer splits the word.
        """
        (chunk, *_), (empty, *_) = self.tokens(word)[name], self.tokens("")[name]
        if chunk[2][0] != empty[1][0] or chunk[1][0] == empty[1][0]:
            raise DarkMinerError(f"{word!r} is not one token of this CLIP: choose a simpler word.")
        return chunk[1][0]

    def embedding(self, word: str) -> Tensor:
        """The input vector ``[Din]`` of a one-token word.

        Raises:
            DarkMinerError: if a tokenizer splits the word.
        """
        found = [self._tables[name][self._only(name, word)] for name in self._parts]
        return torch.cat(found).detach().float().clone()

    @property
    def tables(self) -> dict[str, Tensor]:
        """Each encoder's input vectors ``[V, Din]``, by the host's name of its tokens."""
        return self._tables

    @property
    def vocabularies(self) -> dict[str, dict[int, str]]:
        """Each encoder's tokens by number."""
        return {n: dict(p.inv_vocab) for n, p in _parts(self.clip, self.clip.tokenizer).items()}

    def decode(self, ids: list[int]) -> str:
        """The text of tokens, as the first encoder's tokenizer writes it."""
        (own, *_) = _parts(self.clip, self.clip.tokenizer).values()
        return own.tokenizer.decode(ids, clean_up_tokenization_spaces=False)

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Contexts ``[B, L, D]`` of B prompts as they are."""
        return self.encode_chunks([self.tokens(prompt) for prompt in prompts])

    def __call__(self, prompts: Sequence[str], vectors: Tensor) -> Tensor:
        """Contexts ``[B, L, D]`` of B prompts whose ``*`` is ``vectors`` ``[1 or B, Din]``.

        Raises:
            DarkMinerError: if a prompt has no ``*``.
        """
        each = vectors.expand(len(prompts), -1)
        return self.encode_chunks([self._row(p, v) for p, v in zip(prompts, each, strict=True)])

    def _row(self, prompt: str, vector: Tensor) -> dict[str, list[list[tuple[Any, float]]]]:
        """A prompt's tokens, with each encoder's share of the vector for every ``*``."""
        tokens = self.tokens(prompt)
        shares = vector.split([self._tables[name].shape[1] for name in tokens])
        for (name, chunks), share in zip(tokens.items(), shares, strict=True):
            own = self._placeholder[name]
            places = [_is(t, own) for chunk in chunks for t, _ in chunk]
            if not any(places) or sum(places) != prompt.count(PLACEHOLDER):
                raise DarkMinerError(
                    f"The prompt {prompt!r} shows this CLIP {sum(places)} places for a token where "
                    f"{max(1, prompt.count(PLACEHOLDER))} should be: write a template with a * "
                    'where the concept belongs, e.g. "a * photo".'
                )
            tokens[name] = [[(share if _is(t, own) else t, w) for t, w in c] for c in chunks]
        return tokens

    def encode_chunks(self, rows: list[dict[str, list[list[tuple[Any, float]]]]]) -> Tensor:
        """Contexts ``[B, L, D]`` of B rows of chunks: tokens and weights, by encoder.

        A token is a number, or vectors ``[n, Din]`` that stand for n tokens.
        """
        if len(self._parts) == 1:
            ((name, part),) = self._parts.items()
            if all(len(row[name]) == 1 and all(w == 1.0 for _, w in row[name][0]) for row in rows):
                return part([[t for t, _ in row[name][0]] for row in rows])[0].float()
        # How contexts, chunks and weights become one is the family's own affair, prompt by prompt.
        joined = [self._model.encode_token_weights(row)[0] for row in rows]
        if len({c.shape[1] for c in joined}) > 1:
            raise DarkMinerError(
                "The prompts of a template come out at different lengths, some beyond what this "
                "CLIP takes at once: make the template shorter."
            )
        return torch.cat(joined).float()
