"""The chart of a report: every score of every round against the threshold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...darkminer.types import Verdict
from .page import BAD, FAINT, INK, MUTED, RULE, TINTS, Page, measured

_PLOT, _ABOVE, _BELOW, _AXIS = 132, 34, 40, 40
_DOTS = 40  # scores of a round that are drawn


@dataclass(frozen=True)
class Look:
    """A verification as a report shows it.

    Attributes:
        name: what it is called below the chart: a round's number, or ``"last"``.
        scores, threshold, there: what it said.
        title, verdict, seconds: for its row; a look of an earlier run has none.
    """

    name: str
    scores: tuple[float, ...]
    threshold: float
    there: bool
    title: str = ""
    verdict: Verdict | None = None
    seconds: float | None = None


def chart(
    looks: Sequence[Look], left: float, width: float, good: str
) -> tuple[int, Callable[[Page, float], None]]:
    """Height of the chart in units, and what draws it below a given line.

    Args:
        good: the colour of what is not above the threshold.
    """
    lowest = min(min(look.scores) for look in looks)
    highest = max(max(look.scores) for look in looks)
    limits = [look.threshold for look in looks]
    low, high = min(lowest, *limits, 0.0), max(highest, *limits)
    pad = max(0.05, 0.08 * (high - low))
    low, high = low - pad, high + pad
    inner, right = left + _AXIS, left + width
    step = (right - inner) / len(looks)

    def draw(page: Page, top: float) -> None:
        def y(score: float) -> float:
            return top + _ABOVE + _PLOT * (high - score) / (high - low)

        page.text(left, top + 6, "Scores", 15, INK, strong=True)
        words = "how much of the concept mining still gets; above the threshold it is still there"
        page.text(left + measured("Scores", 15) + 12, top + 8, words, 12, MUTED)
        page.text(left + width, top + 8, f"threshold {limits[-1]:.2f}", 12, MUTED, anchor="ra")
        limit = y(limits[-1])
        page.box(inner, top + _ABOVE, right, limit, TINTS[BAD])
        page.box(inner, limit, right, top + _ABOVE + _PLOT, TINTS[good])
        for score in _levels(low, high):
            page.text(inner - 8, y(score), f"{score:g}", 11, MUTED, anchor="rm")
        _thresholds(page, looks, inner, step, y)
        middle = [inner + step * (i + 0.5) for i in range(len(looks))]
        tops = [(x, y(max(look.scores))) for x, look in zip(middle, looks, strict=True)]
        page.line(tops, INK, 1.5)
        for x, look in zip(middle, looks, strict=True):
            for score in sorted(look.scores, reverse=True)[1:_DOTS]:
                page.dot(x, y(score), 2.0, FAINT, rim=False)
        for (x, height), look in zip(tops, looks, strict=True):
            page.dot(x, height, min(4.2, 1.5 + step / 6), BAD if look.there else good)
        _names(page, looks, middle, step, top + _ABOVE + _PLOT + 8)

    return _ABOVE + _PLOT + _BELOW, draw


def _thresholds(
    page: Page, looks: Sequence[Look], inner: float, step: float, y: Callable[[float], float]
) -> None:
    """A dashed line, which steps where runs were held against different thresholds."""
    start = 0
    for i in range(1, len(looks) + 1):
        if i == len(looks) or looks[i].threshold != looks[start].threshold:
            level = y(looks[start].threshold)
            page.dashes(inner + step * start, inner + step * i, level, MUTED)
            start = i


def _names(
    page: Page, looks: Sequence[Look], middle: Sequence[float], step: float, top: float
) -> None:
    """Rounds' numbers below the plot, as many as have room; the last look is always named."""
    every = max(1, -(-26 // max(1, int(step))))
    edge = middle[-1] + step / 2
    page.line([(middle[0] - step / 2, top - 8), (edge, top - 8)], RULE)
    last = "last look" if looks[-1].name == "last" else looks[-1].name
    room = edge - measured(last, 12) - 10
    for i, (x, look) in enumerate(zip(middle, looks, strict=True)):
        if look is looks[-1]:
            name = f"round {last}" if len(looks) <= 6 and look.name != "last" else last
            page.text(min(x, edge - measured(name, 12) / 2), top, name, 12, MUTED, anchor="ma")
        elif i % every == 0 and (x < room or every == 1):
            name = f"round {look.name}" if len(looks) <= 6 else look.name
            page.text(x, top, name, 12, MUTED, anchor="ma")


def _levels(low: float, high: float) -> list[float]:
    """Round numbers between two, three or so."""
    step = next(s for s in (0.05, 0.1, 0.2, 0.25, 0.5, 1.0) if (high - low) / s <= 4.5 or s == 1.0)
    first = -(-low // step)
    return [round(step * (first + i), 4) for i in range(12) if step * (first + i) <= high]
