"""The losses of the method, as pure functions of tensors.

Every ``|.|^2`` is the squared L2 norm *summed* over C, h, w; the paper's learning rates and
clipping norms only make sense so. A loss returns one value per sample; who trains takes the mean.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from ..model.interface import Denoiser
from ..model.schedule import Schedule


def repeated(context: Tensor, length: int) -> Tensor:
    """``context`` ``[L, D]`` as often as it takes to be ``length`` tokens long, if L divides it.

    Softmax attention does not change when all its keys and values are repeated equally often, so
    contexts of different lengths can share one forward pass. This holds where cross-attention
    reads the context itself; where text and picture attend jointly, repeating is another context.
    """
    times, rest = divmod(length, len(context))
    return context if rest else context.repeat(times, 1)


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


def teacher_target(
    reference: Tensor, concept: Tensor | None, eta: float, anchor: Tensor | None = None
) -> Tensor:
    """What the erased model should predict where the original one is asked under a reference.

    Args:
        reference: e0(x_t, r), ``[..., C, h, w]``; r is the anchor c0 where something is erased.
        concept: e0(x_t, c), needed when ``eta`` is not 0.
        anchor: e0(x_t, a), what the concept is held against; None: the reference.
        eta: how far past the reference; 0 gives the target of equations 7 and 8, above 0 the
            negative guidance of ESD (Gandikota et al., 2023): e0(r) - eta (e0(c) - e0(a)).
    """
    if not eta or concept is None:
        return reference
    return reference - eta * (concept - (reference if anchor is None else anchor))


def preserved_contexts(context: Tensor, parts: Collection[str] = ("0c", "-c")) -> list[Tensor]:
    """What equation 8 preserves besides the anchor: 0c and -c, each ``[b, L, D]``."""
    both = {"0c": torch.zeros_like(context), "-c": -context}
    return [made for part, made in both.items() if part in parts]
