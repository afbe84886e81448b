"""The steps of sampling, taken by an attack itself: DDIM (Song et al., 2021) from any noise level.

The host's sampler begins at pure noise and keeps to its own schedule; some attacks begin in the
middle, or add noise on the way.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..finite import NETWORK, finite
from ..model.interface import DiffusionModel
from .scene import Scene


def levels_down(start: int, count: int) -> list[int]:
    """At most ``count`` noise levels from ``start`` down to 0, evenly spaced."""
    return [int(i) for i in torch.linspace(start, 0, count).round().long().unique().flip(0)]


@torch.no_grad()
def finished(
    scene: Scene,
    i: int,
    x: Tensor,
    levels: list[int],
    churn: float = 0.0,
    gen: torch.Generator | None = None,
) -> Tensor:
    """Noisy latents under the i-th prompt, denoised level by level.

    Args:
        x: latents at the first of ``levels``, ``[1, C, h, w]``.
        levels: numbers of noise levels, falling; after the last the picture is clean.
        churn: DDIM's eta, the new noise of each step; above 1 it is more than the level holds.
        gen: where that noise comes from.

    Raises:
        NotFiniteError: if the model gives no numbers.
    """
    model: DiffusionModel = scene.need("model")
    schedule = model.schedule
    for level, after in zip(levels, [*levels[1:], None], strict=True):
        index = torch.tensor([level])
        clean, noise = schedule.clean_and_noise(_guided(scene, i, x, index), x, index)
        if after is None:
            return finite(clean, NETWORK, "latents")
        a, b = schedule.coefficients(index, x)
        a_next, b_next = schedule.coefficients(torch.tensor([after]), x)
        fresh = churn * b_next / b * (1.0 - (a / a_next).square()).clamp(min=0.0).sqrt()
        x = a_next * clean + (b_next.square() - fresh.square()).clamp(min=0.0).sqrt() * noise
        if churn:
            x = x + fresh * torch.randn(x.shape, generator=gen).to(x.device)
    return x


def _guided(scene: Scene, i: int, x: Tensor, index: Tensor) -> Tensor:
    """The model's prediction under the i-th prompt, away from the negative one."""
    model = scene.need("model")
    t = model.schedule.timestep(index, x)
    said = model.denoise(x, t, scene.contexts[i][None].to(x.device))
    cfg = scene.guidance(i)
    if scene.negative is None or cfg == 1.0:
        return said
    other = model.denoise(x, t, scene.negative.to(x.device))
    return other + cfg * (said - other)
