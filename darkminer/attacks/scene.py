"""What every attack is given and what it gives back.

An attack is a function ``run(scene, config) -> [Attempt]``, one attempt a prompt, listed in
:mod:`.catalogue`. It reads the scene and changes nothing in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..errors import DarkMinerError
from ..judge.detectors import Detector
from ..judge.user_prompts import UserPrompt
from ..method.optim import LossTrace
from ..model.adapter import Adapters
from ..model.interface import DiffusionModel
from ..model.sampling import decode_all, sample_each, seeded_noise
from ..rng import generator
from ..types import Report, StepReport, silent
from .speech import Speech, Spoken, said, spoken

ATTACK = "attack"
"""The stage that reports are of; their part is the attack's name."""


@dataclass(frozen=True)
class Look:
    """What the detector says of the picture that an attack draws after ``step`` steps."""

    step: int
    score: float
    hit: bool


@dataclass(frozen=True)
class Attempt:
    """What an attack found for one prompt.

    Attributes:
        prompt: the user's prompt it began with.
        context: what draws its picture, ``[L, D]`` float32 CPU.
        losses: the loss of each step.
        spoken: the text that was found; None for attacks that leave the text as it is.
        looks: what the detector said, in the order of the steps; empty without one.
        start: the noise its picture starts from, ``[C, h, w]``; None: the scene's own.
        latents: the finished picture ``[C, h, w]``, where the host's sampler cannot draw it.
    """

    prompt: str
    context: Tensor
    losses: list[float] = field(default_factory=list)
    spoken: Spoken | None = None
    looks: tuple[Look, ...] = ()
    start: Tensor | None = None
    latents: Tensor | None = None

    @property
    def hit_at(self) -> int | None:
        """The first step after which the detector saw the concept; None if it never did."""
        return next((look.step for look in self.looks if look.hit), None)


@dataclass(frozen=True)
class Scene:
    """The model under attack and what attackers know.

    Attributes:
        prompts: the users' prompts, each attacked by itself.
        contexts: what the text encoder makes of them, ``[L, D]`` each.
        seed: of everything an attack draws.
        model: the erased model as it stands; None only for what needs a text encoder alone.
        original: the model before its erasure.
        speech: the text encoder's input.
        latents: pictures of the concept ``[n, C, h, w]``, the i-th prompt's at i modulo n; None
            lets the original model draw each prompt.
        pairs: prompts with the concept, and the same without it.
        concept: its words; empty where nobody knows them.
        negative: context of the negative prompt ``[1, L, D]``, and ``cfg``, the guidance; used by
            attacks that take the steps of sampling themselves. None: no guidance.
        asked: how each prompt's own pictures are made, see
            :class:`~..judge.user_prompts.UserPrompt`; empty: as all others.
        adapters: the erasure on the model, where that is a LoRA of its own.
        detector: judges pictures while an attack runs, which then may stop at success.
        report: told of every step.
    """

    prompts: tuple[str, ...]
    contexts: tuple[Tensor, ...]
    seed: int
    model: DiffusionModel | None = None
    original: DiffusionModel | None = None
    speech: Speech | None = None
    latents: Tensor | None = None
    pairs: tuple[tuple[str, str], ...] = ()
    concept: str = ""
    negative: Tensor | None = None
    cfg: float = 1.0
    asked: tuple[UserPrompt, ...] = ()
    adapters: Adapters | None = None
    detector: Detector | None = None
    report: Report = silent

    def need(self, name: str) -> Any:
        """An attribute that an attack cannot do without.

        Raises:
            DarkMinerError: if it is missing.
        """
        value = getattr(self, name)
        if value is None or (isinstance(value, tuple) and not value):
            raise DarkMinerError(f"This attack needs {_NEEDS[name]}.")
        return value

    def generator(self, attack: str, i: int) -> torch.Generator:
        """The i-th prompt's own random numbers for an attack."""
        return generator(self.seed, i, f"attack.{attack}")

    def noise(self, i: int, more: int = 0) -> Tensor:
        """The noise that the i-th prompt's pictures start from, ``[1, C, h, w]``.

        Args:
            more: of further pictures; of a prompt with a seed the ``more``-th seed after it.
        """
        seed = self.asked[i].seed if self.asked else None
        if seed is not None:
            return seeded_noise(self.need("model"), 1, torch.Generator().manual_seed(seed + more))
        role = f"noise.{more}" if more else "noise"
        return seeded_noise(self.need("model"), 1, self.generator(role, i))

    def guidance(self, i: int) -> float:
        """The i-th prompt's guidance: its own, or everyone's."""
        own = self.asked[i].guidance if self.asked else None
        return self.cfg if own is None else own

    def target(self, i: int) -> Tensor:
        """The picture that the i-th attack aims at, ``[1, C, h, w]`` on the model's device."""
        if self.latents is None:
            original = self.need("original")
            start = seeded_noise(original, 1, self.generator("target", i))
            made = sample_each(original, [self.contexts[i]], start)
        else:
            made = self.latents[i % len(self.latents)][None]
        return made.to(self.need("model").device)

    def picture(self, i: int, attempt: Attempt) -> Tensor:
        """What an attempt for the i-th prompt draws, ``[1, H, W, 3]`` in 0..1."""
        model = self.need("model")
        if attempt.latents is not None:
            return decode_all(model, attempt.latents[None])
        if self.guidance(i) != self.cfg and model.guided is not None:
            model = replace(model, sample=model.guided(self.guidance(i)))
        start = self.noise(i) if attempt.start is None else attempt.start[None]
        return decode_all(model, sample_each(model, [attempt.context], start.to(model.device)))

    def look(self, i: int, step: int, attempt: Attempt) -> tuple[Attempt, Look | None]:
        """The attempt with one more look at what it draws; the same one without a detector."""
        if self.detector is None or self.model is None:
            return attempt, None
        sight = self.detector(self.picture(i, attempt))
        look = Look(step, float(sight.scores[0]), bool(sight.hits[0]))
        return replace(attempt, looks=(*attempt.looks, look)), look

    def say(self, i: int, ids: list[int], *, pasted: bool) -> Attempt:
        """An attempt that says tokens, as they are or as their pasted text is read."""
        speech = self.need("speech")
        found = spoken(speech, ids)
        read = found.read if pasted else found.ids
        return Attempt(self.prompts[i], said(speech, list(read)), spoken=found)


