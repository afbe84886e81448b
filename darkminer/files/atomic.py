"""Files that are there whole or not at all, whatever ends the process that writes them.

A file is written under a name of its own, forced to the disk and only then given its place; the
folder is forced to the disk after it. So a crash or a power cut leaves the old file or the new one.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.tmp")
"""Names of files that are still being written, or whose writer was killed."""

_BLOCK = 1 << 22
_FLAGS = (
    os.O_CREAT
    | os.O_EXCL
    | os.O_WRONLY
    | getattr(os, "O_BINARY", 0)  # Windows would change line ends
    | getattr(os, "O_CLOEXEC", 0)
)
_WINDOWS = os.name == "nt"
_PAUSES = (0.01, 0.03, 0.1, 0.3, 1.0)
_CANNOT_SYNC = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
_NO_LINKS = {*_CANNOT_SYNC, errno.EPERM, errno.EMLINK, errno.EXDEV}


@dataclass(frozen=True)
class Written:
    """What a file holds: its size in bytes and the SHA-256 of its bytes, in hex."""

    size: int
    sha256: str


def write_whole(path: Path, parts: Iterable[bytes | memoryview], *, sync: bool = True) -> Written:
    """Write a file, or put another one in its place.

    Args:
        parts: its bytes, one part after the other.
        sync: whether the folder is forced to the disk, too; False where :func:`sync_folder` is
            called after several files.

    Raises:
        OSError: if it cannot be written; what was there is there still.
    """
    with _beside(path, parts) as (temporary, written):
        _replace(temporary, path)
    if sync:
        sync_folder(path.parent)
    return written


def create_whole(path: Path, parts: Iterable[bytes | memoryview]) -> Written:
    """Write a file that must not be there yet; of several writers exactly one succeeds.

    Where the file system has no hard links, a reader may for a moment see a part of it.

    Raises:
        FileExistsError: if it is there.
        OSError: if it cannot be written.
    """
    parts = list(parts)
    with _beside(path, parts) as (temporary, written):
        try:
            os.link(temporary, path)
        except OSError as error:
            if isinstance(error, FileExistsError) or error.errno not in _NO_LINKS:
                raise
            written = _write(path, parts)
    sync_folder(path.parent)
    return written


def sync_folder(folder: Path) -> None:
    """Force a folder's names to the disk, where the system can.

    Raises:
        OSError: if the disk fails.
    """
    if _WINDOWS:  # has no such call, and keeps names in its journal
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a file if that is possible; what stays does no harm and is tried again later."""
    with contextlib.suppress(OSError):
        os.remove(path)


@contextlib.contextmanager
def _beside(path: Path, parts: Iterable[bytes | memoryview]) -> Iterator[tuple[Path, Written]]:
    """The bytes in a temporary file beside ``path``, which is gone afterwards."""
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        yield temporary, _write(temporary, parts)
    finally:
        remove(temporary)


def _write(path: Path, parts: Iterable[bytes | memoryview]) -> Written:
    """A new file on the disk; the umask says who may read it."""
    digest, size = hashlib.sha256(), 0
    descriptor = os.open(path, _FLAGS, 0o666)
    try:
        for part in parts:
            rest = memoryview(part)
            digest.update(rest)
            size += len(rest)
            while len(rest):
                done = os.write(descriptor, rest[:_BLOCK])
                if not done:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                rest = rest[done:]
        _sync(descriptor)
    finally:
        os.close(descriptor)
    return Written(size, digest.hexdigest())


def _sync(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:  # some network file systems have no such call
            raise


def _replace(source: Path, target: Path) -> None:
    """Rename; Windows refuses for a moment while a virus scanner or a reader has the target."""
    for pause in _PAUSES:
        try:
            return os.replace(source, target)
        except PermissionError:
            if not _WINDOWS:
                raise
            time.sleep(pause)
    os.replace(source, target)
