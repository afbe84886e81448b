"""The files of a run folder: their names, how they are opened, and what refusals say.

The shape of the folder is :mod:`~.run_folder`'s.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from pathlib import Path
from typing import BinaryIO

from ..errors import DarkMinerError
from .bounds import Damaged

STATE = re.compile(r"state-(\d{6,15})\.json")
LOCK = re.compile(r"lock-(\d{6,15})\.json")
RECORD = re.compile(r"(?!state-|lock-)[a-z][a-z0-9.]*-(\d{6,15})\.(?:json|safetensors)")
"""The names there are; the number in brackets is that of the save which made the file."""

_MAX_NUMBER = 10**15 - 2
_FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_BINARY", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)  # a pipe would be waited for
)
_GONE = {errno.ENOENT, errno.ENOTDIR, errno.ESTALE}
_REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "make room on its disk"),
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), "check who may use it"),
    **dict.fromkeys(_GONE, "see where it has gone, or name another one"),
}


def numbered(folder: Path, names: re.Pattern[str]) -> dict[int, Path]:
    """The folder's files of one kind by their numbers.

    Raises:
        OSError: if the folder cannot be listed.
    """
    found = ((names.fullmatch(name), name) for name in os.listdir(folder))
    return {int(m[1]): folder / name for m, name in found if m and m[1] == f"{int(m[1]):06d}"}


def following(number: int, called: str) -> int:
    """The number after ``number``.

    Raises:
        DarkMinerError: if there is none.
    """
    if number > _MAX_NUMBER:
        raise DarkMinerError(
            f"The run folder {called!r} has no numbers left for another file: name another one."
        )
    return number + 1


def opened(path: Path) -> tuple[BinaryIO, int]:
    """A regular file, opened, and its size in bytes.

    Raises:
        Damaged: if it is not there, or is a link, a folder or a pipe.
        OSError: if it cannot be opened.
    """
    try:
        plain = stat.S_ISREG(os.lstat(path).st_mode)
        descriptor = os.open(path, _FLAGS) if plain else None
    except OSError as error:
        if error.errno in (*_GONE, errno.ELOOP):
            raise Damaged("it is not there") from error
        raise
    if descriptor is None:
        raise Damaged("it is no regular file")
    file = os.fdopen(descriptor, "rb")
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        file.close()
        raise Damaged("it is no regular file")
    return file, found.st_size


def small_file(path: Path, most: int) -> bytes:
    """The bytes of a file that has no more than ``most``.

    Raises:
        Damaged: if it has more, or as :func:`opened`.
        OSError: if it cannot be read.
    """
    file, size = opened(path)
    with file:
        text = file.read(most + 1) if size <= most else b""
    if size > most or len(text) > most:
        raise Damaged(f"it has more than {most} bytes")
    return text


def cannot(called: str, error: OSError, what: str = "written") -> DarkMinerError:
    """The sentence for a run folder that the system refuses.

    Args:
        called: the folder as its user wrote it; what: ``"written"`` or ``"read"``.
    """
    remedy = _REMEDIES.get(error.errno or 0, "check its disk")
    intact = "" if error.errno in _GONE or what == "read" else "; what was saved before is intact"
    return DarkMinerError(
        f"The run folder {called!r} cannot be {what} ({error.strerror or error}): {remedy}{intact}."
    )
