"""The report's charts, as SVG within the page: scores against the threshold, losses."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..markup import Markup, tag
from ..progress.words import loss_text
from .told import Look

_WIDTH, _HEIGHT, _LEFT, _TOP, _FOOT = 640, 132, 44, 8, 22
_SMALL_WIDTH, _SMALL_HEIGHT = 220, 64
_POINTS = 160  # of a curve
_NAMES = 8  # looks that are named below the chart


def scores(looks: Sequence[Look]) -> Markup:
    """Every score of every verification, the highest joined by a line, the threshold dashed."""
    values = [s for look in looks for s in look.scores] + [look.threshold for look in looks]
    low, high = min(*values, 0.0), max(values)
    room = max(0.05, 0.08 * (high - low))
    low, high = low - room, high + room
    step = _WIDTH / len(looks)

    def x(i: int) -> float:
        return _LEFT + step * (i + 0.5)

    def y(score: float) -> float:
        return _TOP + _HEIGHT * (high - score) / (high - low)

    limits = [(left, y(look.threshold)) for i, look in enumerate(looks)
              for left in (_LEFT + step * i, _LEFT + step * (i + 1))]  # fmt: skip
    tops = [(x(i), y(look.score)) for i, look in enumerate(looks)]
    drawn = [
        tag("rect", x=_LEFT, y=_TOP, width=_WIDTH, height=_HEIGHT, class_="ground"),
        *(tag("text", f"{v:.2f}", x=_LEFT - 6, y=y(v) + 3, text_anchor="end")
          for v in (low + room, looks[-1].threshold, high - room)),
        _line(limits, "limit"), _line(tops, "tops"),
    ]  # fmt: skip
    every = -(-len(looks) // _NAMES)
    for i, look in enumerate(looks):
        drawn += [_dot(x(i), y(s), 2, "lower") for s in look.scores]
        drawn.append(_dot(x(i), y(look.score), 4, "there" if look.there else "gone"))
        if i % every == 0 or i == len(looks) - 1:
            name = tag("text", look.name, x=x(i), y=_TOP + _HEIGHT + 15, text_anchor="middle")
            drawn.append(name)
    words = f"Scores of {len(looks)} verifications, the last {looks[-1].score:.2f}"
    return _svg(drawn, _LEFT + _WIDTH + 2, _TOP + _HEIGHT + _FOOT, words)


def losses(title: str, values: Sequence[float]) -> Markup:
    """One stretch of training, as means over equal numbers of steps."""
    every = -(-len(values) // _POINTS)
    blocks = [values[i : i + every] for i in range(0, len(values), every)]
    means = [sum(block) / len(block) for block in blocks]
    low, high = min(means), max(means)
    span = high - low or 1.0
    across = _SMALL_WIDTH / max(1, len(means) - 1)
    at = [(across * i, 3 + (_SMALL_HEIGHT - 6) * (high - m) / span) for i, m in enumerate(means)]
    ground = tag("rect", x=0, y=0, width=_SMALL_WIDTH, height=_SMALL_HEIGHT, class_="ground")
    words = f"Loss of {title}: {loss_text(means[0])} at first, {loss_text(means[-1])} at the end"
    return _svg([ground, _line(at, "tops")], _SMALL_WIDTH, _SMALL_HEIGHT, words)


def _line(points: Iterable[tuple[float, float]], kind: str) -> Markup:
    return tag("polyline", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in points), class_=kind)


def _dot(x: float, y: float, radius: float, kind: str) -> Markup:
    return tag("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=radius, class_=kind)


def _svg(drawn: Sequence[Markup], width: float, height: float, words: str) -> Markup:
    return tag(
        "svg", tag("title", words), *drawn, viewBox=f"0 0 {width} {height}", width=width,
        height=height, role="img",
    )  # fmt: skip
