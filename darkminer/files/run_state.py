"""One state of a run: which file is which record, with sizes and digests, and how it is read.

``state-000007.json`` lists every record's file. It carries a digest of itself, so that a state is
whole or is known not to be, whatever has happened to its files.
"""

from __future__ import annotations

import errno
import hashlib
import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from .. import __version__
from ..errors import DarkMinerError
from .atomic import Written
from .bounds import MAX_FILE, Damaged, json_bytes, parsed_json
from .run_files import RECORD, STATE, cannot, numbered, opened, small_file
from .run_records import METADATA, NAME, Record
from .tensor_file import read_tensors

T = TypeVar("T")

SCHEMA = 1
"""Counts up when a file changes its meaning. What a digest is made of stays the same in every
schema: that is how a newer one is told from damage."""

_MAX_RECORDS = 10_000
_MAX_STATE = 1 << 22
_MAX_JSON_FILE = 1 << 25
_CANDIDATES = 8
_BLOCK = 1 << 22
_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Entry:
    """A record's file: its name in the folder, and what it holds."""

    file: str
    written: Written


@dataclass(frozen=True)
class State:
    """What a run folder held when it was last saved whole.

    Attributes:
        number: of the save.
        entries: name of each record -> its file.
        notes: sentences about what was damaged and what was assumed; reading adds to them.
    """

    folder: Path
    called: str
    number: int
    entries: Mapping[str, Entry]
    notes: list[str] = field(default_factory=list, compare=False)

    def __contains__(self, record: Record[Any]) -> bool:
        return record.name in self.entries

    def rounds(self, name: str) -> list[int]:
        """The rounds of which there is a record, e.g. ``"adapters"``, in their order."""
        found = (entry.rpartition(".") for entry in self.entries)
        return sorted(int(r) for before, _, r in found if before == name and r.isdecimal())

    def read(self, record: Record[T]) -> T:
        """A record's value, as it was saved.

        Raises:
            DarkMinerError: if the folder has none of the name, its file has been damaged since
                the folder was opened, or it holds another kind of value.
        """
        entry = self.entries.get(record.name)
        if entry is None:
            raise DarkMinerError(
                f"The run folder {self.called!r} holds no {record.name}: name the folder of a run "
                "that has come so far."
            )
        try:
            value, assumed = _read(self.folder / entry.file, entry.written, record)
        except Damaged as error:
            raise _damaged(self.called, entry.file, error) from error
        except OSError as error:
            raise cannot(self.called, error, "read") from error
        self.notes.extend(
            f"{record.name}: {place} is not in the run folder and has its default."
            for place in assumed
        )
        return value


def _damaged(called: str, file: str, error: Exception) -> DarkMinerError:
    return DarkMinerError(
        f"{file!r} of the run folder {called!r} is damaged ({error}): bring back a copy of it, or "
        "begin anew in another folder."
    )


def _read(path: Path, written: Written, record: Record[T]) -> tuple[T, tuple[str, ...]]:
    file, size = opened(path)
    with file:
        if size != written.size:
            raise Damaged(f"it has {size} bytes where {written.size} were written")
        if path.suffix == ".json":
            if size > _MAX_JSON_FILE:
                raise Damaged(f"it has {size} bytes")
            text, tensors = file.read(size + 1), {}
            digest = hashlib.sha256(text).hexdigest()
        else:
            found = read_tensors(file, size)
            text = found.metadata.get(METADATA, "").encode("utf-8", "surrogatepass")
            tensors = found.tensors
            digest = found.sha256
    if digest != written.sha256:
        raise Damaged("its bytes are not those that were written")
    return record.read(text, tensors)


def state_text(number: int, entries: Mapping[str, Entry], saved: str) -> bytes:
    """The text of a state's file.

    Args:
        saved: when, for people.
    """
    rest = {
        "about": "A state of a Dark Miner run: which file is which record.",
        "schema": SCHEMA,
        "version": __version__,
        "number": number,
        "saved": saved,
        "records": {
            name: {"file": e.file, "size": e.written.size, "sha256": e.written.sha256}
            for name, e in entries.items()
        },
    }
    if len(entries) > _MAX_RECORDS:
        raise Damaged(f"it has {len(entries)} records, more than {_MAX_RECORDS}")
    return json_bytes({**rest, "sha256": _digest(rest)}, indent=1)


