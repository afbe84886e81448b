"""The guard: how far an erasure has moved what is to be kept, measured after each round.

Drift is the root of ``sum |e - e0|^2 / sum |e0 - e|^2`` with the student's answers and the original
model's above, and the original model's and the true ones below: at 0 nothing has moved, at 1 as
much as the original model is wrong by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import DarkMinerError
from ..finite import in_stage
from ..model.adapter import Adapters
from ..model.interface import DiffusionModel
from ..model.sampling import Made, predict_each, unwatched
from ..rng import generator
from ..settings import Settings, setting
from ..types import Report, RetainSet, silent
from .engine import ask_teacher, noised
from .losses import squared_error
from .retain import Retain


@dataclass(frozen=True)
class GuardConfig(Settings):
    """When a run stops for the sake of what is kept; the paper has none of it."""

    max_drift: float | None = setting(
        None,
        "drift of what is retained past which a round is left out and the run ends with the round "
        "before; 1 is as much as the original model is wrong by itself; none: not measured",
        low=0,
    )
    prompts: int = setting(
        32, "prompts that drift is measured on: keep prompts, then the vocabulary bank's", low=1
    )
    draws: int = setting(4, "noisy pictures of each of these prompts", low=1)


class Guard:
    """Measures drift on the same noisy pictures every time.

    Args:
        retain: whose prompts are measured; where it holds none, the anchor is.
        anchor: context of c0, ``[1, L0, D]``.
    """

    @in_stage("guard")
    def __init__(
        self,
        model: DiffusionModel,
        adapters: Adapters,
        retain: Retain,
        anchor: Tensor,
        config: GuardConfig,
        *,
        seed: int,
        report: Report = silent,
    ):
        self._model = model
        gen = generator(seed, 0, "guard")
        sets = [retain.prompts(model, adapters, seed, report)] if retain.keep else []
        sets += [retain.bank] if retain.bank is not None and len(retain.bank) else []
        if not sets:
            alone = replace(retain, keep=(anchor,), made={})
            sets = [alone.prompts(model, adapters, seed, report)]
        contexts, pictures = _chosen(sets, config, gen)
        self._noisy, self._timestep, truth = noised(model, pictures, gen)
        self._contexts = contexts
        self._original = ask_teacher(model, adapters, self._noisy, self._timestep, contexts)
        self._scale = float(squared_error(self._original, truth).double().sum())

    def __len__(self) -> int:
        return len(self._contexts)

    @in_stage("guard")
    def drift(self, round_: int, made: Made = unwatched) -> float:
        """Drift of the model as it stands, after a round; see the module."""
        now = predict_each(self._model, self._noisy, self._timestep, self._contexts, made=made)
        moved = float(squared_error(now, self._original).double().sum())
        return (moved / self._scale) ** 0.5


class DriftedError(DarkMinerError):
    """What is retained has drifted past the limit.

    Args:
        drift: how far; limit: :attr:`GuardConfig.max_drift`.
        what: what has moved it, as a sentence begins.
    """

    def __init__(self, drift: float, limit: float, what: str):
        self.drift, self.limit = drift, limit
        super().__init__(
            f"{what} has moved what is retained by {drift:.3g}, more than guard_max_drift "
            f"{limit:g}: raise it, retain more, or train more gently (lower eta or rates)."
        )


def _chosen(
    sets: Sequence[RetainSet], config: GuardConfig, gen: torch.Generator
) -> tuple[list[Tensor], Tensor]:
    """Contexts, and a clean picture ``[N, C, h, w]`` for each: all keep prompts that there is room
    for, then some of the bank's.
    """
    contexts: list[Tensor] = []
    pictures: list[Tensor] = []
    room = config.prompts
    for entries in sets:
        for entry in torch.randperm(len(entries), generator=gen)[:room].tolist():
            room -= 1
            of = entries.latents[entry]
            for picture in torch.randint(len(of), (config.draws,), generator=gen).tolist():
                contexts.append(entries.contexts[entry])
                pictures.append(of[picture])
    return contexts, torch.stack(pictures)
