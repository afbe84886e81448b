"""The report card as a picture: verdict, bars with intervals, a few pictures, its limits."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from ...darkminer.attacks.effects import Effects
from ...darkminer.card.card import ABOUT, AFTER, BEFORE, CONTROL, Card, interval, sentences, share
from ...darkminer.card.card import some as shown_of
from ...darkminer.card.limits import limits
from ...darkminer.judge.evaluate import Proportion
from ..erase.page import (
    BAD,
    FAINT,
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
_COLOURS = {BEFORE: "#b4bac3", AFTER: "#6f9bd8", CONTROL: "#d9b25f"}
_NAME, _BAR, _LINE = 150, 290, 19  # units: an attack's name, its bars, a line of figures
_SIDE = 62  # of a picture


def card_picture(card: Card) -> Tensor:
    """``[1, H, W, 3]`` in 0..1."""
    blocks = [_header(card), _key(card)]
    blocks += [_row(card, name) for name in card.names()]
    if card.effects is not None:
        blocks.append(_strengths(card.effects))
    if card.pictures:
        blocks += [_shots(card, name) for name in card.names()]
    blocks += [_limits(card), _foot(card)]
    return stacked(blocks, WIDTH)


def _header(card: Card) -> Block:
    colour = BAD if card.there else GOOD
    pill = measured(card.verdict, 15) + 28
    name = wrapped(card.concept, 30, _INSIDE - pill - 24, 2)
    lines = [line for said in sentences(card) for line in wrapped(said, 14, _INSIDE, 3)]
    below = 52 + 36 * len(name)

    def draw(page: Page, top: float) -> None:
        page.text(MARGIN, top + 26, "REPORT CARD OF AN ERASURE", 11, MUTED, strong=True)
        for i, line in enumerate(name):
            page.text(MARGIN, top + 44 + 36 * i, line, 30, INK, strong=True)
        right = WIDTH - MARGIN
        page.box(right - pill, top + 46, right, top + 76, TINTS[colour], 15)
        page.text(right - pill / 2, top + 61, card.verdict, 15, colour, anchor="mm", strong=True)
        for i, line in enumerate(lines):
            page.text(MARGIN, top + below + 20 * i, line, 14, INK)

    return Block(below + 20 * len(lines) + 14, draw)


def _key(card: Card) -> Block:
    def draw(page: Page, top: float) -> None:
        page.text(MARGIN, top, "Attacks", 15, INK, strong=True)
        left = MARGIN
        for column in card.columns:
            page.box(left, top + 29, left + 9, top + 38, _COLOURS[column])
            said = f"{column}: {ABOUT[column]}"
            page.text(left + 14, top + 26, said, 12, MUTED)
            left += measured(said, 12) + 32

    return Block(54, draw)


def _row(card: Card, name: str) -> Block:
    """An attack's share on each model, with its interval."""
    rows = card.rows(name)
    title = wrapped(card.title(name), 14, _NAME - 12, 2)
    height = max(_LINE * len(rows), _LINE * len(title)) + 14

    def draw(page: Page, top: float) -> None:
        page.line([(MARGIN, top), (WIDTH - MARGIN, top)], RULE)
        for i, line in enumerate(title):
            page.text(MARGIN, top + 7 + _LINE * i, line, 14, INK, strong=True)
        for i, (column, row) in enumerate(rows.items()):
            _bar(page, top + 7 + _LINE * i, column, row.success)

    return Block(height, draw)


def _strengths(effects: Effects) -> Block:
    """The prompts as they are at each strength of the LoRA, and the drift of others."""
    title = wrapped("Strength of the LoRA", 14, _NAME - 44, 3)
    drift = effects.drift
    said = (
        f"Drift of {len(drift.prompts)} unrelated prompts: {drift.value:.3f} "
        "(1: as much as the model is wrong by itself)"
    )
    rows = max(len(effects.strengths), len(title))

    def draw(page: Page, top: float) -> None:
        page.line([(MARGIN, top), (WIDTH - MARGIN, top)], RULE)
        for i, line in enumerate(title):
            page.text(MARGIN, top + 7 + _LINE * i, line, 14, INK, strong=True)
        for i, point in enumerate(effects.strengths):
            y = top + 7 + _LINE * i
            page.text(MARGIN + _NAME - 12, y, f"{point.strength:g}", 13, MUTED, anchor="ra")
            _bar(page, y, AFTER, point.ratio)
        page.text(MARGIN + _NAME, top + 11 + _LINE * rows, said, 13, INK)

    return Block(_LINE * (rows + 1) + 20, draw)


