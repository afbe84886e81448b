"""The report picture of a run: what came of it, scores round by round, and what was found."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import Tensor

from ...darkminer.method.erasure import Erasure
from ...darkminer.method.outcome import Outcome
from ...darkminer.progress.words import duration
from ...darkminer.types import Verdict
from .chart import Look, chart
from .page import (
    BAD,
    GOOD,
    INK,
    MUTED,
    NEITHER,
    RULE,
    TINTS,
    Block,
    Page,
    measured,
    stacked,
    wrapped,
)

WIDTH, MARGIN = 800, 32
_INSIDE = WIDTH - 2 * MARGIN
_TEXT = 184  # of a round, left of its pictures
_PAIRS, _SIDES = 3, {1: 130, 2: 116, 3: 86}  # pairs of pictures -> side of each
_FEW = 4  # rounds whose pictures may be larger than the smallest
_FIRST, _NEWEST = 3, 6  # rounds that are shown where there are more


def report_picture(done: Erasure) -> Tensor:
    """``[1, H, W, 3]`` in 0..1: title, verdict, a chart of scores, the rounds, the last sentence.

    A round shows its three highest scores: what the anchor shows and, from the same noise, what
    mining has found. The last verification of a run whose rounds were spent has a row of its own.
    """
    looks = looks_of(done)
    blocks = [
        _header(done, looks),
        *_charts(done, looks),
        *_rows(done, looks),
        _sentence(done.outcome),
    ]
    return stacked(blocks, WIDTH)


def looks_of(done: Erasure) -> list[Look]:
    """Every verification in the run's order; those of earlier runs have scores and no pictures."""
    first = done.embeddings.round - len(done.verdicts) + 1
    before = [r for r in done.embeddings.history if r.round < first]
    looks = [Look(str(r.round), r.scores, r.threshold, r.verified) for r in before]
    for i, verdict in enumerate(done.verdicts, start=first):
        looks.append(_look(str(i), f"Round {i}", verdict, done.seconds.get(f"round {i}")))
    if done.last is not None:
        looks.append(_look("last", "Last look", done.last, done.seconds.get("last look")))
    return looks


def _look(name: str, title: str, verdict: Verdict, seconds: float | None) -> Look:
    return Look(name, verdict.scores, verdict.threshold, verdict.verified, title, verdict, seconds)


def _colour(outcome: Outcome) -> str:
    return BAD if outcome.there else NEITHER if outcome.empty else GOOD


def _good(done: Erasure) -> str:
    """The colour of what was not found: no success where nothing was erased."""
    return NEITHER if done.outcome.empty else GOOD


def _header(done: Erasure, looks: list[Look]) -> Block:
    """What was erased, what came of it, and how long it took."""
    verdict = done.outcome.verdict if looks else "not verified"
    colour = _colour(done.outcome) if looks else NEITHER
    pill = measured(verdict, 15) + 28
    name = wrapped(done.outcome.concept or "the concept", 30, _INSIDE - pill - 24, 2)
    height = 82 + 36 * len(name)

    def draw(page: Page, top: float) -> None:
        page.text(MARGIN, top + 26, "ERASURE REPORT", 11, MUTED, strong=True)
        for i, line in enumerate(name):
            page.text(MARGIN, top + 44 + 36 * i, line, 30, INK, strong=True)
        right = WIDTH - MARGIN
        page.box(right - pill, top + 46, right, top + 76, TINTS[colour], 15)
        page.text(right - pill / 2, top + 61, verdict, 15, colour, anchor="mm", strong=True)
        page.text(MARGIN, top + 50 + 36 * len(name), " · ".join(_facts(done)), 14, MUTED)

    return Block(height, draw)


def _facts(done: Erasure) -> list[str]:
    rounds, seconds = len(done.verdicts), done.seconds
    facts = [f"{rounds} round{'' if rounds == 1 else 's'}"]
    if before := done.embeddings.round - rounds:
        facts[0] += f" after {before} of earlier runs"
    if seconds:
        facts.append(f"{duration(sum(seconds.values()))} in all")
    if seconds.get("opening", 0) >= 1:
        facts.append(f"{duration(seconds['opening'])} before the first round")
    return facts


def _charts(done: Erasure, looks: list[Look]) -> Iterable[Block]:
    if looks:
        height, draw = chart(looks, MARGIN, _INSIDE, _good(done))
        yield Block(height, draw)


