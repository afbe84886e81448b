"""The report picture of a run: one row a round, what the anchor shows and what was mined."""

from __future__ import annotations

import textwrap

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ...darkminer.method.loop import Erasure
from ...darkminer.types import Verdict

_CELL, _TEXT, _COLUMNS = 96, 200, 6
_LINE, _LETTERS = 16, 200  # height of a line, and how many letters go on one


def report_picture(done: Erasure) -> Tensor:
    """``[1, H, W, 3]`` in 0..1: per round its score and up to six pairs of reference and target.

    The last verification of a run whose rounds were spent has a row of its own, and the last line
    says what has come of it.
    """
    rows = [(f"round {i}", v, _in_round(v, done)) for i, v in enumerate(done.verdicts, start=1)]
    if done.last is not None:
        there = "still there" if done.last.verified else "nothing left"
        rows.append(("after the last round", done.last, there))
    words = textwrap.wrap(done.outcome.words, _LETTERS)
    size = (_TEXT + 2 * _COLUMNS * _CELL, len(rows) * (_CELL + 8) + _LINE * len(words) + 8)
    canvas = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    for row, (name, verdict, outcome) in enumerate(rows):
        top = row * (_CELL + 8)
        text = f"{name}\nscore {verdict.score:.2f}\ntau {verdict.threshold:.2f}\n{outcome}"
        draw.multiline_text((8, top + 8), text, fill="black")
        for i in range(min(_COLUMNS, len(verdict.target))):
            for j, picture in enumerate((verdict.reference[i], verdict.target[i])):
                canvas.paste(_tile(picture), (_TEXT + (2 * i + j) * _CELL, top))
    draw.multiline_text((8, len(rows) * (_CELL + 8)), "\n".join(words), fill="black")
    return torch.from_numpy(np.asarray(canvas).copy()).float()[None] / 255.0


def _in_round(verdict: Verdict, done: Erasure) -> str:
    if verdict.verified:
        return "still there: circumvented"
    return "nothing found" if done.outcome.empty else "nothing left: stopped"


def _tile(picture: Tensor) -> Image.Image:  # [H, W, 3] in 0..1
    image = Image.fromarray((picture.clamp(0, 1).numpy() * 255).round().astype(np.uint8))
    return image.resize((_CELL - 4, _CELL - 4), Image.Resampling.NEAREST)
