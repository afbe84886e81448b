"""What a row is, and how it takes time: interleaved, medians, with the machine's name."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Options:
    """What the command line says.

    Attributes:
        steps: optimiser steps of each stage; None for the preset's own (an honest whole).
        repeats: how often a comparison is repeated.
        rounds: rounds of a long run.
        style: gallery style that is erased.
    """

    steps: int | None = None
    repeats: int = 7
    rounds: int | None = None
    style: str = "ink"


@dataclass(frozen=True)
class Result:
    """A measured figure.

    Attributes:
        value: what the goal speaks of; None when it could not be measured here.
        goal: the value to reach.
        higher: whether more is better.
        details: medians and what else explains the figure.
        note: what a reader must know, e.g. that only a part was run.
    """

    value: float | None
    goal: float
    higher: bool
    details: dict[str, Any] = field(default_factory=dict)
    note: str = ""

    @property
    def met(self) -> bool | None:
        if self.value is None:
            return None
        return self.value >= self.goal if self.higher else self.value <= self.goal


@dataclass(frozen=True)
class Row:
    """One figure: its function and, in a line, what it shows and its goal."""

    run: Callable[[Options], Result]
    about: str


ROWS: dict[str, Row] = {}


def row(function: Callable[[Options], Result]) -> Callable[[Options], Result]:
    """Register a function as the row of its name; its docstring's first line describes it."""
    about = (function.__doc__ or "").strip().splitlines()[0]
    ROWS[function.__name__] = Row(function, about)
    return function


def timed(function: Callable[[], Any]) -> float:
    """Seconds that ``function`` takes, the GPU's work included."""
    wait()
    start = time.perf_counter()
    function()
    wait()
    return time.perf_counter() - start


def wait() -> None:
    """Until the GPU has done what it was given."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def interleaved(
    functions: Mapping[str, Callable[[], Any]], repeats: int, warm_up: bool = True
) -> dict[str, list[float]]:
    """Seconds of each function, taking turns, so that a busy machine slows all alike."""
    if warm_up:
        for function in functions.values():
            function()
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            seconds[name].append(timed(function))
    return seconds


def medians(seconds: Mapping[str, list[float]]) -> dict[str, float]:
    return {name: statistics.median(values) for name, values in seconds.items()}


def machine() -> dict[str, Any]:
    """Which machine this is."""
    import torch

    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": [round(x, 2) for x in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        "gpu": gpu,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def resident_bytes() -> int:
    """Memory of this process."""
    import psutil

    return psutil.Process().memory_info().rss
