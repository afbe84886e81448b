"""Whole runs: growth over fifty rounds, and preset ``paper`` against preset ``fast``."""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from .gallery import SEED, gallery_world
from .rows import Options, Result, resident_bytes, row, timed

LATE, SPAN = 50, 5
WHOLE = 48
"""Rounds that a whole run of preset paper is counted as; the preset itself sets no limit."""


@row
def growth(options: Options) -> Result:
    """Gallery model: time and memory of round 50 / round 2 (goal at most 1.1)."""
    from dark_miner.darkminer.config import PAPER
    from dark_miner.darkminer.method.loop import erase

    steps, rounds = options.steps or 12, options.rounds or LATE
    config = replace(
        PAPER,
        max_rounds=rounds,
        mine=replace(PAPER.mine, steps=steps),
        verify=replace(PAPER.verify, threshold=-1.0),  # every round goes on
        circumvent=replace(PAPER.circumvent, steps=steps),
    )
    seconds: list[float] = []
    memory: list[int] = []
    with gallery_world(options.style) as world:
        # The process's own time: fifty rounds take minutes, in which other work comes and goes.
        start = time.process_time()

        def on_round(_: Any) -> None:
            nonlocal start
            seconds.append(time.process_time() - start)
            memory.append(resident_bytes())
            start = time.process_time()

        erase(
            world.session, world.encode, world.pool, world.anchor, config, seed=SEED,
            on_round=on_round,
        )  # fmt: skip
    early = slice(1, 1 + SPAN)
    pace = statistics.median(seconds[-SPAN:]) / statistics.median(seconds[early])
    size = memory[-1] / memory[1]
    details = {
        "time, late / early": pace,
        "memory, last / second": size,
        "seconds of a round, early": statistics.median(seconds[early]),
        "seconds of a round, late": statistics.median(seconds[-SPAN:]),
        "resident MB, second round": memory[1] / 2**20,
        "resident MB, last round": memory[-1] / 2**20,
    }
    note = f"{rounds} rounds of {steps} steps a stage; medians of {SPAN} rounds"
    return Result(max(pace, size), 1.1, False, details, note)


@row
def paper_vs_fast(options: Options) -> Result:
    """Gallery model: N rounds of preset paper / preset fast, time alone (goal at least 20)."""
    from dark_miner.benchmarks.erasure import erase_target
    from dark_miner.benchmarks.targets import Target
    from dark_miner.darkminer.config import FAST, PAPER

    measured = options.rounds or 1
    # No verdict may end the paper's rounds early: their price is what is asked.
    paper = replace(
        PAPER, max_rounds=measured, verify=replace(PAPER.verify, threshold=-1.0)
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "erase.safetensors"
        spent: dict[str, float] = {}
        for name, config in (("fast", FAST), ("paper", paper)):
            spent[name] = timed(lambda c=config: erase_target(Target(options.style), SEED, c, path))
    whole = spent["paper"] * WHOLE / measured
    details = {
        "seconds, fast": spent["fast"],
        f"seconds, paper, {measured} rounds": spent["paper"],
        f"seconds, paper, {WHOLE} rounds, extrapolated": whole,
        "rounds of paper that cost one fast run": spent["fast"] / spent["paper"] * measured,
    }
    note = "the pool is in both; what the rounds reach is benchmarks.quality's to say"
    return Result(whole / spent["fast"], 20.0, True, details, note)
