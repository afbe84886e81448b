"""Files by path, or by a URL of fsspec where that is installed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

from ..darkminer.errors import DarkMinerError

_SAMPLES, _SAMPLE = 64, 1 << 16
_LARGEST_HEADER = 1 << 28


def is_url(place: str) -> bool:
    """Whether a text is a URL; a single letter before the colon is a Windows drive."""
    scheme, separator, _ = place.partition("://")
    return bool(separator) and len(scheme) > 1


def system_of(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path there.

    Raises:
        DarkMinerError: if there is none for its scheme.
    """
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise DarkMinerError(
            f"{url} is a URL and fsspec is not installed: pip install fsspec, or name a path."
        ) from None
    try:
        return url_to_fs(url)
    except (ValueError, ImportError) as error:
        raise DarkMinerError(
            f"{url} cannot be opened ({error}): install what fsspec needs for it, or name a path."
        ) from error


def opened(place: str) -> tuple[BinaryIO, int]:
    """A file to read from, and its size.

    Raises:
        DarkMinerError: if it is not there or cannot be read.
    """
    try:
        if is_url(place):
            system, path = system_of(place)
            return system.open(path, "rb"), int(system.size(path))
        return open(place, "rb"), os.path.getsize(place)
    except (OSError, ValueError) as error:
        if isinstance(error, DarkMinerError):
            raise
        raise DarkMinerError(f"{place} cannot be read ({error}): name a file.") from error


def stamp(place: str) -> str:
    """Size and a digest of 64 stretches of a file, first and last included: a file of gigabytes
    that is trained further differs in nearly all of its bytes."""
    file, size = opened(place)
    digest = hashlib.sha256()
    with file:
        last = max(0, size - _SAMPLE)
        for start in sorted({last * i // (_SAMPLES - 1) for i in range(_SAMPLES)}):
            file.seek(start)
            digest.update(file.read(_SAMPLE))
    return f"{size}-{digest.hexdigest()[:16]}"


def header(place: str) -> tuple[dict[str, tuple[str, tuple[int, ...]]], int]:
    """Names, types and shapes of a safetensors file's tensors, and the file's size.

    Raises:
        DarkMinerError: if it is no such file, or its end is missing.
    """
    file, size = opened(place)
    with file:
        length = int.from_bytes(file.read(8), "little")
        if not 1 < length <= min(size - 8, _LARGEST_HEADER):
            raise DarkMinerError(f"{place} is no safetensors file: name one of that format.")
        try:
            found = json.loads(file.read(length))
            found.pop("__metadata__", None)
            ends = [entry["data_offsets"][1] for entry in found.values()]
            tensors = {k: (v["dtype"], tuple(v["shape"])) for k, v in found.items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            raise DarkMinerError(
                f"{place} is no safetensors file, its header cannot be read: name another."
            ) from None
    if max(ends, default=0) + 8 + length != size:
        raise DarkMinerError(f"{place} is cut short or damaged: bring the file once more.")
    return tensors, size


def here(place: str, cache: Path) -> Path:
    """A file of this machine; that of a URL is brought to ``cache`` once.

    Raises:
        DarkMinerError: if it cannot be brought.
    """
    if not is_url(place):
        return Path(place).absolute()
    system, path = system_of(place)
    digits = hashlib.sha256(place.encode()).hexdigest()[:12]
    file = cache / f"{digits}-{path.rsplit('/', 1)[-1]}"
    try:
        if not (file.is_file() and file.stat().st_size == int(system.size(path))):
            cache.mkdir(parents=True, exist_ok=True)
            part = file.with_name(f".{file.name}.{os.getpid()}")
            system.get(path, str(part))
            os.replace(part, file)
    except OSError as error:
        raise DarkMinerError(f"{place} cannot be brought here ({error}): try again.") from error
    return file


def bring_out(folder: Path, files: Iterable[str], url: str) -> None:
    """Copy files of a folder to a URL.

    Raises:
        DarkMinerError: if one cannot be written.
    """
    system, root = system_of(url)
    try:
        system.makedirs(root, exist_ok=True)
        for name in files:
            system.put(str(folder / name), f"{root.rstrip('/')}/{name}")
    except OSError as error:
        raise DarkMinerError(f"{url} cannot be written to ({error}): try again.") from error


def read_there(url: str, name: str) -> bytes:
    """What a file below a URL holds; nothing where it is not there.

    Raises:
        DarkMinerError: if it is there and cannot be read.
    """
    system, root = system_of(url)
    there = f"{root.rstrip('/')}/{name}"
    try:
        return system.cat_file(there) if system.exists(there) else b""
    except OSError as error:
        raise DarkMinerError(f"{url}/{name} cannot be read ({error}): try again.") from error


def check_writable(url: str) -> None:
    """Write a small file below a URL and take it away again.

    Raises:
        DarkMinerError: if that is not possible.
    """
    system, root = system_of(url)
    probe = f"{root.rstrip('/')}/.dark-miner-{os.getpid()}"
    try:
        system.makedirs(root, exist_ok=True)
        system.pipe_file(probe, b"dark-miner")
        system.rm_file(probe)
    except (OSError, NotImplementedError) as error:
        raise DarkMinerError(
            f"{url} cannot be written to ({error}): name another one for output."
        ) from error


def free_bytes(folder: Path) -> int:
    """Free on a folder's disk, or on that of the nearest folder above it which is there."""
    there = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    return shutil.disk_usage(there).free
