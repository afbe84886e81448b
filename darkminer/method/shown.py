"""A few pictures before and after an erasure, for its report: same prompt, same noise."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..finite import in_stage
from ..model.adapter import AdapterState, LoraConfig
from ..model.interface import DiffusionModel
from ..model.sampling import draw_images, seeded_noise
from ..rng import generator
from ..types import Report, Tally, silent
from .loop import new_adapters

STAGE = "report"
"""The stage that reports are of."""

EACH = 3
"""Pictures of a prompt, before and after."""


@dataclass(frozen=True)
class Shown:
    """What one prompt shows.

    Attributes:
        prompt: its words.
        before, after: ``[n, H, W, 3]`` in 0..1; the i-th of both start from the same noise.
    """

    prompt: str
    before: Tensor = field(repr=False)
    after: Tensor = field(repr=False)


@in_stage(STAGE)
def before_and_after(
    model: DiffusionModel,
    state: AdapterState,
    config: LoraConfig,
    prompts: Sequence[tuple[str, Tensor]],
    *,
    seed: int,
    report: Report = silent,
) -> tuple[Shown, ...]:
    """Draw prompts with the erasure off and on; the network is afterwards as it was.

    Args:
        state: the erasure; config: its rank, alpha and layers.
        prompts: each with its context ``[L, D]``.

    Raises:
        NotFiniteError: if a picture is no picture.
    """
    noise = seeded_noise(model, EACH, generator(seed, 0, "report"))
    tally = Tally(report, STAGE, 0, 2 * EACH * len(prompts))
    adapters = new_adapters(model, config, seed=0, state=state)
    found: list[Shown] = []
    try:
        for prompt, context in prompts:
            drawn: list[Tensor] = []
            for off in (True, False):
                with adapters.off() if off else nullcontext(), torch.no_grad():
                    drawn.append(draw_images(model, [context] * EACH, noise, tally))
            found.append(Shown(prompt, *drawn))
    finally:
        adapters.remove()
    return tuple(found)
