"""One run in a folder at a time, whatever has become of the run before.

Files ``lock-000001.json``, ``lock-000002.json``, ... name their owner; the newest one counts. To
take the folder is to create the file after the newest, which only one process can, once the
newest one's owner has given it back or has ended. No file system locks are needed, and nothing is
ever removed that another process might just have made.
"""

from __future__ import annotations

import os
import re
import time
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import DarkMinerError
from .atomic import create_whole, remove, write_whole
from .bounds import Damaged, json_bytes, parsed_json
from .processes import Process, this_process
from .run_files import LOCK, cannot, following, numbered, small_file

_MAX_BYTES = 4096
_TRIES, _PAUSE = 20, 0.05
_SINCE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC")

_held: set[str] = set()
"""Tokens of the locks that this process holds."""


@dataclass(frozen=True)
class _Owner:
    """Who wrote a lock: a process, since when (UTC), and a token of its own."""

    process: Process
    since: str
    token: str

    @property
    def may_run(self) -> bool:
        """Whether it holds the folder still, as far as anybody here can know."""
        if self.process == this_process():
            return self.token in _held
        return not (self.process.is_here and self.process.is_over)


class FolderLock:
    """A folder that this process holds; see :func:`take`."""

    def __init__(self, folder: Path, called: str, path: Path, owner: _Owner):
        self._folder, self._called, self._path, self._owner = folder, called, path, owner

    def check(self) -> None:
        """Refuse to go on where the folder is held no more.

        Raises:
            DarkMinerError: if the folder has gone, or another process has taken it.
        """
        try:
            newest = _newest(self._folder)
            owner = _read(newest[1]) if newest is not None else None
        except OSError as error:
            raise cannot(self._called, error) from error
        if owner != self._owner or os.getpid() != self._owner.process.pid:
            who = "Somebody" if owner is None else f"Process {owner.process.pid}"
            raise DarkMinerError(
                f"{who} has taken the run folder {self._called!r} from this run: let one of the "
                "two runs go on, and give the other one another folder."
            )

    def release(self) -> None:
        """Give the folder back; where that cannot be written, the end of the process says it."""
        _held.discard(self._owner.token)
        try:
            self.check()
            write_whole(self._path, [json_bytes({"released": True})])
        except (DarkMinerError, OSError):
            return  # somebody else's by now, or gone: nothing to give back


def take(folder: Path, called: str, *, elsewhere_over: bool = False) -> FolderLock:
    """Hold a folder until it is released or this process ends.

    Args:
        called: the folder as its user wrote it.
        elsewhere_over: whether a process of another machine, which cannot be asked, counts as
            ended.

    Raises:
        DarkMinerError: if another run holds it, with its owner's name, or it cannot be written.
    """
    owner = _Owner(
        this_process(), time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()), uuid.uuid4().hex
    )
    text = json_bytes(asdict(owner))
    try:
        for _ in range(_TRIES):
            newest = _newest(folder)
            if newest is not None:
                _require_free(newest[1], called, elsewhere_over)
            number = following(newest[0] if newest else 0, called)
            path = folder / f"lock-{number:06d}.json"
            try:
                create_whole(path, [text])
            except FileExistsError:  # another process was first
                continue
            if max(numbered(folder, LOCK)) == number:
                _held.add(owner.token)
                for other, older in numbered(folder, LOCK).items():
                    if other < number:
                        remove(older)
                return FolderLock(folder, called, path, owner)
            remove(path)  # others have come and gone meanwhile
    except OSError as error:
        raise cannot(called, error) from error
    raise DarkMinerError(
        f"Several runs want the run folder {called!r} at once: start them one after the other, or "
        "give each a folder of its own."
    )


def _newest(folder: Path) -> tuple[int, Path] | None:
    locks = numbered(folder, LOCK)
    return max(locks.items()) if locks else None


def _require_free(path: Path, called: str, elsewhere_over: bool) -> None:
    owner = _read(path)
    if owner is None or not owner.may_run:
        return
    process = owner.process
    if process.is_here:
        who = "this process" if process.pid == os.getpid() else f"process {process.pid}"
        raise DarkMinerError(
            f"The run folder {called!r} is in use by {who} on {process.host!r} since "
            f"{owner.since}: wait until that run ends or stop it, or name another folder."
        )
    if not elsewhere_over:
        raise DarkMinerError(
            f"The run folder {called!r} is in use by process {process.pid} on {process.host!r} "
            f"since {owner.since}, which cannot be asked from here: if that run is over, delete "
            f"{path.name} in the folder."
        )


def _read(path: Path) -> _Owner | None:
    """Who a lock says holds the folder; None where it was given back or nobody can read it."""
    for last in (False,) * _TRIES + (True,):
        try:
            return _owner(parsed_json(small_file(path, _MAX_BYTES)))
        except Damaged:  # one that is just being written where there are no hard links
            if last or not os.path.lexists(path):
                return None
            time.sleep(_PAUSE)
    return None


def _owner(said: Any) -> _Owner | None:
    if not isinstance(said, dict):
        raise Damaged("it is no lock")
    if said.get("released") is True:
        return None
    process = said.get("process")
    if not isinstance(process, dict):
        raise Damaged("it names no process")
    host, pid, started = (process.get(k) for k in ("host", "pid", "started"))
    texts = host, started, said.get("since"), said.get("token")
    if type(pid) is not int or not all(isinstance(text, str) for text in texts):
        raise Damaged("it names no process")
    if not _SINCE.fullmatch(str(texts[2])):
        raise Damaged("it names no time")
    return _Owner(Process(str(host), pid, str(started)), str(texts[2]), str(texts[3]))
