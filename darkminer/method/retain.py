"""Retaining: what must not change while something is erased.

There are two retain sets: the user's keep prompts, each alike, and the vocabulary bank
(:mod:`~.bank`), of which training looks most at what has drifted furthest, so that it keeps what
the erasure hurts. Both are held in the same way: on noisy pictures of their own, every context is
to lead where the original model leads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..model.adapter import Adapters
from ..model.exact import keep_exactly
from ..model.interface import DiffusionModel
from ..model.sampling import pictures_each, predict_each
from ..rng import generator
from ..settings import Settings, setting
from ..types import Report, RetainSet, Tally, silent
from .engine import Noised, Plan, Targets, ask_teacher, noised
from .losses import squared_error


@dataclass(frozen=True)
class RetainConfig(Settings):
    """What must not change, in every stage that trains; the paper has none of it."""

    weight: float = setting(
        0.0, "weight of the loss on the vocabulary bank; 0 leaves it out", low=0
    )
    batch: int = setting(4, "entries of each retain set per step", low=1)
    uniform: float = setting(
        0.2,
        "share of the vocabulary bank's draws that are uniform; the rest goes by drift",
        low=0,
        high=1,
    )
    refresh: int = setting(
        100, "steps between two measurements of the vocabulary bank's drift", low=1
    )
    noisy: int = setting(6, "noisy pictures of each entry that a chase draws from", low=1)
    keep_weight: float = setting(
        0.5, "weight of the loss on the user's keep prompts; 0 leaves it out", low=0
    )
    keep_exact: float = setting(
        0.0,
        "share of the keep prompts' token energy along which cross-attention values cannot change "
        "at all; 0 leaves it out",
        low=0,
        high=1,
    )
    keep_images: int = setting(
        4, "pictures that the original model makes of each keep prompt", low=1
    )


@dataclass(frozen=True)
class Retain:
    """What a run retains, and how.

    Attributes:
        bank: the vocabulary bank; used where ``config.weight`` is above 0.
        keep: the user's keep prompts, contexts ``[1, L, D]``.
        made: pictures of ``keep`` that this run has made already, filled in by the first stage.
    """

    config: RetainConfig = RetainConfig()
    bank: RetainSet | None = None
    keep: Sequence[Tensor] = ()
    made: dict[str, RetainSet] | None = None

    def prompts(
        self, model: DiffusionModel, adapters: Adapters, seed: int, report: Report = silent
    ) -> RetainSet:
        """The keep prompts as a retain set, with pictures of each by the original model."""
        made = self.made if self.made is not None else {}
        if "keep" not in made:
            contexts = tuple(row for c in self.keep for row in c.detach().float().cpu())
            gen, images = generator(seed, 0, "keep"), self.config.keep_images
            tally = Tally(report, "keep", 0, len(contexts) * images)
            with adapters.off():
                latents = pictures_each(model, contexts, images, gen, tally)
            made["keep"] = RetainSet(contexts, latents, ("keep",) * len(contexts))
        return made["keep"]

    def close_exactly(self, model: DiffusionModel, adapters: Adapters) -> None:
        """Close the keep prompts' leading directions to the adapters, where settings ask for it."""
        if self.keep and self.config.keep_exact > 0:
            keep_exactly(model, adapters, self.keep, self.config.keep_exact)

    def sets(
        self, model: DiffusionModel, adapters: Adapters, seed: int, report: Report = silent
    ) -> Iterator[tuple[str, RetainSet, float, float]]:
        """Name, entries, weight and share of uniform draws of every set that counts."""
        config = self.config
        if self.keep and config.keep_weight > 0:
            yield "keep", self.prompts(model, adapters, seed, report), config.keep_weight, 1.0
        if self.bank is not None and len(self.bank) and config.weight > 0:
            yield "bank", self.bank, config.weight, config.uniform

    def in_training(
        self,
        model: DiffusionModel,
        adapters: Adapters,
        role: str,
        *,
        seed: int,
        round_: int,
        report: Report,
        ahead: str = "",
    ) -> list[Retained]:
        """Every set that counts, ready for a stage's steps.

        Args:
            role: names the sets' random generators; ``{}`` stands for a set's own name.
            ahead: the stage that asks the teacher now, once for all its steps, as reports call it;
                empty: each step has pictures of its own.
        """
        config = self.config
        return [
            Retained(
                model, adapters, entries, weight, uniform, config,
                generator(seed, round_, role.format(name)),
                ahead=Tally(report, ahead, round_, config.noisy * len(entries), name)
                if ahead else None,
            )
            for name, entries, weight, uniform in self.sets(model, adapters, seed, report)
        ]  # fmt: skip


NOTHING = Retain()
"""Nothing is retained."""


