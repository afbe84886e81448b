"""What a run shows of itself on its way: where it stands, its newest curve, what was verified.

Plain data of bounded size, for a page beside the run; :mod:`~.lines` is the same for a log.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from ..method.erasure import LAST_LOOK
from ..types import StepReport, Verdict
from .course import Course

_POINTS = 120  # of a curve
_LOOKS = 200  # verifications that are told of
_PAIRS = 12  # of them with pictures: the first and the newest


@dataclass(frozen=True)
class Look:
    """A verification as it is shown.

    Attributes:
        about: whose it is, where one run does several things (:class:`~.plan.Part`).
        name: ``"round 2"`` or ``"last look"``.
        score, threshold, there: what it said of the highest score.
        pair: two pictures of that score, what the reference shows and, from the same noise, what
            was mined; None once there are too many.
    """

    about: str
    name: str
    score: float
    threshold: float
    there: bool
    pair: tuple[Any, Any] | None

    @property
    def figures(self) -> dict[str, Any]:
        """All but the pictures."""
        return {
            "about": self.about, "name": self.name, "score": round(self.score, 4),
            "threshold": round(self.threshold, 4), "there": self.there,
        }  # fmt: skip


@dataclass(frozen=True)
class Curve:
    """The loss of one stretch of training.

    Attributes:
        title: what is trained.
        steps: how many steps there will be.
        losses: of each step so far; it may grow.
    """

    title: str
    steps: int
    losses: Sequence[float]

    def told(self) -> dict[str, Any]:
        """Its title, its length, and means over equal numbers of steps: last step, mean."""
        losses = list(self.losses)
        every = max(1, math.ceil(max(self.steps, len(losses)) / _POINTS))
        blocks = [losses[i : i + every] for i in range(0, len(losses), every)]
        points = [
            (i * every + len(block), float(f"{sum(block) / len(block):.4g}"))
            for i, block in enumerate(blocks)
        ]
        return {"title": self.title, "steps": self.steps, "points": points}


class Board:
    """A report that keeps what is shown of a run.

    Args:
        course: follows the same reports, before this one.
        picture: what is kept of a picture ``[H, W, 3]`` in 0..1.
        looks: verifications of before.
    """

    def __init__(
        self, course: Course, picture: Callable[[Tensor], Any], looks: Iterable[Look] = ()
    ):
        self._course, self._picture, self._looks = course, picture, list(looks)
        self._curve: Curve | None = None
        self._report: StepReport | None = None

    def __call__(self, report: StepReport) -> None:
        if report.verdict is not None:
            self._looked(report, report.verdict)
        if not report.steps:
            return
        self._report = report
        if report.losses:
            self._curve = Curve(self._title(report), report.steps, report.losses)

    @property
    def looks(self) -> tuple[Look, ...]:
        """Verifications in their order."""
        return tuple(self._looks)

    def told(self) -> dict[str, Any]:
        """Everything but pictures, as JSON has it."""
        report, part = self._report, self._course.part
        if report is None:
            where = {"title": "", "about": "", "step": 0, "steps": 0, "unit": "", "left": ""}
        else:
            where = {
                "title": self._title(report), "about": self._about, "step": report.step,
                "steps": report.steps, "unit": part.unit if part else "step",
                "left": self._course.time_left(),
            }  # fmt: skip
        curve = None if self._curve is None else self._curve.told()
        return {**where, "share": round(self._course.share, 4), "curve": curve}

    @property
    def _about(self) -> str:
        part = self._course.part
        return part.about if part else ""

    def _title(self, report: StepReport) -> str:
        part = self._course.part
        if part is not None and part.answers(report):
            return part.title
        return f"round {report.round} · {report.stage}" if report.round else report.stage

    def _looked(self, report: StepReport, verdict: Verdict) -> None:
        best = max(range(len(verdict.scores)), key=lambda i: verdict.scores[i])
        last = LAST_LOOK in (report.part, self._title(report).partition(" · ")[0])
        look = Look(
            self._about, LAST_LOOK if last else f"round {report.round}", verdict.score,
            verdict.threshold, verdict.verified,
            (self._picture(verdict.reference[best]), self._picture(verdict.target[best])),
        )  # fmt: skip
        self._looks = bounded([*self._looks, look])


def bounded(looks: list[Look]) -> list[Look]:
    """The newest looks, pictures only of the first and of the newest of them."""
    looks = looks[-_LOOKS:]
    more = len(looks) - _PAIRS
    return [replace(look, pair=None) if 0 < i <= more else look for i, look in enumerate(looks)]
