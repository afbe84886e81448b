"""A row in a process of its own. Nothing here needs the pack: Ray sends this to its machines."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Task = dict[str, Any]
"""What a machine is told of a row: ``name``, ``digest``, ``row``, ``root`` (the pack's folder),
``host`` (ComfyUI's), ``folder`` (the row's own), ``cache``, ``url``, ``threads``, ``retries``."""
Work = Callable[[Task], dict[str, Any]]

LOG = "log.txt"


def run_row(task: Task) -> dict[str, Any]:
    """Run a row to its end, again where its process was killed, and say what came of it.

    The process ends when this one does: it reads its row from a pipe and goes when that closes.
    """
    began, result = time.monotonic(), {}
    for attempt in range(int(task["retries"]) + 1):
        result = _once(task)
        result["attempts"] = attempt + 1
        if not result.pop("lost", False):
            break
    return {
        **result, "row": task["name"], "digest": task["digest"],
        "seconds": round(time.monotonic() - began, 1), "machine": platform.node(),
    }  # fmt: skip


def _once(task: Task) -> dict[str, Any]:
    folder = Path(task["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment["OMP_NUM_THREADS"] = str(task["threads"])  # sums differ with it
    environment.setdefault("COMFYUI_PATH", task["host"])
    with (folder / LOG).open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "fleet", "row"], cwd=task["root"], env=environment,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
        )  # fmt: skip
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps(task).encode() + b"\n")
            process.stdin.flush()
            said = process.stdout.read()
            code = process.wait()
        except BrokenPipeError:
            said, code = b"", process.wait()
        finally:
            process.stdin.close()
            if process.poll() is None:
                process.kill()
                process.wait()
            process.stdout.close()
    try:
        return dict(json.loads(said.splitlines()[-1]))
    except (IndexError, ValueError):
        why = f"signal {-code}" if code < 0 else f"exit status {code}"
        return {
            "status": "failed", "lost": True,
            "why": f"The row's process ended without a word ({why}): see {folder / LOG}.",
        }  # fmt: skip