class DriftSampler:
    """Draws entries of a retain set: a uniform share, the rest in proportion to measured drift.

    Drift of an entry is ``|e - e0|^2`` on one fixed picture, level and noise of its own.

    Attributes:
        weights: what each entry's chance is in proportion to, as last measured, ``[N]``.

    Args:
        uniform: share of uniform draws, 0 to 1.
    """

    def __init__(
        self,
        model: DiffusionModel,
        adapters: Adapters,
        entries: RetainSet,
        uniform: float,
        gen: torch.Generator,
    ):
        self._model, self._entries, self._uniform = model, entries, uniform
        self.weights = torch.ones(len(entries))
        if self._uniform < 1.0:
            self._probe = noised(model, entries.latents[:, 0], gen)
            with adapters.off():
                self._teacher = self._predict()

    def _predict(self) -> Tensor:
        noisy, timestep, _ = self._probe
        return predict_each(self._model, noisy, timestep, self._entries.contexts)

    def refresh(self) -> None:
        """Measure the drift anew."""
        if self._uniform >= 1.0:
            return
        drift = squared_error(self._predict(), self._teacher)
        share = (
            drift / drift.sum() if float(drift.sum()) > 0 else torch.ones(len(drift)) / len(drift)
        )
        self.weights = self._uniform / len(share) + (1.0 - self._uniform) * share

    def draw(self, count: int, gen: torch.Generator) -> Tensor:
        """``count`` different entries' indices, int64."""
        return torch.multinomial(self.weights, count, replacement=False, generator=gen)


class Retained:
    """One retain set in training.

    Args:
        weight: of the set's mean squared error in a step.
        gen: draws the pictures that drift is measured on, and those of ``ahead``.
        ahead: counts the teacher's answers where noisy pictures are made and the teacher asked now,
            once for all steps; None: each step has pictures of its own.
    """

    def __init__(
        self,
        model: DiffusionModel,
        adapters: Adapters,
        entries: RetainSet,
        weight: float,
        uniform: float,
        config: RetainConfig,
        gen: torch.Generator,
        *,
        ahead: Tally | None = None,
    ):
        self._model, self._entries, self._weight, self._config = model, entries, weight, config
        self._ahead = self._answers(adapters, gen, ahead) if ahead else None
        self._sampler = DriftSampler(model, adapters, entries, uniform, gen)

    def _answers(
        self, adapters: Adapters, gen: torch.Generator, tally: Tally
    ) -> tuple[Noised, Tensor]:
        contexts = self._entries.contexts
        owner = torch.arange(len(contexts)).repeat(self._config.noisy)
        picture = torch.randint(self._entries.latents.shape[1], (len(owner),), generator=gen)
        made = noised(self._model, self._entries.latents[owner, picture], gen)
        asked = [contexts[i] for i in owner.tolist()]
        noisy, timestep, _ = made
        return made, ask_teacher(self._model, adapters, noisy, timestep, asked, made=tally)

    @property
    def weights(self) -> Tensor:
        """What its sampler goes by, ``[N]``; it changes with every measurement of drift."""
        return self._sampler.weights

    @weights.setter
    def weights(self, weights: Tensor) -> None:
        self._sampler.weights = weights

    def _drawn(self, step: int, gen: torch.Generator) -> Tensor:
        if step % self._config.refresh == 0:
            self._sampler.refresh()
        return self._sampler.draw(min(self._config.batch, len(self._entries)), gen)

    def plan(self, step: int, gen: torch.Generator) -> Plan:
        """A step's rows on fresh noisy pictures, for a teacher that is still to be asked."""
        which = self._drawn(step, gen)
        picture = torch.randint(self._entries.latents.shape[1], (len(which),), generator=gen)
        made = noised(self._model, self._entries.latents[which, picture], gen)
        plan = Plan(made.noisy, made.timestep)
        for row, entry in enumerate(which.tolist()):
            context = self._entries.contexts[entry]
            plan.want(row, context, self._weight / len(which), plan.ask(row, context))
        return plan

    def targets(self, step: int, gen: torch.Generator) -> Targets:
        """A step's rows of those that the teacher has answered ahead."""
        assert self._ahead is not None
        made, answers = self._ahead
        which = self._drawn(step, gen)
        rows = which + len(self._entries) * torch.randint(
            self._config.noisy, (len(which),), generator=gen
        )
        return Targets(
            made.noisy[rows],
            made.timestep[rows],
            [self._entries.contexts[i] for i in which.tolist()],
            answers[rows],
            torch.full((len(which),), self._weight / len(which)),
        )


def state_of_sets(kept: Sequence[Retained]) -> dict[str, Tensor]:
    """What sets in training know of their steps so far, by name."""
    return {f"retained.{i}": one.weights.clone() for i, one in enumerate(kept)}


def restore_sets(kept: Sequence[Retained], state: Mapping[str, Tensor]) -> None:
    """Let sets in training go on from :func:`state_of_sets`."""
    for i, one in enumerate(kept):
        one.weights = state[f"retained.{i}"].clone()
