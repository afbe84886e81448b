"""Captions: what pictures are drawn of where a model's quality is measured.

The usual ones are COCO's: ``captions_val2017.json`` (5,000 photographs; of the archive
``annotations_trainval2017.zip``) or ``captions_val2014.json`` (``annotations_trainval2014.zip``).
They are the user's download, as are the photographs that a Fréchet distance is taken to.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import DarkMinerError

_LARGEST = 1 << 28  # bytes; COCO's largest has a third of it
_LONGEST = 2000  # letters of a caption


def read_captions(path: Path) -> tuple[str, ...]:
    """Captions of a file in UTF-8: COCO's JSON, or a text with one a line.

    Of COCO's several captions of a photograph the first is taken (the least ``id``), photographs in
    the order of their ``image_id``, so that everybody who takes the first N takes the same.

    Raises:
        DarkMinerError: if the file cannot be read, or holds none; says which files do.
    """
    try:
        if path.stat().st_size > _LARGEST:
            raise DarkMinerError(
                f"{path.name!r} is larger than {_LARGEST >> 20} MiB: name a file of captions."
            )
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DarkMinerError(
            f"{path.name!r} cannot be read ({error}): save it as text in UTF-8."
        ) from error
    found = _of_json(text, path.name) if path.suffix.lower() == ".json" else text.splitlines()
    captions = tuple(" ".join(line.split())[:_LONGEST] for line in found if line.strip())
    if not captions:
        raise DarkMinerError(f"{path.name!r} holds no captions: write one a line.")
    return captions


def _of_json(text: str, name: str) -> Iterable[str]:
    try:
        return _first_of_each(json.loads(text)["annotations"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DarkMinerError(
            f"{name!r} holds no captions as COCO writes them ({type(error).__name__}): name "
            "captions_val2017.json or captions_val2014.json, or a text file with one caption a "
            "line."
        ) from error


def _first_of_each(annotations: Any) -> list[str]:
    first: dict[int, tuple[int, str]] = {}
    for entry in annotations:
        picture, found = int(entry["image_id"]), (int(entry["id"]), str(entry["caption"]))
        first[picture] = min(first.get(picture, found), found)
    return [first[picture][1] for picture in sorted(first)]
