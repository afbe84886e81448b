"""Searching: descend the mining loss (equation 5) with network and adapters frozen."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..finite import TEXT_ENCODER, finite
from ..model.interface import DiffusionModel
from ..standing import (
    Checkpoints,
    StageState,
    generator_state,
    optimizer_state,
    restore_generator,
    restore_optimizer,
)
from ..types import Report, StepReport
from .losses import mining_loss
from .optim import LossTrace, require_fallen, require_settled


class Drawn(NamedTuple):
    """What one step looks at: pictures ``[m * b, C, h, w]``, their noise and their levels."""

    x: Tensor
    noise: Tensor
    level: Tensor


def with_noise(model: DiffusionModel, x: Tensor, gen: torch.Generator) -> Drawn:
    """Pictures ``[n, C, h, w]``, each with noise and a level of its own."""
    noise = torch.randn(x.shape, generator=gen).to(x.device)
    return Drawn(x, noise, model.schedule.draw(len(x), gen))


class Search:
    """A search for embeddings that the network, as it stands, denoises pictures best with.

    Args:
        variable: what is searched, m embeddings ``[m, ...]``; moved in place.
        optimizer: of ``variable``.
        contexts: the context that ``variable`` makes for each picture, ``[m * b, L, D]``.
        draw: a step's pictures; gen: what it draws from.
        move: moves ``variable`` by its gradient; told the step, counted from 0.
        part: what reports call it besides its stage's name.
    """

    def __init__(
        self,
        model: DiffusionModel,
        variable: Tensor,
        optimizer: torch.optim.Optimizer,
        *,
        contexts: Callable[[], Tensor],
        draw: Callable[[], Drawn],
        gen: torch.Generator,
        move: Callable[[int], None],
        round_: int,
        part: str = "",
    ):
        self._model, self._variable, self._optimizer = model, variable, optimizer
        self._contexts, self._draw, self._gen, self._move = contexts, draw, gen, move
        self._round, self._part = round_, part
        self._trace = LossTrace("mine", round_)
        self._first: tuple[Drawn, Tensor] | None = None

    def run(self, steps: int, report: Report, checkpoints: Checkpoints) -> list[float]:
        """All steps; the mean loss of each.

        Raises:
            DivergedError: if a loss is not finite, or ended far above its start.
            OutOfTime: if the run's time is up.
        """
        before = checkpoints.begun("mine", self._round, self._part)
        begin = self._restore(before) if before is not None else 0
        for step in range(begin, steps):
            drawn = self._draw()
            loss = self._model.memory.attempt(
                _gradients, self._model, drawn, self._variable, self._contexts
            )
            self._first = self._first or (drawn, loss)
            self._move(step)
            self._trace.add(loss)
            report(StepReport(
                "mine", self._round, step + 1, steps, self._trace.last, part=self._part,
                losses=self._trace.values,
            ))  # fmt: skip
            checkpoints.at(lambda step=step: self._state(step + 1))
        self._trace.flush()
        require_settled(self._variable, "mine", self._round, steps)
        if self._first is not None:
            _require_fallen(self._model, self._first, self._contexts, self._round, steps)
        return self._trace.values

    def _state(self, step: int) -> StageState | None:
        """Where it stands; None where a loss that waits to be read is not finite."""
        losses = self._trace.so_far()
        if losses is None or self._first is None:
            return None
        return StageState(
            "mine", self._round, self._part, step,
            generators={"draws": generator_state(self._gen)},
            optimizers={"embeddings": optimizer_state(self._optimizer)},
            tensors={
                "embeddings": self._variable.detach().cpu().clone(),
                "first": self._first[1].detach().cpu().clone(),
            },
            losses=losses,
        )  # fmt: skip

    @torch.no_grad()
    def _restore(self, state: StageState) -> int:
        """Go on from :meth:`_state`; the step to take next."""
        # The first step's draw comes once more from a generator that stands where it stood.
        self._first = self._draw(), state.tensors["first"].to(self._variable.device)
        self._variable.copy_(state.tensors["embeddings"])
        restore_optimizer(self._optimizer, state.optimizers["embeddings"])
        restore_generator(self._gen, state.generators["draws"])
        self._trace.restore(state.losses, self._variable.device)
        return state.step


def _gradients(
    model: DiffusionModel, drawn: Drawn, variable: Tensor, contexts: Callable[[], Tensor]
) -> Tensor:
    """The mean loss; leaves in ``variable.grad`` the gradient of each embedding's own mean.

    Args:
        variable: what is mined, m embeddings ``[m, ...]``.
        contexts: the context that ``variable`` makes for each picture, ``[m * b, L, D]``.
    """
    variable.grad = None
    x, noise, index = drawn
    errors = mining_loss(model.denoise, model.schedule, x, contexts(), noise, index)
    each = errors.view(len(variable), -1).mean(1)
    each.sum().backward()  # the sum keeps the gradients apart
    return each.detach().mean()


@torch.no_grad()
def _require_fallen(
    model: DiffusionModel,
    first: tuple[Drawn, Tensor],
    contexts: Callable[[], Tensor],
    round_: int,
    steps: int,
) -> None:
    """Ask once more what the first step asked, of what was mined."""
    (x, noise, index), before = first
    asked = finite(contexts(), TEXT_ENCODER, "contexts")
    after = mining_loss(model.denoise, model.schedule, x, asked, noise, index).mean()
    require_fallen(before, after, "mine", round_, steps)
