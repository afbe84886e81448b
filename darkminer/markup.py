"""HTML and SVG from Python values: whatever is no :class:`Markup` is text, and escaped."""

from __future__ import annotations

import base64
import html
import io

import numpy as np
from PIL import Image
from torch import Tensor

from .errors import writable

_LARGEST = 256  # pixels of an embedded picture's longer side
_SMALL = 96  # up to which every pixel stays what it is


class Markup(str):
    """Text that is markup already; made by :func:`tag` and nothing else here."""


def tag(name: str, /, *inside: object, **attributes: object) -> Markup:
    """An element. ``_`` in names of attributes stands for ``-``, one at the end for nothing."""
    said = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escaped(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in ("img", "meta"):
        return Markup(f"<{name}{said}>")
    return Markup(f"<{name}{said}>{joined(inside)}</{name}>")


def joined(parts: object) -> Markup:
    """Parts, and lists of parts, one after the other."""
    if isinstance(parts, (list, tuple)):
        return Markup("".join(joined(part) for part in parts))
    return parts if isinstance(parts, Markup) else Markup(escaped(parts))


def escaped(value: object) -> str:
    """A value as text that is no markup, in quotes as well."""
    return html.escape(writable(str(value)), quote=True)


def picture_source(picture: Tensor) -> str:
    """A picture ``[H, W, 3]`` in 0..1 as an address that holds the whole file."""
    pixels = (picture.detach().cpu().float().clamp(0, 1) * 255).round().byte().numpy()
    image = Image.fromarray(np.ascontiguousarray(pixels))
    image.thumbnail((_LARGEST, _LARGEST), Image.Resampling.LANCZOS)
    file, kind = io.BytesIO(), "png" if max(image.size) <= _SMALL else "jpeg"
    image.save(file, kind.upper(), quality=90)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
