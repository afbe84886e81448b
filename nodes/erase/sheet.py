"""A page of pictures: a row for each prompt, a group of columns for each strength."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from .page import INK, MUTED, RULE, Block, Page, stacked, wrapped

MARGIN, GAP, BETWEEN = 32, 4, 18
_LARGEST, _SMALLEST, _WIDEST = 200, 56, 1400  # units of a picture's side, and of a page's width


def sheet(prompts: Sequence[str], columns: Mapping[str, Tensor], seed: int) -> Tensor:
    """``[1, H, W, 3]`` in 0..1.

    Args:
        columns: name -> pictures ``[P * n, H, W, 3]`` of P prompts, n of each.
        seed: of the first picture of each prompt.
    """
    each = len(next(iter(columns.values()))) // len(prompts)
    room = _WIDEST - 2 * MARGIN - (len(columns) - 1) * BETWEEN
    side = max(_SMALLEST, min(_LARGEST, room // (len(columns) * each) - GAP))
    group = each * (side + GAP) - GAP
    width = 2 * MARGIN + len(columns) * (group + BETWEEN) - BETWEEN
    lefts = [MARGIN + i * (group + BETWEEN) for i in range(len(columns))]

    def heads(page: Page, top: float) -> None:
        page.text(MARGIN, top + 22, "BEFORE AND AFTER", 11, MUTED, strong=True)
        for left, name in zip(lefts, columns, strict=True):
            for i, line in enumerate(wrapped(name, 15, group, 1)):
                page.text(left, top + 44 + 18 * i, line, 15, INK, strong=True)

    def row(number: int, prompt: str) -> Block:
        lines = wrapped(prompt, 14, width - 2 * MARGIN, 2)

        def draw(page: Page, top: float) -> None:
            page.line([(MARGIN, top), (width - MARGIN, top)], RULE)
            for i, line in enumerate(lines):
                page.text(MARGIN, top + 10 + 19 * i, line, 14, INK)
            below = top + 16 + 19 * len(lines)
            for left, pictures in zip(lefts, columns.values(), strict=True):
                for i in range(each):
                    at = left + i * (side + GAP)
                    page.picture(at, below, side, pictures[number * each + i])

        return Block(side + 32 + 19 * len(lines), draw)

    last = seed + each - 1
    seeds = f"seed {seed}" if each == 1 else f"seeds {seed} to {last}, from left to right"

    def foot(page: Page, top: float) -> None:
        page.text(MARGIN, top + 6, f"Each row from the same noise: {seeds}.", 12, MUTED)

    rows = [row(i, prompt) for i, prompt in enumerate(prompts)]
    return stacked([Block(72, heads), *rows, Block(40, foot)], width)
