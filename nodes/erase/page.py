"""A page to draw on: text in a real font, lines and pictures, in units of two pixels.

Everything is drawn at twice its size, so that it stays sharp when a node or a viewer shows it
smaller or larger.
"""

from __future__ import annotations

import functools
import logging
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

log = logging.getLogger(__name__)

Colour = str
SCALE = 2  # pixels of a unit

INK, MUTED, FAINT, RULE, PAPER = "#1c2026", "#6a717c", "#a3a9b2", "#e3e6ea", "#ffffff"
GOOD, BAD, NEITHER = "#177a4b", "#b3321f", "#6a717c"
TINTS = {GOOD: "#e4f3ea", BAD: "#fbe9e6", NEITHER: "#eef0f2"}

_ELSEWHERE = (
    "DejaVuSans.ttf", "NotoSans-Regular.ttf", "segoeui.ttf", "Arial Unicode.ttf", "arial.ttf",
    "Arial.ttf", "NotoSansCJK-Regular.ttc", "msyh.ttc", "YuGothM.ttc", "malgun.ttf",
    "PingFang.ttc", "Hiragino Sans GB.ttc", "wqy-microhei.ttc", "DroidSansFallbackFull.ttf",
)  # fmt: skip
"""Fonts of the usual systems, for letters that Pillow's own does not have."""


class Page:
    """A white page of ``width`` x ``height`` units."""

    def __init__(self, width: int, height: int):
        self._image = Image.new("RGB", (width * SCALE, height * SCALE), PAPER)
        self._draw = ImageDraw.Draw(self._image)

    def text(
        self, x: float, y: float, text: str, size: int, colour: Colour = INK, *,
        anchor: str = "la", strong: bool = False,
    ) -> None:  # fmt: skip
        """Text whose point ``anchor`` (Pillow's two letters) lies at x, y."""
        text, font = lettered(text, size)
        if font is None:
            return
        for shift in (0, 1) if strong else (0,):  # the one font there is has no bold
            self._draw.text((x * SCALE + shift, y * SCALE), text, colour, font, anchor)

    def line(self, points: list[tuple[float, float]], colour: Colour, width: float = 1.0) -> None:
        """A line through points."""
        at = [(x * SCALE, y * SCALE) for x, y in points]
        self._draw.line(at, colour, max(1, round(width * SCALE)), "curve")

    def dashes(self, left: float, right: float, y: float, colour: Colour) -> None:
        """A level dashed line."""
        x = left
        while x < right:
            self.line([(x, y), (min(right, x + 5), y)], colour)
            x += 9

    def box(
        self, left: float, top: float, right: float, bottom: float, colour: Colour,
        radius: float = 0.0,
    ) -> None:  # fmt: skip
        """A filled rectangle."""
        corners = tuple(round(v * SCALE) for v in (left, top, right, bottom))
        self._draw.rounded_rectangle(corners, radius * SCALE, colour)

    def dot(self, x: float, y: float, radius: float, colour: Colour, *, rim: bool = True) -> None:
        """A disc, with a white rim where it lies on others."""
        edge = PAPER if rim else colour
        corners = tuple(v * SCALE for v in (x - radius, y - radius, x + radius, y + radius))
        self._draw.ellipse(corners, colour, edge, SCALE)

    def picture(self, left: float, top: float, side: int, picture: Tensor) -> None:
        """A picture ``[H, W, 3]`` in 0..1, as large as fits into a square of ``side`` units."""
        shown = fitted(picture, side * SCALE)
        free = (side * SCALE - shown.width) // 2, (side * SCALE - shown.height) // 2
        if free != (0, 0):
            self.box(left, top, left + side, top + side, TINTS[NEITHER])
        self._image.paste(shown, (round(left * SCALE) + free[0], round(top * SCALE) + free[1]))

    def images(self) -> Tensor:
        """The page as an IMAGE ``[1, H, W, 3]`` in 0..1."""
        return torch.from_numpy(np.asarray(self._image).copy()).float()[None] / 255.0