_NEEDS = {
    "model": "a model",
    "original": "the model before its erasure: connect it to original",
    "speech": "the text encoder: connect the CLIP that belongs to the model (of the CLIP kind)",
    "pairs": "prompts with the concept and without it",
    "detector": "a detector",
    "adapters": "the erasure as a LoRA: connect it to lora",
}

One = Callable[[int, "Course"], Attempt]
"""An attack on the i-th prompt."""


def each_prompt(scene: Scene, name: str, steps: int, one: One) -> list[Attempt]:
    """``one`` for every prompt, each with ``steps`` steps to report."""
    return [one(i, Course(scene, name, i, steps)) for i in range(len(scene.prompts))]


class Course:
    """Where the attack on the i-th prompt is: its losses, and what is reported of them."""

    def __init__(self, scene: Scene, name: str, i: int, steps: int):
        self._report, self._name = scene.report, name
        self._before, self._steps = i * steps, steps
        self._all = len(scene.prompts) * steps
        self._trace, self._step = LossTrace(f"attack {name}", 0), 0

    def add(self, loss: Tensor | None = None) -> None:
        """One step is done, with a loss or without.

        Raises:
            DivergedError: if a loss is not finite.
        """
        self._step += 1
        if loss is not None:
            self._trace.add(loss)
        self._tell(self._step)

    def shown(self, images: Tensor) -> None:
        """Pictures for the preview."""
        self._tell(self._step, images)

    def losses(self) -> list[float]:
        """All losses; what is left of the steps is reported as done."""
        self._trace.flush()
        if self._step < self._steps:
            self._tell(self._steps)
        return self._trace.values

    def _tell(self, step: int, images: Tensor | None = None) -> None:
        self._report(
            StepReport(
                ATTACK, 0, self._before + step, self._all, self._trace.last, images, self._name
            )
        )


def without(
    model: DiffusionModel, off: Callable[[], AbstractContextManager[None]]
) -> DiffusionModel:
    """The same model as it is inside ``off()``, e.g. ``adapters.off``: the original."""

    def under(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def run(*args: Tensor) -> Tensor:
            with off():
                return function(*args)

        return run

    guided = model.guided
    return replace(
        model, denoise=under(model.denoise), sample=under(model.sample),
        guided=None if guided is None else lambda cfg: under(guided(cfg)),
    )  # fmt: skip


def evenly(levels: int, count: int) -> Iterator[int]:
    """``count`` of ``levels`` noise levels, evenly spaced, the least noise first."""
    count = min(count, levels)
    width = levels // count
    return iter(range(width // 2, levels, width)[:count])