def _rows(done: Erasure, looks: list[Look]) -> Iterable[Block]:
    shown = [look for look in looks if look.verdict is not None]
    if not shown:
        yield Block(40, lambda page, top: page.text(
            MARGIN, top + 8, "No verification was run.", 15, MUTED
        ))  # fmt: skip
        return
    pairs = max(_pairs(look) for look in shown)
    size = pairs, _SIDES[pairs if len(shown) <= _FEW else _PAIRS]
    yield _heads(*size)
    more = len(shown) - _FIRST - _NEWEST
    for look in shown[:_FIRST] if more > 1 else shown:
        yield _row(done, look, *size)
    if more > 1:
        left_out = shown[_FIRST:-_NEWEST]
        yield _skipped(left_out[0].name, left_out[-1].name)
        for look in shown[-_NEWEST:]:
            yield _row(done, look, *size)


def _pairs(look: Look) -> int:
    assert look.verdict is not None
    return min(_PAIRS, len(look.verdict.target))


def _places(pairs: int, side: int) -> Iterator[tuple[float, float]]:
    """Where the two pictures of each pair begin."""
    free = _INSIDE - _TEXT - pairs * (2 * side + 2)
    for i in range(pairs):
        left = MARGIN + _TEXT + i * (2 * side + 2 + min(22, free / max(1, pairs - 1)))
        yield left, left + side + 2


def _heads(pairs: int, side: int) -> Block:
    """What the columns are."""

    def draw(page: Page, top: float) -> None:
        page.text(MARGIN, top + 4, "Rounds", 15, INK, strong=True)
        words = "on the same noise: what the anchor prompt shows, what mining found, and its score"
        page.text(MARGIN + measured("Rounds", 15) + 12, top + 6, words, 12, MUTED)
        for left, right in _places(pairs, side):
            page.text(left, top + 34, "anchor", 12, MUTED)
            page.text(right, top + 34, "mined", 12, MUTED)

    return Block(54, draw)


def _skipped(first: str, last: str) -> Block:
    words = f"rounds {first} to {last} are in the chart only"

    def draw(page: Page, top: float) -> None:
        page.line([(MARGIN, top), (WIDTH - MARGIN, top)], RULE)
        page.text(WIDTH / 2, top + 20, words, 13, MUTED, anchor="mm")

    return Block(40, draw)


def _row(done: Erasure, look: Look, pairs: int, side: int) -> Block:
    """A round: words on the left, its highest scores' pictures on the right."""
    verdict = look.verdict
    assert verdict is not None
    order = sorted(range(len(verdict.scores)), key=lambda i: -verdict.scores[i])[:pairs]
    others = len(verdict.scores) - len(order)
    lines = [f"score {verdict.score:.2f}, threshold {verdict.threshold:.2f}"]
    lines += [duration(look.seconds)] if look.seconds is not None else []
    lines += [f"{others} lower score{'s' if others > 1 else ''} not shown"] if others else []

    def draw(page: Page, top: float) -> None:
        page.line([(MARGIN, top), (WIDTH - MARGIN, top)], RULE)
        page.text(MARGIN, top + 12, look.title, 18, INK, strong=True)
        colour = BAD if look.there else _good(done)
        page.text(MARGIN, top + 37, _in_round(look, done), 14, colour, strong=True)
        for i, line in enumerate(lines):
            page.text(MARGIN, top + 59 + 19 * i, line, 13, MUTED)
        for i, (left, right) in zip(order, _places(pairs, side)):  # noqa: B905 - there may be fewer
            page.picture(left, top + 12, side, verdict.reference[i])
            page.picture(right, top + 12, side, verdict.target[i])
            score = verdict.scores[i]
            high = BAD if score > verdict.threshold else MUTED
            page.text(right, top + side + 16, f"{score:.2f}", 13, high)

    return Block(side + 40, draw)


def _in_round(look: Look, done: Erasure) -> str:
    if look.there:
        return "still there" if look.name == "last" else "still there: erased further"
    return "nothing found" if done.outcome.empty else "not found any more"


def _sentence(outcome: Outcome) -> Block:
    """What has come of it, in a sentence."""
    lines, colour = wrapped(outcome.words, 15, _INSIDE - 36, 5), _colour(outcome)
    height = 22 * len(lines) + 26

    def draw(page: Page, top: float) -> None:
        page.box(MARGIN, top + 6, WIDTH - MARGIN, top + 6 + height, TINTS[colour], 6)
        for i, line in enumerate(lines):
            page.text(MARGIN + 18, top + 19 + 22 * i, line, 15, INK)

    return Block(height + 6 + MARGIN, draw)