@dataclass(frozen=True)
class Block:
    """A part of a page: its height in units, and what draws it below a given line."""

    height: int
    draw: Callable[[Page, float], None]


def stacked(blocks: Sequence[Block], width: int) -> Tensor:
    """Blocks one below the other, as an IMAGE ``[1, H, W, 3]`` in 0..1."""
    page, top = Page(width, sum(b.height for b in blocks)), 0
    for block in blocks:
        block.draw(page, top)
        top += block.height
    return page.images()


def fitted(picture: Tensor, side: int) -> Image.Image:
    """A picture ``[H, W, 3]`` in 0..1 whose longer side is ``side`` pixels.

    Small ones are enlarged with hard pixels, all of one size to the eye.
    """
    image = Image.fromarray((picture.float().clamp(0, 1).numpy() * 255).round().astype(np.uint8))
    factor = side / max(image.size)
    size = max(1, round(image.width * factor)), max(1, round(image.height * factor))
    if factor > 1:
        whole = 2 * int(-(-factor // 1))
        image = image.resize((image.width * whole, image.height * whole), Image.Resampling.NEAREST)
        return image.resize(size, Image.Resampling.BOX)
    return image.resize(size, Image.Resampling.LANCZOS)


def wrapped(text: str, size: int, width: float, lines: int) -> list[str]:
    """Text in at most ``lines`` lines of ``width`` units; what does not fit ends in dots."""
    found, line = [], ""
    for word in text.split():
        while measured(word, size) > width:  # a word longer than a line is cut
            head = next(n for n in range(len(word), 0, -1) if n == 1 or
                        measured(word[:n], size) <= width)  # fmt: skip
            found += [line] if line else []
            found, line, word = [*found, word[:head]], "", word[head:]
        joined = f"{line} {word}".strip()
        if measured(joined, size) > width:
            found, line = [*found, line], word
        else:
            line = joined
    found += [line] if line else []
    if len(found) > lines:
        last = found[lines - 1]
        while measured(f"{last}…", size) > width:
            last = last[:-1]
        if last != found[lines - 1] and " " in last:  # no half words
            last = last.rpartition(" ")[0]
        found = [*found[: lines - 1], f"{last}…"]
    return found


def measured(text: str, size: int) -> float:
    """Width of a line of text in units."""
    text, font = lettered(text, size)
    return len(text) * size / 2 if font is None else font.getlength(text) / SCALE


def lettered(text: str, size: int) -> tuple[str, ImageFont.FreeTypeFont | None]:
    """A font that has all letters of a text; where there is none, the text in letters it has.

    No font at all, which an old Pillow may mean, costs a report its words and no run its end.
    """
    names = [name for name in ("", *_ELSEWHERE) if _font(name, size * SCALE) is not None]
    for name in names:
        if all(_has(name, letter) for letter in set(text)):
            return text, _font(name, size * SCALE)
    if not names:
        log.warning("The report picture has no words: they need Pillow 10.1 or newer.")
        return text, None
    own = names[0]
    spelled = "".join(letter if _has(own, letter) else _spelled(letter) for letter in text)
    return spelled, _font(own, size * SCALE)


def _spelled(letter: str) -> str:
    """A letter without its accents, or else as an escape."""
    plain = unicodedata.normalize("NFKD", letter).encode("ascii", "ignore").decode()
    return plain or letter.encode("ascii", "backslashreplace").decode()


@functools.lru_cache(maxsize=256)
def _font(name: str, pixels: int) -> ImageFont.FreeTypeFont | None:
    try:
        font = ImageFont.truetype(name, pixels) if name else ImageFont.load_default(pixels)
    except (OSError, TypeError):  # there is no such file; an older Pillow knows no size
        return None
    return font if isinstance(font, ImageFont.FreeTypeFont) else None


@functools.lru_cache(maxsize=4096)
def _has(name: str, letter: str) -> bool:
    """Whether a font has a letter: it looks other than one that no font has."""
    font = _font(name, 20)
    if font is None:
        return False
    return letter == " " or bytes(font.getmask(letter)) != bytes(font.getmask("\U000fffff"))
