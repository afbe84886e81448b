"""Where rows run: here one after the other, or on a cluster of Ray's."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from ..darkminer.errors import DarkMinerError
from .process import Task, Work, run_row
from .reading import Machine

_AHEAD = 4  # rows that Ray knows of, for each that can run at once: enough to keep all busy
_LEAST = 16


class Executor(Protocol):
    """Runs tasks and gives their results in the order in which they end."""

    def run(self, tasks: Iterable[Task]) -> Iterator[dict[str, Any]]: ...


def executor(machine: Machine, work: Work = run_row) -> Executor:
    """The one that a plan asks for.

    Raises:
        DarkMinerError: if it asks for Ray, and that is missing or cannot be reached.
    """
    there = importlib.util.find_spec("ray") is not None
    if machine.ray == "off" or (machine.ray == "auto" and not there):
        return Here(work)
    if not there:
        raise DarkMinerError(
            "machine.ray names a cluster and Ray is not installed: pip install 'ray[default]', or "
            "write off."
        )
    return OnRay(machine, work)


class Here:
    """One row after the other, on this machine."""

    where = "on this machine, one after the other"

    def __init__(self, work: Work = run_row):
        self._work = work

    def run(self, tasks: Iterable[Task]) -> Iterator[dict[str, Any]]:
        """Results, in the order of the tasks."""
        for task in tasks:
            yield self._work(task)


class OnRay:
    """Every row a task of Ray's, which begins again where its machine is lost.

    Ray is told of a few rows ahead of those that can run, so that thousands cost no memory.

    Raises:
        DarkMinerError: if the cluster cannot be reached, or no machine of it can take a row.
    """

    def __init__(self, machine: Machine, work: Work = run_row):
        self._ray: Any = importlib.import_module("ray")
        self._machine = machine
        self._connect()
        self._require_room()
        # The other machines' Pythons have no package of the pack: its function travels whole.
        self._ray.cloudpickle.register_pickle_by_value(sys.modules[work.__module__])
        options = {"num_cpus": machine.num_cpus, "num_gpus": machine.num_gpus,
                   "max_retries": machine.retries}  # fmt: skip
        self._task = self._ray.remote(**options)(work)

    @property
    def where(self) -> str:
        """The cluster in words."""
        nodes = sum(bool(node["Alive"]) for node in self._ray.nodes())
        context = self._ray.get_runtime_context()
        return f"on Ray, {nodes} machine{'s' * (nodes != 1)} ({context.gcs_address})"

    def run(self, tasks: Iterable[Task]) -> Iterator[dict[str, Any]]:
        """Results, in the order in which they come."""
        waiting: dict[Any, Task] = {}
        left = iter(tasks)
        more = True
        while more or waiting:
            ahead = self._ahead()
            while more and len(waiting) < ahead:
                task = next(left, None)
                more = task is not None
                if task is not None:
                    waiting[self._named(task).remote(task)] = task
            ready, _ = self._ray.wait(list(waiting), num_returns=1) if waiting else ([], [])
            for reference in ready:
                yield self._result(reference, waiting.pop(reference))

    def _named(self, task: Task) -> Any:
        """The task as Ray's dashboard shows it: by checkpoint, since Ray keeps figures of every
        name that it has met, and thousands of them would fill the driver's memory."""
        return self._task.options(name=f"erase from {task['row']['checkpoint']}")

    def _result(self, reference: Any, task: Task) -> dict[str, Any]:
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            said = " ".join(str(error).split())[:300]
            return {
                "row": task["name"], "digest": task["digest"], "status": "failed",
                "why": f"Ray could not run the row ({said}).",
            }  # fmt: skip

    def _connect(self) -> None:
        if self._ray.is_initialized():
            return
        # "auto" takes the cluster that RAY_ADDRESS names, or that of this machine, or begins one.
        address = None if self._machine.ray == "auto" else self._machine.ray
        try:
            self._ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError) as error:
            said = " ".join(str(error).split())[:300]
            raise DarkMinerError(
                f"Ray cannot be reached at {address or 'this machine'} ({said}): start it, or "
                "write ray: off."
            ) from error

    def _require_room(self) -> None:
        machine = self._machine
        for node in self._ray.nodes():
            has = node["Resources"]
            if (
                node["Alive"]
                and has.get("CPU", 0) >= machine.num_cpus
                and has.get("GPU", 0) >= machine.num_gpus
            ):
                return
        raise DarkMinerError(
            f"No machine of Ray's has {machine.num_cpus} CPUs and {machine.num_gpus:g} GPUs for a "
            "row: lower machine.num_cpus or num_gpus, or add a machine."
        )

    def _ahead(self) -> int:
        has, machine = self._ray.cluster_resources(), self._machine
        slots = has.get("CPU", 0) / machine.num_cpus
        if machine.num_gpus:
            slots = min(slots, has.get("GPU", 0) / machine.num_gpus)
        return max(_LEAST, _AHEAD * int(slots))
