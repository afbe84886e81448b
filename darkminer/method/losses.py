"""The losses of the method, as pure functions of tensors.

Every ``|.|^2`` is the squared L2 norm *summed* over C, h, w; the paper's learning rates and
clipping norms only make sense so. A loss returns one value per sample; who trains takes the mean.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..model.interface import Denoiser
from ..model.schedule import Schedule


class Query(NamedTuple):
    """One question to the network: what does it predict here?

    Attributes:
        x: noisy latents ``[b, C, h, w]``.
        timestep: ``[b]``.
        context: ``[b, L, D]``.
    """

    x: Tensor
    timestep: Tensor
    context: Tensor


def predict(denoise: Denoiser, queries: Sequence[Query], limit: int | None = None) -> list[Tensor]:
    """Answer several queries, those with contexts of equal length in one forward pass.

    Args:
        limit: samples per forward pass; None sets no limit.

    Returns:
        one prediction ``[b, C, h, w]`` per query, in order.
    """
    groups: dict[int, list[int]] = {}
    for i, query in enumerate(queries):
        groups.setdefault(query.context.shape[1], []).append(i)
    answers: list[Tensor] = [torch.empty(0)] * len(queries)
    for members in groups.values():
        parts = [queries[i] for i in members]
        columns = [torch.cat(column) for column in zip(*parts, strict=True)]
        passes = zip(*(c.split(limit or len(c)) for c in columns), strict=True)
        joint = torch.cat([denoise(*part) for part in passes])
        for i, answer in zip(members, joint.split([len(p.x) for p in parts]), strict=True):
            answers[i] = answer
    return answers


def repeated(context: Tensor, length: int) -> Tensor:
    """``context`` ``[b, L, D]`` as often as it takes to be ``length`` tokens long, if L divides it.

    Softmax attention does not change when all its keys and values are repeated equally often, so
    contexts of different lengths can share one forward pass. This holds where cross-attention
    reads the context itself; where text and picture attend jointly, repeating is another context.
    """
    times, rest = divmod(length, context.shape[1])
    return context if rest else context.repeat(1, times, 1)


def squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    """``|prediction - target|^2`` summed over C, h, w: ``[B, C, h, w]`` twice -> ``[B]``."""
    return (prediction.float() - target.float()).square().flatten(1).sum(1)


def mining_loss(
    denoise: Denoiser, schedule: Schedule, x: Tensor, context: Tensor, noise: Tensor, index: Tensor
) -> Tensor:
    """Equation 5: the denoising error of pool latents under the embedding.

    Args:
        x: clean latents ``[B, C, h, w]``; noise: ``[B, C, h, w]``; index: levels ``[B]``.
        context: the embedding of each sample, ``[B, L, D]``.

    Returns:
        ``|target - prediction|^2`` per sample, ``[B]``.
    """
    noisy = schedule.add_noise(x, noise, index)
    prediction = denoise(noisy, schedule.timestep(index, noisy), context)
    return squared_error(prediction, schedule.target(x, noise, index))


def circumvent_target(anchor: Tensor, concept: Tensor | None, eta: float) -> Tensor:
    """What the erased model should predict at the embedding.

    Args:
        anchor: e0(x_t, c0), ``[B, C, h, w]``.
        concept: e0(x_t, c), needed when ``eta`` is not 0.
        eta: how far past the anchor; 0 gives equation 7's target, above 0 the negative guidance of
            ESD (Gandikota et al., 2023): e0(c0) - eta (e0(c) - e0(c0)).
    """
    if not eta or concept is None:
        return anchor
    return anchor - eta * (concept - anchor)


def preserved_contexts(context: Tensor, parts: Collection[str] = ("0c", "-c")) -> list[Tensor]:
    """What equation 8 preserves besides the anchor: 0c and -c, each ``[b, L, D]``."""
    both = {"0c": torch.zeros_like(context), "-c": -context}
    return [made for part, made in both.items() if part in parts]
