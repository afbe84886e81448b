"""Where a run stands in its plan: how much is done, how long the rest will take, in words.

What a plan guesses is replaced by what the run measures: a stage's second round is expected to take
as long as its first.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from ..types import StepReport
from .plan import Part, Plan
from .words import about, loss_text

_OWN_PACE = 0.05  # share of a part from which its own pace counts
_KNOWN = 0.01  # share of all work from which it is said how long the rest takes


class Course:
    """A run on its way through a plan.

    Args:
        clock: seconds that only grow.
    """

    def __init__(self, plan: Plan | None = None, clock: Callable[[], float] = time.monotonic):
        plan = plan or Plan()
        self._parts, self._further = list(plan.parts), plan.further
        self._end = len(self._parts)  # up to where it is said how long the rest takes
        self._clock, self._paces = clock, _Paces()
        self._at, self._stretch = -1, _Stretch(clock(), 0.0)
        self._last = self._base = self._share = 0.0
        self._step = 0

    @property
    def share(self) -> float:
        """How much of the plan is done, 0 to 1; it never falls."""
        return self._share

    @property
    def part(self) -> Part | None:
        """Where the run is; None before its first report."""
        return self._parts[self._at] if self._at >= 0 else None

    def take(self, report: StepReport) -> bool:
        """Follow a report; returns whether it opens another part."""
        if not report.steps:
            return False
        place, now = self._place(report), self._clock()
        done = report.step / max(1, report.steps)
        if place is not None:
            self._enter(place, now, done)
        if self._belongs(report):
            self._stretch.reach(now, done)
            # Worth as it was known when the part began: a pace that changes moves nothing back.
            ahead, *rest = map(self._paces.seconds, self._parts[self._at :])
            moved = done * ahead / (ahead + sum(rest))
            self._share = max(self._share, self._base + (1.0 - self._base) * moved)
        self._last, self._step = now, report.step
        return place is not None

    def expect(self, pace: float) -> None:
        """Begin with a guess of the seconds that a row through the network takes."""
        self._paces = _Paces(cost=_KNOWN * self._total, taken=pace * _KNOWN * self._total)

    @property
    def _total(self) -> float:
        return sum(p.cost for p in self._parts if p.unit != "prompt")

    def ahead(self) -> str:
        """How long the whole plan takes, in words; empty: unknown."""
        seconds = sum(map(self._paces.seconds, self._parts[: self._end]))
        if not self._paces.cost:
            return ""
        unsure = any(not p.sure for p in self._parts) and not self._further
        return f"{'at most ' * unsure}{about(seconds)}{' a round' * bool(self._further)}"

    def left(self) -> float | None:
        """Seconds until the plan ends, or the round where rounds have no end; None: unknown."""
        part = self.part
        if part is None:
            return None
        paces = self._paces.with_(part, self._stretch)
        if paces.cost < _KNOWN * self._total:
            return None
        rest = sum(paces.seconds(p) for p in self._parts[self._at + 1 : self._end])
        return rest + self._stretch.left(paces.seconds(part))

    def words(self, report: StepReport) -> str:
        """A report in one line for a person."""
        part = self.part if self._belongs(report) else None
        said = [part.about, part.title] if part else [_plainly(report)]
        if report.steps > 1:
            said.append(f"{part.unit if part else 'step'} {report.step} of {report.steps}")
        if report.loss is not None:
            said.append(f"loss {loss_text(report.loss)}")
        if part:
            said.append(self.time_left())
        return " · ".join(filter(None, said))

    def time_left(self) -> str:
        """The same as :meth:`left` for a person; empty where it is unknown."""
        part, left = self.part, self.left()
        if part is None or left is None:
            return ""
        if part.about in self._further:
            return f"{about(left)} to the end of round {self._parts[self._end - 1].round}"
        unsure = any(not p.sure for p in self._parts[self._at + 1 :])
        return f"{'at most ' if unsure else ''}{about(left)} left"

    def _belongs(self, report: StepReport) -> bool:
        part = self.part
        return part is not None and part.answers(report)

    def _place(self, report: StepReport) -> int | None:
        """The place in the plan that a report opens; None where it opens none.

        Beyond what is being done now only the next thing's beginning is looked at: the same stages
        come again for every concept.
        """
        if self._belongs(report) and report.step >= self._step:
            return None
        here = self.part.about if self.part else self._parts[0].about if self._parts else ""
        before = here
        for place in range(self._at + 1, len(self._parts)):
            part = self._parts[place]
            begins = part.about != before
            if part.answers(report) and (part.about == here or begins):
                return place
            before = part.about
        return None

    def _enter(self, place: int, now: float, done: float) -> None:
        """Leave the part that the run was in, with what it has taught, for another."""
        before, part = self.part, self._parts[place]
        if before is not None:
            self._paces = self._paces.with_(before, self._stretch)
            self._stretch = _Stretch(self._last, 0.0)
        else:  # what came before the first report was no work of this part
            self._stretch = _Stretch(now, done)
        self._at, self._base = place, self._share
        if part.about not in self._further:
            self._end = len(self._parts)
            return
        own = [i for i in range(place, len(self._parts)) if self._parts[i].about == part.about]
        newest, end = self._parts[own[-1]].round, own[-1] + 1
        if before is None or before.about != part.about or part.round == newest:
            self._end = end
        if part.round == newest:  # there is always one more round on the bar
            self._parts[end:end] = self._further[part.about](newest + 1)


class _Stretch:
    """How far a part is, and how fast it goes.

    Args:
        start: when it began; first: what was done of it by then.
    """

    def __init__(self, start: float, first: float):
        self._start, self._first = start, first
        self.taken, self._done = 0.0, first

    @property
    def measured(self) -> float:
        """The share of the part that ``taken`` seconds were measured on."""
        return self._done - self._first

    def reach(self, now: float, done: float) -> None:
        self.taken, self._done = now - self._start, max(self._done, done)

    def left(self, expected: float) -> float:
        """Seconds that are left, of ``expected`` in all until it has a pace of its own."""
        if self.measured < _OWN_PACE:
            return expected * (1.0 - self._done)
        return self.taken * (1.0 - self._done) / self.measured


_Kinds = dict[tuple[str, str], float]


class _Paces:
    """Seconds per cost, of each kind of part and of all together.

    Prompts are left out: a text encoder says nothing of the network.
    """

    def __init__(self, kinds: _Kinds | None = None, taken: float = 0.0, cost: float = 0.0):
        self._kinds: _Kinds = kinds or {}
        self._taken, self.cost = taken, cost

    def with_(self, part: Part, stretch: _Stretch) -> _Paces:
        """What was known, and what a part has shown."""
        cost = part.cost * stretch.measured
        if not cost or part.unit == "prompt":
            return self
        kinds = self._kinds
        if stretch.measured >= _OWN_PACE:
            kinds = {**kinds, part.kind: stretch.taken / cost}
        return _Paces(kinds, self._taken + stretch.taken, self.cost + cost)

    def seconds(self, part: Part) -> float:
        """What a part will take; before anything is known, its cost."""
        overall = self._taken / self.cost if self._taken else 1.0
        return part.cost * self._kinds.get(part.kind, overall)


def _plainly(report: StepReport) -> str:
    """A report that no plan has foreseen."""
    where = f"round {report.round}" if report.round else ""
    return " · ".join(filter(None, (where, report.stage, report.part)))
