"""Optimisers, learning rates and what ends a run that got away; the same for every stage."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal, TypeVar

import torch
from torch import Tensor

from ..errors import DivergedError
from ..finite import is_finite
from ..settings import Settings, setting

Optimizer = Literal["sgd", "adam"]
Trained = TypeVar("Trained", bound="TrainingConfig")
OPTIMIZERS = ("sgd", "adam")

GROWTH_LIMIT = 10.0
"""The largest LoRA that is an erasure, relative to the weights it is added to.

On the gallery the preset ``paper`` reaches .15 after two rounds and ``fast`` .61 at its end; at ten
times the paper's learning rate it is 11 after 40 steps, at a hundred times 470 after 20.
"""
_RISEN = 10.0

SIZE = 4 * 64 * 64
"""Numbers of a latent of SD 1.x at 512 x 512, which rates and clips are given for."""

STEPS = "optimiser steps"
OPTIMIZER = "sgd without momentum, or adam"
CLIP = "gradient norm limit, for latents of 16384 numbers"
LR = "learning rate up to step lr_drop"
LR_LATE = "learning rate from step lr_drop on"
LR_DROP = "step from which lr_late counts"


@dataclass(frozen=True)
class TrainingConfig(Settings):
    """What every stage that descends has: steps, optimiser and two learning rates."""

    steps: int = setting(1000, STEPS, low=1)
    optimizer: Optimizer = setting("sgd", OPTIMIZER, choices=OPTIMIZERS)
    lr: float = setting(0.01, LR, above=0)
    lr_late: float = setting(0.001, LR_LATE, above=0)
    lr_drop: int = setting(800, LR_DROP, low=0)
    clip: float = setting(100.0, CLIP, above=0)


@dataclass(frozen=True)
class ExtraConfig(TrainingConfig):
    """A stage that the paper has none of: by Adam, and left out at 0 steps."""

    steps: int = setting(0, STEPS, low=0)
    optimizer: Optimizer = setting("adam", OPTIMIZER, choices=OPTIMIZERS)
    lr_drop: int = setting(0, LR_DROP, low=0)
    clip: float = setting(3200.0, CLIP, above=0)


def at_size(config: Trained, latent_shape: tuple[int, int, int]) -> Trained:
    """The settings for latents of another size than those of SD 1.x, which the paper trained on.

    Losses are sums over C, h, w, and so are their gradients: on a latent of n times as many numbers
    they are n times as large. A clip that means the same is n times as large, too, and plain
    gradient descent takes the same step at an n-th of the rate. Adam's steps do not depend on it.

    Args:
        latent_shape: ``(C, h, w)`` of one picture.
    """
    ratio = math.prod(latent_shape) / SIZE
    rates = (
        config
        if config.optimizer == "adam"
        else replace(config, lr=config.lr / ratio, lr_late=config.lr_late / ratio)
    )
    return replace(rates, clip=config.clip * ratio)


def at_rate(config: Trained, factor: float) -> Trained:
    """The settings with every learning rate multiplied by ``factor``."""
    rates = [f.name for f in fields(config) if f.name in ("lr", "lr_late") or f.name[-3:] == "_lr"]
    return replace(config, **{name: factor * getattr(config, name) for name in rates})


def make_optimizer(config: TrainingConfig, parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
    """SGD without momentum (the paper's) or Adam, over ``parameters`` and nothing else."""
    kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.SGD
    return kind(list(parameters), lr=config.lr)


def set_lr(optimizer: torch.optim.Optimizer, config: TrainingConfig, step: int) -> None:
    """Two learning rates: ``lr``, and ``lr_late`` from step ``lr_drop`` (counted from 0) on."""
    rate = config.lr if step < config.lr_drop else config.lr_late
    for group in optimizer.param_groups:
        group["lr"] = rate


class LossTrace:
    """Collects losses on their device and reads them back in blocks.

    Reading one number back per step would make a GPU wait at every step; a block of
    ``every`` steps costs one wait and still finds a diverged run early.

    Args:
        growth: how large the LoRA has become, see :meth:`~..model.adapter.Adapters.growth`; asked
            once a block.
    """

    def __init__(
        self, stage: str, round_: int, every: int = 20, growth: Callable[[], float] | None = None
    ):
        self.values: list[float] = []
        self._growth = growth
        self._stage, self._round, self._every = stage, round_, every
        self._waiting: list[Tensor] = []

    def add(self, loss: Tensor) -> None:
        """Add one step's loss (a scalar tensor)."""
        self._waiting.append(loss.detach())
        if len(self._waiting) >= self._every:
            self.flush()

    def flush(self) -> None:
        """Read back what waits.

        Raises:
            DivergedError: if a loss is not finite, or the LoRA has grown beyond
                :data:`GROWTH_LIMIT`; names stage, round and step.
        """
        if not self._waiting:
            return
        block = torch.stack(self._waiting).cpu()
        self._waiting.clear()
        finite = torch.isfinite(block)
        if not bool(finite.all()):
            step = len(self.values) + int((~finite).nonzero()[0]) + 1
            raise DivergedError(self._stage, self._round, step)
        self.values.extend(block.tolist())
        grown = self._growth() if self._growth is not None else 0.0
        if grown > GROWTH_LIMIT:
            raise DivergedError(
                self._stage, self._round, len(self.values),
                f"the LoRA adds {grown:.0f} times the weights it is added to",
            )  # fmt: skip

    @property
    def last(self) -> float | None:
        """The newest loss that has been read back."""
        return self.values[-1] if self.values else None

    def so_far(self) -> list[float] | None:
        """The loss of every step, also of those that wait; None where one is not finite.

        It reads and checks nothing that :meth:`flush` would not: when a run is stopped must not
        depend on when it was kept.
        """
        waiting = torch.stack(self._waiting).cpu() if self._waiting else torch.empty(0)
        return [*self.values, *waiting.tolist()] if is_finite(waiting) else None

    def restore(self, losses: Sequence[float], device: torch.device) -> None:
        """Go on after steps of these losses, in blocks as if they had just been added."""
        read = len(losses) // self._every * self._every
        self.values = list(losses[:read])
        self._waiting = [torch.tensor(loss, device=device) for loss in losses[read:]]


def require_fallen(before: Tensor, after: Tensor, stage: str, round_: int, step: int) -> None:
    """Refuse a search on a frozen model whose loss has run away instead of falling.

    Args:
        before, after: the loss on the same pictures, noise and levels, at the start and at the end
            (scalars): no other draw tells a rise from a level that is harder.

    Raises:
        DivergedError: if it is ten times what it was, or more.
    """
    if not float(after) <= _RISEN * float(before):
        raise DivergedError(
            stage, round_, step, f"the loss has risen from {before:.3g} to {after:.3g}"
        )


def require_settled(variable: Tensor, stage: str, round_: int, step: int) -> None:
    """Refuse what its last optimiser step has spoilt: no later loss shows it.

    Raises:
        DivergedError: if a value of ``variable`` is not finite.
    """
    if not is_finite(variable.detach()):
        raise DivergedError(stage, round_, step)
