"""The table of results: one JSON line a row that has ended, only ever added to."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..darkminer.errors import DarkMinerError

FILE, DONE = "results.jsonl", "done.json"
Result = dict[str, Any]


class Results:
    """The table in a folder. What a crash has left of a line's beginning is passed over.

    Raises:
        DarkMinerError: if there is a table that cannot be read.
    """

    def __init__(self, folder: Path):
        self.path = folder / FILE
        self._lines: dict[str, Result] = {}
        folder.mkdir(parents=True, exist_ok=True)
        try:
            text = self.path.read_bytes() if self.path.exists() else b""
        except OSError as error:
            raise DarkMinerError(f"{self.path} cannot be read ({error}).") from error
        self._whole = not text or text.endswith(b"\n")
        for line in text.splitlines():
            found = _parsed(line)
            if found is not None:
                self._take(found)

    def _take(self, result: Result) -> None:
        """A row that is done stays done, whatever a later line says of another try."""
        before = self._lines.get(result["digest"])
        if before is None or before["status"] != "done":
            self._lines[result["digest"]] = result

    def learn(self, table: bytes) -> None:
        """Take over what another machine has written of rows that are not done here.

        Raises:
            DarkMinerError: if a line cannot be written.
        """
        for line in table.splitlines():
            found = _parsed(line)
            if found is None or self.done(found["digest"]):
                continue
            if self._lines.get(found["digest"]) != found:
                self.add(found)

    def of(self, digests: Iterable[str]) -> dict[str, Result]:
        """The newest result of each digest that has one."""
        return {d: self._lines[d] for d in digests if d in self._lines}

    def done(self, digest: str) -> bool:
        """Whether a row has been done."""
        return self._lines.get(digest, {}).get("status") == "done"

    def add(self, result: Mapping[str, Any]) -> None:
        """Write a line at the end, in one piece and to the disk.

        Raises:
            DarkMinerError: if it cannot be written.
        """
        line = json.dumps(dict(result), sort_keys=True, allow_nan=False).encode() + b"\n"
        line = line if self._whole else b"\n" + line
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
        try:
            descriptor = os.open(self.path, flags, 0o666)
            try:
                self._whole = os.write(descriptor, line) == len(line)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            self._whole = False
            raise DarkMinerError(
                f"{self.path} cannot be written to ({error}): make room; what is done stays done."
            ) from error
        if not self._whole:
            raise DarkMinerError(f"{self.path} has no room for a line: make room.")
        self._take(dict(result))


def _parsed(line: bytes) -> Result | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    good = isinstance(found, dict) and isinstance(found.get("digest"), str)
    return found if good and found.get("status") in ("done", "failed") else None
