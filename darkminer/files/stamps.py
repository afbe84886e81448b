"""Short texts that change when files do, for whoever keeps results that were made from them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

_LARGE = 1 << 28


def contents(paths: Iterable[Path]) -> str:
    """Of the names and the bytes of files; one too large to read in passing counts by its stamp."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(repr(path.name).encode() + b"\0")
        try:
            if path.stat().st_size > _LARGE:
                digest.update(stamp(path).encode())
            else:
                digest.update(hashlib.sha256(path.read_bytes()).digest())
        except OSError as error:
            digest.update(repr(error).encode())
    return digest.hexdigest()


def stamp(path: Path) -> str:
    """Of a file's size and time of change; of its absence, if there is none."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return "no file"
    return f"{status.st_size} bytes, {status.st_mtime_ns}"
