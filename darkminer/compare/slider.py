"""LECO and Concept Sliders: a LoRA trained to erase (or strengthen) what prompts differ in.

LECO is a public training script (p1atdd/LECO) for the loss of ESD with prompts of its own for every
part of it; its erasing action is, with target prompt t, positive p, unconditional u, neutral n:

    L = |e(x_t, t) - [e0(x_t, n) - g (e0(x_t, p) - e0(x_t, u))]|^2

Concept Sliders (Gandikota et al., ECCV 2024, arXiv 2311.12092, equation 8) hold what else is in the
picture: the same difference is taken beside attributes q, and the target prompt is the reference:

    L = |e(x_t, t) - [e0(x_t, t) - g sum_q (e0(x_t, p q) - e0(x_t, u q))]|^2

x_t is drawn by the student under t up to a random level, as in :mod:`.esd`.

What differs from the authors' codes: one attribute is drawn for each step in place of the sum, so
that g means the same whatever their number; a slider is trained in the erasing direction alone, and
its other half, by the LoRA's negative strength, is left to the user.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from ..method.engine import Plan, Targets
from ..method.trainer import Trainer
from ..model.adapter import Adapters
from ..model.interface import DiffusionModel
from ..rng import generator
from ..settings import setting
from ..types import Report, silent
from .drawing import half_drawn
from .esd import DrawnConfig, answered

STAGE = "slider"
Loss = Literal["leco", "slider"]
LOSSES: tuple[Loss, ...] = get_args(Loss)


@dataclass(frozen=True)
class SliderConfig(DrawnConfig):
    """Settings of LECO and of a slider."""

    loss: Loss = setting("leco", "whose loss", choices=LOSSES)
    scale: float = setting(1.0, "how far away from the concept (g)", low=0)


class Prompts(NamedTuple):
    """Contexts ``[L, D]`` of one step's prompts."""

    target: Tensor
    positive: Tensor
    unconditional: Tensor
    neutral: Tensor


def slide(
    model: DiffusionModel,
    adapters: Adapters,
    prompts: Sequence[Prompts],
    empty: Tensor,
    config: SliderConfig,
    *,
    seed: int,
    report: Report = silent,
) -> list[float]:
    """Train the adapters; the loss of each step.

    Args:
        prompts: a step takes one; for a slider each is another attribute's.
        empty: the empty prompt's context ``[L0, D]``.

    Raises:
        DivergedError: if a loss is not finite or the LoRA has grown beyond its limit.
    """
    gen = generator(seed, 0, "compare.slider")
    trainer = Trainer(model, adapters, config, stage=STAGE, round_=0, report=report)
    for _ in range(config.steps):
        chosen = prompts[int(torch.randint(len(prompts), (), generator=gen))]
        noisy, index = half_drawn(
            model, chosen.target, empty, config.batch, gen, steps=config.draw_steps,
            guidance=config.guidance,
        )  # fmt: skip
        targets = wanted(model, adapters, noisy, index, chosen, config)
        trainer.step(lambda targets=targets: targets)
    return trainer.losses()


def wanted(
    model: DiffusionModel,
    adapters: Adapters,
    noisy: Tensor,
    index: Tensor,
    prompts: Prompts,
    config: SliderConfig,
) -> Targets:
    """A step's rows on ``noisy`` ``[B, C, h, w]`` at levels ``index`` ``[B]``."""
    plan = Plan(noisy, model.schedule.timesteps[index])
    at = prompts.target if config.loss == "slider" else prompts.neutral
    for i in range(len(noisy)):
        reference = plan.ask(i, at)
        positive, without = plan.ask(i, prompts.positive), plan.ask(i, prompts.unconditional)
        weight = 1.0 / len(noisy)
        plan.want(i, prompts.target, weight, reference, positive, config.scale, anchor=without)
    return answered(model, adapters, plan)
