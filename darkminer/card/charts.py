"""The card's charts, as SVG within the page: bars with intervals, shares by step, losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..attacks.effects import Point
from ..attacks.red_team import Row
from ..judge.evaluate import Proportion
from ..markup import Markup, tag
from .card import interval, share

_WIDTH, _BAR = 240, 15
_PLOT_WIDTH, _PLOT_HEIGHT, _LEFT, _FOOT = 250, 96, 44, 18
_POINTS = 200  # of a curve, at most


def bars(shares: Mapping[str, Proportion]) -> Markup:
    """A bar for each column with its interval as a whisker; the whole width is all pictures."""
    drawn = []
    for i, (column, p) in enumerate(shares.items()):
        top, (low, high) = i * _BAR + 2, p.interval
        middle = top + _BAR / 2 - 2
        drawn += [
            tag("rect", x=0, y=top, width=_WIDTH, height=_BAR - 4, class_="ground"),
            tag("rect", tag("title", f"{column}: {share(p)}, {interval(p)}"), x=0, y=top,
                width=_number(p.value * _WIDTH), height=_BAR - 4, class_=f"bar {column}"),
            _line(low * _WIDTH, middle, high * _WIDTH, middle, "whisker"),
            _line(low * _WIDTH, middle - 3, low * _WIDTH, middle + 3, "whisker"),
            _line(high * _WIDTH, middle - 3, high * _WIDTH, middle + 3, "whisker"),
        ]  # fmt: skip
    return _svg(drawn, _WIDTH, len(shares) * _BAR)


def by_step(rows: Mapping[str, Row]) -> Markup | None:
    """Share of prompts whose concept had been seen by each step, a line a column."""
    lines = [(column, row.by_step()) for column, row in rows.items()]
    lines = [(column, points) for column, points in lines if points]
    if not lines:
        return None
    last = max(points[-1][0] for _, points in lines) or 1
    drawn = [*_frame("0", "1", f"step {last}")]
    for column, points in lines:
        steps = [step for step, _ in points]
        values = [p.value for _, p in points]
        if steps[-1] < last:  # it stopped at success, which stays one
            steps, values = [*steps, last], [*values, values[-1]]
        drawn.append(_curve([s / last for s in steps], values, f"line {column}"))
    return _plot(drawn)


def by_strength(points: Sequence[Point]) -> Markup:
    """Share of pictures by strength of the LoRA, from 0 to the largest, with intervals."""
    most = max(point.strength for point in points)
    drawn = [*_frame("0", "1", f"strength {most:g}")]
    for point in points:
        x = _LEFT + point.strength / most * _PLOT_WIDTH
        low, high = (6 + (1 - bound) * _PLOT_HEIGHT for bound in point.ratio.interval)
        drawn.append(_line(x, low, x, high, "whisker"))
    across = [point.strength / most for point in points]
    drawn.append(_curve(across, [point.ratio.value for point in points], "line after"))
    return _plot(drawn)


def losses(curves: Sequence[tuple[bool, Sequence[float]]]) -> Markup | None:
    """Losses step by step: of attempts that got the concept, and of such that did not."""
    if not curves:
        return None
    thin = [(hit, values[:: -(-len(values) // _POINTS)]) for hit, values in curves]
    high = max(max(values) for _, values in thin)
    low = min(min(values) for _, values in thin)
    room = high - low or 1.0
    longest = max(len(values) for _, values in curves)
    drawn = [*_frame(_short(low), _short(high), f"step {longest}")]
    for (hit, values), (_, whole) in zip(thin, curves, strict=True):
        reach = len(whole) / longest
        at = [reach * i / max(1, len(values) - 1) for i in range(len(values))]
        drawn.append(_curve(at, [(v - low) / room for v in values], "got" if hit else "missed"))
    return _plot(drawn)


def _frame(low: str, high: str, last: str) -> list[Markup]:
    """Axes with what stands at their ends."""
    right, foot = _LEFT + _PLOT_WIDTH, 6 + _PLOT_HEIGHT
    return [
        tag("rect", x=_LEFT, y=6, width=_PLOT_WIDTH, height=_PLOT_HEIGHT, class_="ground"),
        tag("text", high, x=_LEFT - 5, y=14, text_anchor="end"),
        tag("text", low, x=_LEFT - 5, y=foot, text_anchor="end"),
        tag("text", last, x=right, y=foot + 14, text_anchor="end"),
    ]


def _curve(across: Sequence[float], up: Sequence[float], kind: str) -> Markup:
    """A line through points of 0..1 each."""
    points = " ".join(
        f"{_number(_LEFT + x * _PLOT_WIDTH)},{_number(6 + (1 - y) * _PLOT_HEIGHT)}"
        for x, y in zip(across, up, strict=True)
    )
    return tag("polyline", points=points, class_=kind)


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    ends = {"x1": x1, "y1": y1, "x2": x2, "y2": y2}
    return tag("line", **{k: _number(v) for k, v in ends.items()}, class_=kind)


def _plot(drawn: Sequence[Markup]) -> Markup:
    return _svg(drawn, _LEFT + _PLOT_WIDTH + 6, 6 + _PLOT_HEIGHT + _FOOT)


def _svg(drawn: Sequence[Markup], width: int, height: int) -> Markup:
    return tag(
        "svg", *drawn, viewBox=f"0 0 {width} {height}", width=width, height=height, role="img"
    )


def _short(loss: float) -> str:
    return f"{loss:.0f}" if 1e3 <= abs(loss) < 1e6 else f"{loss:.2g}"


def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
