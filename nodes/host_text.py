"""CLIP of the host: contexts of prompts, its vocabulary, and a copy that gradients can pass."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import comfy.clip_model
import torch
from torch import Tensor, nn

from ..darkminer.errors import DarkMinerError
from .host import Conditioning

PLACEHOLDER = "*"


def conditioning(clip: Any, prompt: str) -> Conditioning:
    """CONDITIONING of a prompt, as the host's own text encode node gives it."""
    return clip.encode_from_tokens_scheduled(clip.tokenize(prompt))


def contexts(clip: Any, prompts: Sequence[str]) -> list[Tensor]:
    """The context ``[L, D]`` float32 CPU of every prompt."""
    with torch.no_grad():
        return [conditioning(clip, p)[0][0][0].detach().float().cpu().clone() for p in prompts]


def vocabulary(clip: Any, exclude: Sequence[str] = ()) -> list[str]:
    """The tokenizer's whole words: plain letters, at least three, none of ``exclude``; sorted."""
    tokenizer = _first(clip.tokenizer)
    left_out = {w.lower() for w in exclude}
    words = set()
    for token in tokenizer.inv_vocab.values():
        word = str(token).removesuffix("</w>")
        whole = word != token and word.isascii() and word.isalpha() and word.islower()
        if whole and len(word) >= 3 and word not in left_out:
            words.add(word)
    return sorted(words)


def _first(owner: Any) -> Any:
    """The tokenizer or text model inside the host's wrapper (the first of several)."""
    name = getattr(owner, "clip", None)
    if isinstance(name, str):
        return getattr(owner, name)
    for candidate in ("clip_l", "clip_g"):
        if hasattr(owner, candidate):
            return getattr(owner, candidate)
    raise DarkMinerError("This CLIP has no CLIP text encoder inside: load one that has.")


def _layer_forward(
    self: Any, x: Tensor, mask: Any = None, optimized_attention: Any = None
) -> Tensor:
    """One transformer layer without the host's in-place sums, which autograd cannot pass."""
    x = x + self.self_attn(self.layer_norm1(x), mask, optimized_attention)
    return x + self.mlp(self.layer_norm2(x))


class _TrainableLayer(comfy.clip_model.CLIPLayer):
    forward = _layer_forward


class TextEncoder:
    """A copy of the text encoder that lets gradients reach one token at its input.

    Make it inside :func:`~.host.training_mode`.
    """

    def __init__(self, clip: Any):
        self._clip = clip
        source = _first(clip.cond_stage_model)
        memo = {id(t): nn.Parameter(t.detach().clone(), False) for t in source.parameters()}
        memo |= {id(t): t.detach().clone() for t in source.buffers()}  # type: ignore[misc]
        self._model = copy.deepcopy(source, memo).requires_grad_(False)
        for module in self._model.modules():
            if type(module) is comfy.clip_model.CLIPLayer:
                module.__class__ = _TrainableLayer
        self._name = next(iter(clip.tokenize("")))
        self._placeholder = self._ids(PLACEHOLDER)[1]

    def _ids(self, prompt: str) -> list[Any]:
        return [token for token, *_ in self._clip.tokenize(prompt)[self._name][0]]

    def word(self, word: str) -> Tensor:
        """The input vector ``[Din]`` of a one-token word.

        Raises:
            DarkMinerError: if the tokenizer splits the word.
        """
        ids = self._ids(word)
        if ids[2] != self._ids("")[1]:
            raise DarkMinerError(f"{word!r} is more than one token: choose a simpler word.")
        table = self._model.transformer.get_input_embeddings().weight
        return table[ids[1]].detach().float().clone()

    def __call__(self, prompts: Sequence[str], vectors: Tensor) -> Tensor:
        """Contexts ``[B, L, D]`` of B prompts whose ``*`` is ``vectors`` ``[1 or B, Din]``."""
        rows = [
            [vector if token == self._placeholder else token for token in self._ids(prompt)]
            for prompt, vector in zip(prompts, vectors.expand(len(prompts), -1), strict=True)
        ]
        return self._model(rows)[0].float()
