"""The losses of a run: as a LOSS_MAP, and as a page of small curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ...darkminer.progress.words import fallen
from .page import INK, MUTED, NEITHER, TINTS, Block, Page, stacked

WIDTH, MARGIN = 800, 32
_TRAINS = ("circumvent", "chase", "repair")
"""Stages that train the LoRA; the others search."""

_ACROSS, _GAP, _PLOT, _HEIGHT = 2, 24, 88, 128
_POINTS = 240  # of a curve, each a mean over as many steps as it takes


def loss_map(losses: Mapping[str, Sequence[float]]) -> dict[str, list[Tensor]]:
    """Name of each stage and round -> loss of each step.

    ``loss``, which the host's *Plot Loss Graph* plots, joins what trained the LoRA, in its order.
    """
    made = {name: [torch.tensor(v) for v in values] for name, values in losses.items()}
    trained = [v for name, values in made.items() if name.split()[0] in _TRAINS for v in values]
    return {"loss": trained, **made}


def curves_picture(losses: Mapping[str, Sequence[float]], concept: str) -> Tensor:
    """``[1, H, W, 3]`` in 0..1: a curve for each stage and round that has one."""
    shown = [(name, values) for name, values in losses.items() if len(values) > 1]
    rows = [shown[i : i + _ACROSS] for i in range(0, len(shown), _ACROSS)]
    return stacked([_header(concept, len(shown)), *map(_row, rows), Block(MARGIN, _nothing)], WIDTH)


def _nothing(page: Page, top: float) -> None:
    """The margin at the foot."""


def _header(concept: str, count: int) -> Block:
    title = f"Losses of erasing {concept}" if concept else "Losses"

    def draw(page: Page, top: float) -> None:
        page.text(MARGIN, top + 26, title[:60], 20, INK, strong=True)
        said = "each stage's loss, step by step" if count else "nothing was trained in this run"
        page.text(MARGIN, top + 56, said, 13, MUTED)

    return Block(92, draw)


def _row(stages: Sequence[tuple[str, Sequence[float]]]) -> Block:
    wide = (WIDTH - 2 * MARGIN - _GAP * (_ACROSS - 1)) / _ACROSS

    def draw(page: Page, top: float) -> None:
        for i, (name, values) in enumerate(stages):
            _curve(page, MARGIN + i * (wide + _GAP), top, wide, name, values)

    return Block(_HEIGHT, draw)


def _curve(
    page: Page, left: float, top: float, wide: float, name: str, values: Sequence[float]
) -> None:
    """Name, what the loss came to, and the curve from its lowest to its highest mean."""
    means = thinned(values)
    low, high = min(means), max(means)
    span = high - low or 1.0
    page.text(left, top, name, 14, INK, strong=True)
    page.text(left + wide, top + 1, fallen(values), 12, MUTED, anchor="ra")
    page.box(left, top + 22, left + wide, top + 22 + _PLOT, TINTS[NEITHER])
    across = wide / max(1, len(means) - 1)
    page.line(
        [(left + across * i, top + 26 + (_PLOT - 8) * (high - m) / span)
         for i, m in enumerate(means)], INK, 1.0,
    )  # fmt: skip


def thinned(values: Sequence[float]) -> list[float]:
    """Means over equal numbers of steps, as many as a curve has room for."""
    every = -(-len(values) // _POINTS)
    blocks = [values[i : i + every] for i in range(0, len(values), every)]
    return [sum(block) / len(block) for block in blocks]
