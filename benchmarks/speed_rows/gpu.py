"""Rows for a GPU: full-size networks. Without one they run the same code on a small network and
report nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from .full_size import SD15, SDXL, SMALL, Family, full_size_world
from .gallery import SEED, World, random_embedding
from .paper_round import stages, total
from .rows import Options, Result, row, timed

GIB = 2**30


def family_here(family: Family) -> Family:
    return family if torch.cuda.is_available() else SMALL


def figure(value: float) -> float | None:
    """A value that counts only where a GPU gave it."""
    return value if torch.cuda.is_available() else None


def note() -> str:
    return "" if torch.cuda.is_available() else "no GPU here: a small network ran the same code"


def scaled(config: Any, options: Options) -> Any:
    """The preset with ``options.steps`` steps a stage; two of them where there is no GPU."""
    steps = options.steps or (None if torch.cuda.is_available() else 2)
    if steps is None:
        return config
    return replace(
        config,
        mine=replace(config.mine, steps=steps, tokens=0),
        circumvent=replace(config.circumvent, steps=steps, bank_weight=0.0),
    )


@row
def sd15_round(options: Options) -> Result:
    """SD 1.5 at 512x512, GPU: reference fp32 / ours bf16 (goal 20); seconds of paper and fast."""
    from dark_miner.darkminer.config import FAST, PAPER

    with full_size_world(family_here(SD15)) as world:
        both = stages(world, scaled(PAPER, options))
        # The text start, tokens and bank of preset fast need a CLIP: what is timed is its round.
        bare = replace(
            FAST,
            mine=replace(FAST.mine, tokens=0),
            circumvent=replace(FAST.circumvent, bank_weight=0.0),
        )
        fast = stages(world, scaled(bare, options), against_reference=False)
    seconds = total(both)
    details = {
        "seconds, paper": seconds,
        "goal, paper, ours, on an H100 or H200": 45.0,
        "seconds, fast's round without tokens and bank": total(fast)["ours"],
        "goal, fast": 10.0,
    }
    ratio = seconds["reference"] / seconds["ours"]
    return Result(figure(ratio), 20.0, True, details, note())


@row
def sdxl_round(options: Options) -> Result:
    """SDXL at 1024x1024, GPU: seconds of a round of preset paper (goal at most 300)."""
    from dark_miner.darkminer.config import PAPER

    with full_size_world(family_here(SDXL)) as world:
        found = stages(world, scaled(PAPER, options), against_reference=False)
    details = {stage: sum(both["ours"]) for stage, both in found.items()}
    return Result(figure(total(found)["ours"]), 300.0, False, {"seconds": details}, note())


def matrix_ceiling() -> float:
    """Operations a second of large bfloat16 products (float32 on a CPU)."""
    cuda = torch.cuda.is_available()
    n = 8192 if cuda else 256
    a = torch.randn(n, n, device="cuda" if cuda else "cpu")
    a = a.bfloat16() if cuda else a
    seconds = min(timed(lambda: a @ a) for _ in range(10))
    return 2 * n**3 / seconds


def share(run: Callable[[int], None], steps: int, ceiling: float) -> float:
    """Counted operations of a step over what the ceiling would do in its time."""
    from torch.utils.flop_counter import FlopCounterMode

    run(1)
    with FlopCounterMode(display=False) as counter:
        run(1)
    extra = [timed(lambda n=n: run(n)) for n in (1, 1 + steps)]
    return counter.get_total_flops() * steps / (extra[1] - extra[0]) / ceiling


def runs(world: World, adapters: Any) -> dict[str, Callable[[int], None]]:
    """Mining and circumventing of preset paper for a number of steps."""
    from dark_miner.darkminer.circumvent import circumvent
    from dark_miner.darkminer.config import PAPER
    from dark_miner.darkminer.mine import mine
    from dark_miner.darkminer.types import EmbeddingPool

    pool = EmbeddingPool((random_embedding(world),), round=1, concept="concept")
    s, anchor = world.session, world.anchor

    def mining(steps: int) -> None:
        config = replace(PAPER.mine, steps=steps)
        mine(s, world.pool, anchor, config, seed=SEED, round_=1)

    def circumventing(steps: int) -> None:
        config = replace(PAPER.circumvent, steps=steps)
        circumvent(s, adapters, pool, anchor, config, seed=SEED)

    return {"mine": mining, "circumvent": circumventing}


@row
def matmul_share(options: Options) -> Result:
    """SD 1.5, GPU: share of the measured matrix-product ceiling, the lower stage (goal 0.4)."""
    from dark_miner.darkminer.config import PAPER
    from dark_miner.darkminer.loop import new_adapters

    ceiling = matrix_ceiling()
    with full_size_world(family_here(SD15)) as world:
        adapters = new_adapters(world.session, PAPER.circumvent, seed=SEED)
        try:
            steps = options.steps or (60 if torch.cuda.is_available() else 2)
            shares = {
                name: share(run, steps, ceiling) for name, run in runs(world, adapters).items()
            }
        finally:
            adapters.remove()
    details = {"ceiling, TFLOP/s": ceiling / 1e12, "share": shares}
    return Result(figure(min(shares.values())), 0.4, True, details, note())


@row
def memory(options: Options) -> Result:
    """Preset paper, GPU: peak GiB of SD 1.5 at 512x512 (goal 6), and of SDXL at 1024x1024 (12)."""
    from dark_miner.darkminer.config import PAPER
    from dark_miner.darkminer.loop import new_adapters

    cuda, peaks = torch.cuda.is_available(), {}
    for name, family in (("SD 1.5", SD15), ("SDXL", SDXL)):
        if cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        with full_size_world(family_here(family)) as world:
            adapters = new_adapters(world.session, PAPER.circumvent, seed=SEED)
            try:
                for run in runs(world, adapters).values():
                    run(options.steps or 2)
            finally:
                adapters.remove()
        peaks[name] = torch.cuda.max_memory_allocated() / GIB if cuda else None
    details = {"peak GiB": peaks, "goal, SDXL": 12.0}
    return Result(peaks["SD 1.5"], 6.0, False, details, note())
