"""A run on the disk: what a job of hours has come to, readable after anything that ends it.

The folder holds::

    lock-000002.json              who runs in it (lock.py)
    state-000041.json             the state before the last one
    state-000042.json             the last one: each record's file, size and digest (run_state.py)
    settings-000001.json          a record without tensors: JSON
    pool-000001.safetensors       a record with tensors: its JSON stands in the file's metadata
    embeddings-000041.safetensors
    embeddings-000042.safetensors
    adapters.1-000023.safetensors ...
    report-000042.json

The number in a file's name is that of the save which wrote it, and no file is ever changed. A save
writes the records that are new (:func:`~.atomic.write_whole`), forces them and the folder to the
disk, and then writes its state, which takes over the files of all other records. Only then does
what neither the new state nor the one before it names go. So whenever a process ends, one whole
state is there; and where a file of the newest is damaged later, the one before it is used and says
so. Which records there are says :mod:`~.run_records`.

A run that goes on::

    with RunFolder.open(root, "runs/ink") as folder:
        state = folder.state               # None: nothing was saved yet
        if state is not None:
            told = differences(state.read(settings(EraseConfig)), config)
            embeddings = state.read(EMBEDDINGS)
        ...
        folder.save({EMBEDDINGS: embeddings, adapters(3): weights}, drop=[STAGE, LIVE])
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import DarkMinerError
from .atomic import TEMPORARY, Written, remove, sync_folder, write_whole
from .bounds import Damaged
from .lock import FolderLock, take
from .names import checked_folder
from .run_files import LOCK, RECORD, STATE, cannot, following, numbered
from .run_records import METADATA, Record
from .run_state import Entry, State, last_state, state_text
from .tensor_file import tensor_parts

_SMALL, _RECENT = 4096, 60.0
"""Bytes and seconds of age of a temporary file that may be another run's question for the lock."""


def run_place(root: Path, name: str) -> Path:
    """The folder ``name`` below ``root``, links followed; it need not be there.

    Raises:
        DarkMinerError: if the name leads out of ``root``, also by a link, or some system cannot
            hold it.
    """
    text = checked_folder(name, "run folder")
    inside = Path(os.path.realpath(root))
    place = Path(os.path.realpath(inside.joinpath(*text.split("/"))))
    if inside not in place.parents:
        raise DarkMinerError(
            f"The run folder {name!r} is a link that leads out of its folder: name another one."
        )
    return place


def read_run(root: Path, name: str, only: Collection[str] | None = None) -> State:
    """The last whole state of a run, which may be running; nothing is written.

    Args:
        only: names of the records that must be whole, where not all are needed, such as
            ``{"adapters.3"}`` of a folder whose pool is damaged.

    Raises:
        DarkMinerError: if there is none, or as :func:`~.run_state.last_state`.
    """
    place = run_place(root, name)
    state = last_state(place, name, only) if os.path.isdir(place) else None
    if state is None:
        raise DarkMinerError(f"The run folder {name!r} holds no run: name the folder of one.")
    return state


