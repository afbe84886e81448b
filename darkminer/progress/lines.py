"""A report in lines of text, for a log or a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable

from ..types import StepReport
from .course import Course
from .plan import Plan

_SECONDS_BETWEEN_LINES = 20.0


class Lines:
    """A report that writes a line where a part of the plan begins, and every 20 seconds within.

    Args:
        write: takes a line.
        plan: all that is to come; what it has not foreseen gets lines, too.
    """

    def __init__(
        self,
        write: Callable[[str], object],
        plan: Plan | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.course = Course(plan, clock)
        self._write, self._clock = write, clock
        self._at: tuple[str, int, str] | None = None
        self._last = clock()

    def __call__(self, report: StepReport) -> None:
        if not report.steps:
            return
        opens, now = self.course.take(report), self._clock()
        key = (report.stage, report.round, report.part)
        if opens or key != self._at or now - self._last >= _SECONDS_BETWEEN_LINES:
            self._at, self._last = key, now
            self._write(self.course.words(report))
