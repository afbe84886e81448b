"""Which process holds something, and whether it still runs.

A process id comes again: after a reboot, in a container that starts anew, on a machine that makes
many. So a process is its host, its id and the moment it started.
"""

from __future__ import annotations

import importlib
import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PROC = Path("/proc")
_STARTED = 19
"""Place of the start time in ``/proc/PID/stat``, counted from the field behind the name."""
_MAX_PID = (1 << 31) - 1


@dataclass(frozen=True)
class Process:
    """A process of some machine.

    Attributes:
        host: the machine's name.
        pid: its process id there.
        started: when it started, as the system says it; empty where that cannot be known. Only
            good for comparing.
    """

    host: str
    pid: int
    started: str

    @property
    def is_here(self) -> bool:
        """Whether it is a process of this machine, which can be asked."""
        return self.host == platform.node()

    @property
    def is_over(self) -> bool:
        """Whether a process of this machine has ended; False where that cannot be known."""
        if not 0 < self.pid <= _MAX_PID:
            return True
        seen = _seen(self.pid)
        return seen is None or bool(seen and self.started and seen != self.started)


def this_process() -> Process:
    """The process that asks."""
    return Process(platform.node(), os.getpid(), _seen(os.getpid()) or "")


def _seen(pid: int) -> str | None:
    """When a running process started; empty where nobody can say, None where none runs."""
    if os.name == "posix":
        try:
            os.kill(pid, 0)  # never on Windows, where this is Ctrl-C
        except ProcessLookupError:
            return None
        except PermissionError:
            pass  # it runs, and is somebody else's
    if sys.platform == "linux":
        return _of_linux(pid)
    return _of_psutil(pid)


def _of_linux(pid: int) -> str | None:
    """Boot and clock ticks from then on: no clock that is set moves them."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
        fields = text.rpartition(")")[2].split()  # the name before may hold anything
        boot = (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return None if fields[0] in "ZX" else f"{boot}/{fields[_STARTED]}"
    except (OSError, ValueError, IndexError):
        return ""


def _of_psutil(pid: int) -> str | None:
    try:
        psutil: Any = importlib.import_module("psutil")  # the host's own, where it has it
    except Exception:  # what is half installed raises anything
        return ""
    try:
        process = psutil.Process(pid)
        zombie = process.status() == psutil.STATUS_ZOMBIE
        return None if zombie else f"{process.create_time():.2f}"
    except psutil.NoSuchProcess:
        return None
    except psutil.Error:
        return ""
