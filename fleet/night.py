"""A plan's night: what is left to do is handed out, and what comes back is written down."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..darkminer.files.atomic import write_whole
from ..darkminer.progress.words import about, duration
from ..hosting import ROOT
from .checks import Checked
from .executors import Executor
from .places import bring_out, is_url, read_there
from .process import Task
from .reading import Plan
from .results import FILE, Results
from .summary import PAGE, as_page

log = logging.getLogger(__name__)

_BETWEEN = 10.0  # seconds between two summary pages
Say = Callable[[str], None]


class Night:
    """A checked plan, its results so far, and where they lie.

    Args:
        rows: as :func:`~.checks.check` gives them.
        say: is given a line whenever there is something to tell.
    """

    def __init__(self, plan: Plan, rows: Sequence[Checked], say: Say):
        self._plan, self.rows, self._say = plan, rows, say
        self.folder = Path(plan.work)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.results = Results(self.folder)
        if is_url(plan.output):
            self.results.learn(read_there(plan.output, FILE))
        self._shown = 0.0

    @property
    def left(self) -> list[Checked]:
        """Rows that are not done."""
        return [one for one in self.rows if not self.results.done(one.digest)]

    def run(self, executor: Executor) -> int:
        """Run what is left; how many rows of the plan are not done at the end."""
        left = self.left
        by_digest = {one.digest: one for one in left}
        ended, begun = 0, time.monotonic()
        for result in executor.run(task(self._plan, one) for one in left):
            ended += 1
            self.results.add({**about_row(by_digest[result["digest"]]), **result})
            spent = time.monotonic() - begun
            rest = about(spent / ended * (len(left) - ended)) if ended < len(left) else ""
            self._say(f"[{ended}/{len(left)}] {line(result)}{f'; {rest} left' if rest else ''}")
            self._show()
        self._show(last=True)
        return len(self.left)

    def _show(self, last: bool = False) -> None:
        """Write the summary page, and bring it out where results go to a URL."""
        if not last and time.monotonic() - self._shown < _BETWEEN:
            return
        page = as_page(self.rows, self.results.of(one.digest for one in self.rows))
        write_whole(self.folder / PAGE, [page.encode("utf-8")])
        if is_url(self._plan.output):
            self.results.learn(read_there(self._plan.output, FILE))  # of a second command
            names = [n for n in (PAGE, FILE) if (self.folder / n).exists()]
            bring_out(self.folder, names, self._plan.output)
        self._shown = time.monotonic()


def folder_of(one: Checked) -> str:
    """A row's folder below the results: another row of the same name has another one."""
    return f"rows/{one.row.name}-{one.digest[:8]}"


def task(plan: Plan, one: Checked) -> Task:
    """What a machine is told of a row."""
    url = f"{plan.output.rstrip('/')}/{folder_of(one)}" if is_url(plan.output) else ""
    return {
        "name": one.row.name, "digest": one.digest, "row": one.row.plain(),
        "root": str(ROOT), "host": os.environ.get("COMFYUI_PATH", ""),
        "folder": str(Path(plan.work) / folder_of(one)), "url": url,
        "cache": str(Path(plan.work) / "checkpoints"),
        "threads": plan.machine.num_cpus, "retries": plan.machine.retries,
    }  # fmt: skip


def about_row(one: Checked) -> dict[str, Any]:
    """What a line of the table says of a row besides what came of it."""
    row = one.row
    return {
        "row": row.name, "checkpoint": row.checkpoint, "concept": row.concept,
        "preset": row.preset, "seed": row.seed, "folder": folder_of(one),
        "passes": round(one.cost.passes),
        "ended": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
    }  # fmt: skip


def line(result: dict[str, Any]) -> str:
    """A row's result in a few words."""
    took = duration(result["seconds"]) if "seconds" in result else ""
    if result["status"] != "done":
        return f"{result['row']}: failed ({result['why']})"
    worst = f", worst attack {result['worst']:.2f}" if "worst" in result else ""
    again = f", begun {result['attempts']} times" if result.get("attempts", 1) > 1 else ""
    return f"{result['row']}: {result['verdict']}{worst}, {took}{again}"