class RunFolder:
    """A run's folder, held by this process; make it with :meth:`open`.

    Attributes:
        state: the last whole state, None before the first save.
    """

    def __init__(self, place: Path, called: str, lock: FolderLock, state: State | None):
        self._place, self._called, self._lock = place, called, lock
        self.state = state

    @classmethod
    def open(cls, root: Path, name: str, *, elsewhere_over: bool = False) -> RunFolder:
        """Make a run's folder or go on with one.

        Args:
            root: the folder that holds those of runs; name: see :func:`run_place`.
            elsewhere_over: see :func:`~.lock.take`.

        Raises:
            DarkMinerError: if the name is none, another run has the folder, it holds other things
                than a run, or as :func:`~.run_state.last_state`.
        """
        place = run_place(root, name)
        try:
            place.mkdir(parents=True, exist_ok=True)
            _require_own(place, name)
        except OSError as error:
            raise cannot(name, error) from error
        lock = take(place, name, elsewhere_over=elsewhere_over)
        try:
            state = last_state(place, name)
            with contextlib.suppress(OSError):
                _clear_unfinished(place)
            return cls(place, name, lock, state)
        except BaseException:
            lock.release()
            raise

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the folder back."""
        self._lock.release()

    def save(self, records: Mapping[Record[Any], Any], drop: Iterable[Record[Any]] = ()) -> State:
        """Write records; all others stay as they are. All of it is saved, or nothing.

        Args:
            drop: records that the new state does not have.

        Raises:
            DarkMinerError: if a value is not of its record's kind or holds NaN, the disk is full,
                read-only or gone, or the folder was taken by another run; what was saved before is
                intact and :attr:`state` as it was.
        """
        self._lock.check()
        made: list[Path] = []
        state_path: Path | None = None
        try:
            newest = max(numbered(self._place, STATE), default=0)
            number = following(newest, self._called)
            entries = dict(self.state.entries) if self.state is not None else {}
            for record in drop:
                entries.pop(record.name, None)
            for record, value in records.items():
                entries[record.name] = self._write(record, value, number, made)
            saved = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
            text = state_text(number, entries, saved)
            sync_folder(self._place)
            self._lock.check()
            state_path = self._place / f"state-{number:06d}.json"
            write_whole(state_path, [text])
        except BaseException as error:
            if state_path is None or not os.path.lexists(state_path):
                for path in made:
                    remove(path)
            if isinstance(error, OSError):
                raise cannot(self._called, error) from error
            if isinstance(error, Damaged):
                raise _cannot_keep(self._called, "It", error) from error
            raise
        before, self.state = self.state, State(self._place, self._called, number, entries)
        with contextlib.suppress(OSError):
            _clear_older(self._place, self.state, before)
        return self.state

    def _write(self, record: Record[Any], value: Any, number: int, made: list[Path]) -> Entry:
        """One record's file; noted in ``made`` before it is there."""
        try:
            text, tensors = record.written(value)
            ending = "safetensors" if tensors else "json"
            path = self._place / f"{record.name}-{number:06d}.{ending}"
            made.append(path)
            return Entry(path.name, _write(path, text, tensors))
        except Damaged as error:
            raise _cannot_keep(self._called, record.name, error) from error


def _write(path: Path, text: bytes, tensors: Mapping[str, Any]) -> Written:
    if not tensors:
        return write_whole(path, [text], sync=False)
    return write_whole(path, tensor_parts(tensors, {METADATA: text.decode("ascii")}), sync=False)


def _cannot_keep(called: str, what: str, error: Damaged) -> DarkMinerError:
    return DarkMinerError(
        f"{what} cannot be kept in the run folder {called!r} ({error}): what was saved before is "
        "intact."
    )


def _require_own(place: Path, called: str) -> None:
    """Refuse a folder that holds other things than a run; hidden files do not count."""
    names = [name for name in os.listdir(place) if not name.startswith(".")]
    others = [n for n in names if not any(p.fullmatch(n) for p in (STATE, LOCK, RECORD))]
    if others and not any(STATE.fullmatch(name) for name in names):
        raise DarkMinerError(
            f"The run folder {called!r} holds {min(others)[:60]!r} and no run: name an empty or a "
            "new one."
        )


def _temporary(place: Path) -> Iterator[Path]:
    """Temporary files of runs that were killed; a lock that is being asked for stays."""
    for name in os.listdir(place):
        if TEMPORARY.fullmatch(name):
            status = os.lstat(place / name)
            if status.st_size > _SMALL or abs(time.time() - status.st_mtime) > _RECENT:
                yield place / name


def _clear_unfinished(place: Path) -> None:
    """Remove what a save has left that was killed before its state was there."""
    for path in _temporary(place):
        remove(path)
    newest = max(numbered(place, STATE), default=0)
    for name in os.listdir(place) if newest else ():
        found = RECORD.fullmatch(name)
        if found and int(found[1]) > newest:
            remove(place / name)


def _clear_older(place: Path, state: State, before: State | None) -> None:
    """Remove states other than these two, and then what none of the two names."""
    kept = [state] if before is None else [state, before]
    for number, path in numbered(place, STATE).items():
        if number not in {one.number for one in kept}:
            remove(path)
    named = {entry.file for one in kept for entry in one.entries.values()}
    for name in os.listdir(place):
        if RECORD.fullmatch(name) and name not in named:
            remove(place / name)