def _digest(rest: Mapping[str, Any]) -> str:
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def last_state(folder: Path, called: str, only: Collection[str] | None = None) -> State | None:
    """The newest state whose files are all whole; None where nothing was ever saved.

    Args:
        only: names of the records that must be whole, where not all are needed.

    Raises:
        DarkMinerError: if a newer version of this pack has written it, no state is whole, or the
            folder cannot be read.
    """
    try:
        while True:
            paths = numbered(folder, STATE)
            state, damage = _first_whole(folder, called, paths, only)
            if state is not None or not paths:
                return state
            if max(numbered(folder, STATE), default=0) == max(paths):  # nobody is saving just now
                raise damage[0]
    except OSError as error:
        raise cannot(called, error, "read") from error


def _first_whole(
    folder: Path, called: str, paths: Mapping[int, Path], only: Collection[str] | None
) -> tuple[State | None, list[DarkMinerError]]:
    """The newest whole state, and what is wrong with those that are newer."""
    damage: list[DarkMinerError] = []
    for number in sorted(paths, reverse=True)[:_CANDIDATES]:
        file = paths[number].name
        try:
            entries = _entries(small_file(paths[number], _MAX_STATE), number, called)
            for name, entry in entries.items():
                if only is None or name in only:
                    file = entry.file
                    _require_whole(folder / file, entry.written)
        except (Damaged, OSError) as error:
            if isinstance(error, OSError) and error.errno != errno.EIO:
                raise
            damage.append(_damaged(called, file, error))
            continue
        notes = [f"{str(e).rpartition(':')[0]}: the state before it is used." for e in damage]
        return State(folder, called, number, entries, notes), damage
    return None, damage


def _entries(text: bytes, number: int, called: str) -> dict[str, Entry]:
    said = parsed_json(text)
    if not isinstance(said, dict) or said.pop("sha256", None) != _digest(said):
        raise Damaged("its digest is not that of its text")
    schema = said.get("schema")
    if type(schema) is not int or schema < 1:
        raise Damaged("it has no schema")
    if schema > SCHEMA:
        raise DarkMinerError(
            f"The run folder {called!r} has schema {schema}, written by version "
            f"{str(said.get('version'))[:20]} of this pack, and this version reads up to schema "
            f"{SCHEMA}: update the pack, or name another folder."
        )
    records = said.get("records")
    if said.get("number") != number or not isinstance(records, dict):
        raise Damaged("it is no state of this number")
    if len(records) > _MAX_RECORDS:
        raise Damaged(f"it has {len(records)} records")
    return dict(_checked(records.items(), number))


def _checked(records: Iterable[tuple[str, Any]], number: int) -> Iterable[tuple[str, Entry]]:
    for name, said in records:
        if not NAME.fullmatch(name) or not isinstance(said, dict):
            raise Damaged("a record has no name or no file")
        file, size, sha256 = (said.get(key) for key in ("file", "size", "sha256"))
        found = RECORD.fullmatch(file) if isinstance(file, str) else None
        if found is None or not str(file).startswith(f"{name}-") or int(found[1]) > number:
            raise Damaged(f"the file of {name} is none of this folder")
        if type(size) is not int or not 0 <= size <= MAX_FILE:
            raise Damaged(f"the size of {name} is none")
        if not isinstance(sha256, str) or not _HEX.fullmatch(sha256):
            raise Damaged(f"the digest of {name} is none")
        yield name, Entry(found[0], Written(size, sha256))


def _require_whole(path: Path, written: Written) -> None:
    """Read a file through and compare; no more of it is kept in memory than a block."""
    file, size = opened(path)
    with file:
        if size != written.size:
            raise Damaged(f"it has {size} bytes where {written.size} were written")
        digest = hashlib.sha256()
        while block := file.read(_BLOCK):
            digest.update(block)
    if digest.hexdigest() != written.sha256:
        raise Damaged("its bytes are not those that were written")
