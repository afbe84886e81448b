"""What a file from anywhere may hold at the most, and JSON within these bounds.

Whoever writes keeps to the same bounds, so that everything that was written can be read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any

MAX_FILE = 1 << 34
"""Bytes of one file."""
MAX_JSON = 1 << 25
"""Bytes of one JSON text."""
MAX_VALUES = 1 << 20
"""Values in one JSON text, counted by its commas and brackets."""
MAX_DEPTH = 32
"""Lists and objects within each other."""
MAX_DIGITS = 24
"""Digits of a whole number."""


class Damaged(ValueError):
    """A file that is not what its writer wrote, or that no writer of ours has written.

    The message is the reason, to stand in brackets.
    """


def json_bytes(value: Any, *, indent: int | None = None) -> bytes:
    """A value as JSON: ASCII, dictionaries in their own order.

    Raises:
        Damaged: if a number is not finite or the text would go beyond the bounds.
    """
    try:
        text = json.dumps(
            value, allow_nan=False, indent=indent,
            separators=(",", ":") if indent is None else None,
        ).encode("ascii")  # fmt: skip
    except (TypeError, ValueError, RecursionError) as error:
        raise Damaged(f"it cannot be written as JSON: {error}") from error
    _check_size(text)
    _check_depth(value)
    return text


def parsed_json(text: bytes) -> Any:
    """The value of a JSON text.

    Raises:
        Damaged: if it is none, goes beyond the bounds, names a key twice, or holds NaN, infinity
            or a number that no float can hold.
    """
    _check_size(text)
    try:
        value = json.loads(
            text.decode("utf-8"), parse_int=_whole, parse_float=_finite, parse_constant=_finite,
            object_pairs_hook=_unique,
        )  # fmt: skip
    except Damaged:
        raise
    except (ValueError, RecursionError) as error:
        raise Damaged(f"it is no JSON: {error}") from error
    _check_depth(value)
    return value


def _check_size(text: bytes) -> None:
    if len(text) > MAX_JSON:
        raise Damaged(f"its JSON has {len(text)} bytes, more than {MAX_JSON}")
    values = sum(text.count(mark) for mark in (b",", b"[", b"{"))
    if values > MAX_VALUES:
        raise Damaged(f"its JSON has about {values} values, more than {MAX_VALUES}")


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [item for one in level for item in _items(one)]
        if not level:
            return
    raise Damaged(f"its JSON is nested more than {MAX_DEPTH} deep")


def _items(value: Any) -> Iterable[Any]:
    """What a list or a dictionary holds that may hold something itself."""
    inside = value.values() if isinstance(value, dict) else value
    if not isinstance(inside, Iterable) or isinstance(inside, str):
        return ()
    return (item for item in inside if isinstance(item, (dict, list, tuple)))


def _whole(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise Damaged(f"it holds a whole number of {len(text)} digits")
    return int(text)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise Damaged(f"it holds the number {text[:MAX_DIGITS]}, which is not finite")
    return number


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise Damaged("it names a key twice")
    return found
