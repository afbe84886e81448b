"""CLIP of the host: contexts of prompts, its vocabulary, and a copy that gradients can pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import comfy.clip_model
import comfy.model_management
import torch
from torch import Tensor

from ..darkminer.errors import DarkMinerError
from ..darkminer.finite import TEXT_ENCODER, finite
from .host import Conditioning
from .host_copy import plain_copy

PLACEHOLDER = "*"


def conditioning(clip: Any, prompt: str) -> Conditioning:
    """CONDITIONING of a prompt, as the host's own text encode node gives it."""
    return clip.encode_from_tokens_scheduled(clip.tokenize(prompt))


def contexts(clip: Any, prompts: Sequence[str]) -> list[Tensor]:
    """The context ``[L, D]`` float32 CPU of every prompt.

    Raises:
        NotFiniteError: if the text encoder gives contexts that are not finite.
    """
    with torch.no_grad():
        made = [conditioning(clip, p)[0][0][0].detach().float().cpu().clone() for p in prompts]
    return [finite(context, TEXT_ENCODER, "contexts") for context in made]


def vocabulary(clip: Any, exclude: Sequence[str] = ()) -> list[str]:
    """The tokenizer's whole words: plain letters, at least three, none of ``exclude``; sorted.

    Of several tokenizers a CLIP's is taken, whose words are the plainest.
    """
    parts = _parts(clip, clip.tokenizer)
    names = sorted(parts, key=lambda name: not hasattr(clip.tokenizer, f"clip_{name}"))
    left_out = {w.lower() for w in exclude}
    found = {_whole_word(str(token)) for token in parts[names[0]].inv_vocab.values()}
    plain = {w for w in found if w.isascii() and w.isalpha() and w.islower() and len(w) >= 3}
    return sorted(plain - left_out)


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


class _TrainableLayer(comfy.clip_model.CLIPLayer):
    forward = _layer_forward


class TextEncoder:
    """A copy of the text encoders that lets gradients reach one token at their input.

    Where there are several (SDXL), a token's vector is theirs side by side, in the order of the
    host's own token names. Make it inside :func:`~.host.training_mode`.
    """

    def __init__(self, clip: Any):
        self._clip = clip
        device = clip.patcher.load_device
        self._model = plain_copy(clip.patcher, clip.cond_stage_model).requires_grad_(False)
        size = sum(p.numel() * p.element_size() for p in self._model.parameters())
        comfy.model_management.free_memory(size, device)
        self._model.to(device).set_clip_options({"execution_device": device})
        for module in self._model.modules():
            if type(module) is comfy.clip_model.CLIPLayer:
                module.__class__ = _TrainableLayer
        self._parts = _parts(clip, self._model)
        tables = {n: p.transformer.get_input_embeddings().weight for n, p in self._parts.items()}
        self._tables: dict[str, Tensor] = tables
        self._placeholder = {n: ids[1] for n, ids in self._ids(PLACEHOLDER).items()}

    def _ids(self, prompt: str) -> dict[str, list[Any]]:
        tokens = self._clip.tokenize(prompt)
        return {name: [token for token, *_ in tokens[name][0]] for name in tokens}

    def word(self, word: str) -> Tensor:
        """The input vector ``[Din]`` of a one-token word.

        Raises:
            DarkMinerError: if a tokenizer splits the word.
        """
        ids, empty = self._ids(word), self._ids("")
        if any(ids[name][2] != empty[name][1] for name in ids):
            raise DarkMinerError(f"{word!r} is more than one token: choose a simpler word.")
        found = [self._tables[name][ids[name][1]] for name in ids]
        return torch.cat(found).detach().float().clone()

    def __call__(self, prompts: Sequence[str], vectors: Tensor) -> Tensor:
        """Contexts ``[B, L, D]`` of B prompts whose ``*`` is ``vectors`` ``[1 or B, Din]``."""
        rows = [
            self._row(prompt, vector)
            for prompt, vector in zip(prompts, vectors.expand(len(prompts), -1), strict=True)
        ]
        if len(self._parts) == 1:
            ((name, part),) = self._parts.items()
            return part([row[name] for row in rows])[0].float()
        # How several contexts become one is the family's own affair, and made for one prompt.
        joined = [
            self._model.encode_token_weights({n: [[(t, 1.0) for t in row[n]]] for n in row})[0]
            for row in rows
        ]
        return torch.cat(joined).float()

    def _row(self, prompt: str, vector: Tensor) -> dict[str, list[Any]]:
        """A prompt's tokens by name, with each encoder's share of the vector for the ``*``."""
        ids = self._ids(prompt)
        shares = vector.split([self._tables[name].shape[1] for name in ids])
        return {
            name: [share if token == self._placeholder[name] else token for token in ids[name]]
            for name, share in zip(ids, shares, strict=True)
        }
