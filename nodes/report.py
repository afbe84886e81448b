"""The report picture of a run: one row a round, what the anchor shows and what was mined."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ..darkminer.loop import Erasure

_CELL, _TEXT, _COLUMNS = 96, 200, 6


def report_picture(done: Erasure) -> Tensor:
    """``[1, H, W, 3]`` in 0..1: per round its score and up to six pairs of reference and target."""
    rows = max(1, len(done.verdicts))
    canvas = Image.new("RGB", (_TEXT + 2 * _COLUMNS * _CELL, rows * (_CELL + 8)), "white")
    draw = ImageDraw.Draw(canvas)
    if not done.verdicts:
        draw.text((8, 8), "No round was run.", fill="black")
    first = done.embeddings.round - len(done.verdicts) + 1
    for row, verdict in enumerate(done.verdicts):
        top = row * (_CELL + 8)
        outcome = "still there: circumvented" if verdict.verified else "nothing left: stopped"
        round_ = first + row
        text = f"round {round_}\nscore {verdict.score:.2f}\ntau {verdict.threshold:.2f}\n{outcome}"
        draw.multiline_text((8, top + 8), text, fill="black")
        for i in range(min(_COLUMNS, len(verdict.target))):
            for j, picture in enumerate((verdict.reference[i], verdict.target[i])):
                canvas.paste(_tile(picture), (_TEXT + (2 * i + j) * _CELL, top))
    return torch.from_numpy(np.asarray(canvas).copy()).float()[None] / 255.0


def _tile(picture: Tensor) -> Image.Image:  # [H, W, 3] in 0..1
    image = Image.fromarray((picture.clamp(0, 1).numpy() * 255).round().astype(np.uint8))
    return image.resize((_CELL - 4, _CELL - 4), Image.Resampling.NEAREST)