def _bar(page: Page, top: float, column: str, p: Proportion) -> None:
    left = MARGIN + _NAME
    low, high = (left + _BAR * v for v in p.interval)
    page.box(left, top + 3, left + _BAR, top + 14, TINTS[NEITHER])
    if p.hits:
        page.box(left, top + 3, left + _BAR * p.value, top + 14, _COLOURS[column])
    page.line([(low, top + 8.5), (high, top + 8.5)], INK, 0.5)
    for end in (low, high):
        page.line([(end, top + 5), (end, top + 12)], INK, 0.5)
    page.text(left + _BAR + 14, top, share(p), 13, INK)
    page.text(left + _BAR + 104, top, f"95 %: {interval(p)}", 13, MUTED)


def _shots(card: Card, name: str) -> Block:
    """A few pictures of each model; red rims where the detector sees the concept."""
    rows = card.rows(name)
    each = (_INSIDE - _NAME) / len(rows)
    count = min(card.pictures, int((each - 12) // (_SIDE + 6)))

    def draw(page: Page, top: float) -> None:
        page.line([(MARGIN, top), (WIDTH - MARGIN, top)], RULE)
        for i, line in enumerate(wrapped(card.title(name), 14, _NAME - 12, 2)):
            page.text(MARGIN, top + 10 + _LINE * i, line, 14, INK, strong=True)
        for j, (column, row) in enumerate(rows.items()):
            left = MARGIN + _NAME + j * each
            page.text(left, top + _SIDE + 17, column, 12, MUTED)
            for k, i in enumerate(shown_of(row, count)):
                x, rim = left + k * (_SIDE + 6), BAD if row.sight.hits[i] else GOOD
                page.box(x - 2, top + 10, x + _SIDE + 2, top + _SIDE + 14, rim, 2)
                page.picture(x, top + 12, _SIDE, row.pictures[i])

    return Block(_SIDE + 40, draw)


def _limits(card: Card) -> Block:
    """What the card does not say."""
    lines = [*_bulleted(card)]

    def draw(page: Page, top: float) -> None:
        page.line([(MARGIN, top + 4), (WIDTH - MARGIN, top + 4)], RULE)
        page.text(MARGIN, top + 18, "What this card does not say", 15, INK, strong=True)
        for i, (first, line) in enumerate(lines):
            y = top + 46 + 18 * i
            if first:
                page.dot(MARGIN + 3, y + 9, 2, FAINT, rim=False)
            page.text(MARGIN + 14, y, line, 13, INK)

    return Block(54 + 18 * len(lines), draw)


def _bulleted(card: Card) -> Iterator[tuple[bool, str]]:
    for sentence in limits(card):
        for i, line in enumerate(wrapped(sentence, 13, _INSIDE - 20, 4)):
            yield i == 0, line


def _foot(card: Card) -> Block:
    """Whose judgement it is, on how many prompts, by which versions."""
    protocol = card.after.protocol
    told = ", ".join(f"{k} {v}" for k, v in (protocol.versions or {}).items())
    said = f"{protocol.detector}; {len(protocol.prompts)} prompts, seed {protocol.seed}, "
    lines = wrapped(f"{said}{protocol.effort} attacks; {told}", 12, _INSIDE, 4)

    def draw(page: Page, top: float) -> None:
        for i, line in enumerate(lines):
            page.text(MARGIN, top + 8 + 17 * i, line, 12, MUTED)

    return Block(17 * len(lines) + 8 + MARGIN, draw)
