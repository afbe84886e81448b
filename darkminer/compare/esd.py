"""ESD: Erasing Concepts from Diffusion Models (Gandikota et al., ICCV 2023, arXiv 2303.07345).

The student, asked for the concept, is to answer what the original model answers without any prompt,
and as much less of the concept as eta says (equations 7 and 8):

    L = |e(x_t, c) - [e0(x_t) - eta (e0(x_t, c) - e0(x_t))]|^2

where x_t is drawn by the student itself under c, up to a random level, from noise. ESD-x trains the
cross-attention, ESD-u everything else.

What differs from the authors' code: a LoRA is trained in place of the weights, so that ESD-u leaves
the convolutions; the loss is the sum over a picture and not the mean, as everywhere in this pack;
pictures come from DDIM over evenly spaced levels; several wordings of the concept take turns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..method.engine import Plan, Targets, ask_teacher
from ..method.trainer import Trainer
from ..model.adapter import Adapters
from ..model.interface import DiffusionModel
from ..rng import generator
from ..settings import setting
from ..types import Report, silent
from .config import ComparedConfig
from .drawing import half_drawn

STAGE = "esd"


@dataclass(frozen=True)
class DrawnConfig(ComparedConfig):
    """What methods have that train on pictures half drawn by the student."""

    draw_steps: int = setting(50, "sampling steps of a whole picture", low=1)
    guidance: float = setting(3.0, "classifier-free guidance of the student's pictures", low=0)
    batch: int = setting(1, "pictures of a step, drawn to the same level", low=1)


@dataclass(frozen=True)
class ESDConfig(DrawnConfig):
    """Settings of ESD."""

    eta: float = setting(1.0, "negative guidance: how far away from the concept", low=0)


def esd(
    model: DiffusionModel,
    adapters: Adapters,
    concepts: Sequence[Tensor],
    empty: Tensor,
    config: ESDConfig,
    *,
    seed: int,
    stage: str = STAGE,
    round_: int = 0,
    report: Report = silent,
) -> list[float]:
    """Train the adapters; the loss of each step.

    Args:
        concepts: contexts ``[L, D]`` of prompts that name the concept; a step takes one.
        empty: the empty prompt's context ``[L0, D]``.
        stage, round_: what errors and reports call it, where it is a part of something else.

    Raises:
        DivergedError: if a loss is not finite or the LoRA has grown beyond its limit.
    """
    gen = generator(seed, round_, f"compare.{stage}")
    trainer = Trainer(model, adapters, config, stage=stage, round_=round_, report=report)
    for _ in range(config.steps):
        context = concepts[int(torch.randint(len(concepts), (), generator=gen))]
        noisy, index = half_drawn(
            model, context, empty, config.batch, gen, steps=config.draw_steps,
            guidance=config.guidance,
        )  # fmt: skip
        targets = wanted(model, adapters, noisy, index, context, empty, config.eta)
        trainer.step(lambda targets=targets: targets)
    return trainer.losses()


def wanted(
    model: DiffusionModel,
    adapters: Adapters,
    noisy: Tensor,
    index: Tensor,
    context: Tensor,
    empty: Tensor,
    eta: float,
) -> Targets:
    """A step's rows: equation 7 on ``noisy`` ``[B, C, h, w]`` at levels ``index`` ``[B]``."""
    plan = Plan(noisy, model.schedule.timesteps[index])
    for i in range(len(noisy)):
        without, along = plan.ask(i, empty), plan.ask(i, context)
        plan.want(i, context, 1.0 / len(noisy), without, along, eta)
    return answered(model, adapters, plan)


def answered(model: DiffusionModel, adapters: Adapters, plan: Plan) -> Targets:
    """A plan's rows, with what the original model answers now."""
    numbers = [i for i, _ in plan.questions]
    answers = ask_teacher(
        model, adapters, plan.noisy[numbers], plan.timestep[numbers],
        [context for _, context in plan.questions],
    )  # fmt: skip
    return plan.targets(answers)
