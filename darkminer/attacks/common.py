"""What the attacks share: Adam on a few numbers against the model's own denoising loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..method.optim import LossTrace, require_settled
from ..model.interface import DiffusionModel
from ..model.schedule import Schedule
from ..settings import Settings, setting
from ..types import Report, StepReport

Watch = Callable[[int, Tensor], None]
"""Told after each step its number and what is learnt as it stands, to be read and not changed."""


@dataclass(frozen=True)
class AttackConfig(Settings):
    """Settings of an attack's optimisation."""

    steps: int = setting(1500, "Adam steps", low=1)
    lr: float = setting(5e-3, "learning rate", above=0)
    batch: int = setting(8, "drawings per step", low=1)


def optimise(
    model: DiffusionModel,
    latents: Tensor,
    variable: Tensor,
    context_of: Callable[[Tensor, Tensor], Tensor],
    config: AttackConfig,
    gen: torch.Generator,
    *,
    stage: str,
    report: Report,
    after_step: Callable[[Tensor], None] | None = None,
    watch: Watch | None = None,
) -> list[float]:
    """Adam on ``variable`` (in place) so that the model denoises ``latents`` best.

    Passes are cut as the session's memory asks, and losses are read back in blocks, as in training.

    Args:
        latents: clean latents ``[n, C, h, w]`` of drawings that show the concept.
        variable: what is learnt; the only tensor that moves.
        context_of: (variable, indices of the batch's drawings) -> contexts ``[b, L, D]``.
        after_step: called with the variable after each step, e.g. to project it.
        watch: see :data:`Watch`.

    Returns:
        the loss of each step, summed over C, h, w and averaged over the batch.

    Raises:
        DivergedError: if a loss, or what was learnt at last, is not finite.
    """
    variable.requires_grad_(True)
    optimizer = torch.optim.Adam([variable], lr=config.lr)
    trace = LossTrace(stage, 0)

    def gradients(x: Tensor, noise: Tensor, index: Tensor, which: Tensor) -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        context = context_of(variable, which)
        loss = _denoising_error(model, model.schedule, x, noise, index, context)
        loss.backward()
        return loss.detach()

    try:
        for step in range(config.steps):
            loss = model.memory.attempt(gradients, *_draw(model, latents, config.batch, gen))
            optimizer.step()
            if after_step is not None:
                with torch.no_grad():
                    after_step(variable)
            trace.add(loss)
            if watch is not None:
                watch(step + 1, variable.detach())
            report(StepReport(stage, 0, step + 1, config.steps, trace.last, losses=trace.values))
        trace.flush()
        require_settled(variable, stage, 0, config.steps)
    finally:
        variable.requires_grad_(False)
    return trace.values


def _draw(
    model: DiffusionModel, latents: Tensor, batch: int, gen: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A step's drawings ``[b, C, h, w]``, their noise, their levels, and which they are ``[b]``."""
    which = torch.randint(len(latents), (batch,), generator=gen)
    x = latents[which].to(model.device)
    noise = torch.randn(x.shape, generator=gen).to(x.device)
    return x, noise, model.schedule.draw(len(x), gen), which


def _denoising_error(
    model: DiffusionModel,
    schedule: Schedule,
    x: Tensor,
    noise: Tensor,
    index: Tensor,
    context: Tensor,
) -> Tensor:
    # Written out here and not taken from the method: an eraser must not be judged by its own miner.
    noisy = schedule.add_noise(x, noise, index)
    prediction = model.denoise(noisy, schedule.timestep(index, noisy), context)
    error = (prediction - schedule.target(x, noise, index)).square()
    return error.flatten(1).sum(1).mean()
