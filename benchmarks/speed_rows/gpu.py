"""Rows for a GPU: full-size networks. Without one they run the same code on a small network and
report nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from .full_size import (
    SD15,
    SDXL,
    SMALL,
    Family,
    full_size_world,
    meta_network,
    meta_question,
)
from .gallery import SEED, World, random_embedding
from .paper_round import stages, total
from .rows import Options, Result, row, timed

GIB = 2**30
PASS = 4  # samples that preset paper trains on at once


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
        circumvent=replace(config.circumvent, steps=steps),
    )


@row
def sd15_round(options: Options) -> Result:
    """SD 1.5 at 512x512, GPU: reference fp32 / ours bf16 (goal 20); seconds of paper and fast."""
    from dark_miner.darkminer.config import FAST, PAPER

    with full_size_world(family_here(SD15)) as world:
        both = stages(world, scaled(PAPER, options))
        # The text start, tokens and bank of preset fast need a CLIP: what is timed is its round.
        bare = replace(FAST, mine=replace(FAST.mine, tokens=0))
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
    from dark_miner.darkminer.config import PAPER
    from dark_miner.darkminer.method.circumvent import circumvent
    from dark_miner.darkminer.method.mine import mine
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
    from dark_miner.darkminer.method.loop import new_adapters

    ceiling = matrix_ceiling()
    with full_size_world(family_here(SD15)) as world:
        adapters = new_adapters(world.session, PAPER.lora, seed=SEED)
        try:
            steps = options.steps or (60 if torch.cuda.is_available() else 2)
            shares = {
                name: share(run, steps, ceiling) for name, run in runs(world, adapters).items()
            }
        finally:
            adapters.remove()
    details = {"ceiling, TFLOP/s": ceiling / 1e12, "share": shares}
    return Result(figure(min(shares.values())), 0.4, True, details, note())


BUDGETS = {"SD 1.5": (SD15, 6.0), "SDXL": (SDXL, 12.0)}  # GiB


def estimate(family: Family, budget: float) -> dict[str, float | bool | None]:
    """GiB that training takes within a budget, from the shapes alone; nothing is computed.

    Weights in bfloat16, and per sample what autograd keeps (counted tensor by tensor on torch's
    meta device), times what a pass takes beyond it; see :mod:`dark_miner.darkminer.model.memory`.
    """
    from dark_miner.darkminer.model.memory import WITHIN, Memory

    network = meta_network(family)
    weights = sum(p.numel() * p.element_size() for p in network.parameters())
    memory = Memory()
    ask = meta_question(network, family, memory)
    sizes = {by: memory.sample_bytes(ask, by_block=by) / GIB for by in (False, True)}
    memory.free = lambda: int(budget * GIB - weights)
    ask()  # makes the plan
    size = WITHIN[memory.by_block] * sizes[memory.by_block]
    samples = min(memory.trained or PASS, PASS)
    return {
        "weights": weights / GIB,
        "kept by a sample": sizes[False],
        "kept by a sample, block by block": sizes[True],
        "samples a pass": memory.trained,
        "block by block": memory.by_block,
        "peak": weights / GIB + size * samples,
    }


@row
def memory(options: Options) -> Result:
    """Preset paper: peak GiB of SD 1.5 at 512x512 (goal 6) and of SDXL at 1024x1024 (goal 12).

    Measured on a GPU, where the process can have no more than that; elsewhere estimated.
    """
    cuda = torch.cuda.is_available()
    found = {name: estimate(family, budget) for name, (family, budget) in BUDGETS.items()}
    details: dict[str, Any] = {f"estimate, {name}, GiB": v for name, v in found.items()}
    peaks = {name: float(v["peak"] or 0.0) for name, v in found.items()}
    if cuda:
        peaks = {name: measured_peak(*budget, options) for name, budget in BUDGETS.items()}
        details["measured peak, GiB"] = peaks
    worst = max(peaks[name] / budget for name, (_, budget) in BUDGETS.items())
    details |= {"peak, GiB": peaks, "budget, GiB": {n: b for n, (_, b) in BUDGETS.items()}}
    note = "peak over its budget, the worse of both" + ("" if cuda else "; estimated, no GPU here")
    return Result(worst, 1.0, False, details, note)


def measured_peak(family: Family, budget: float, options: Options) -> float:
    """GiB held at the most, of a process that cannot have more than ``budget`` GiB."""
    from dark_miner.darkminer.config import PAPER
    from dark_miner.darkminer.method.loop import new_adapters

    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    whole = torch.cuda.get_device_properties().total_memory
    with full_size_world(family) as world:
        world.session.memory.free = lambda: int(budget * GIB) - torch.cuda.memory_allocated()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.set_per_process_memory_fraction(budget * GIB / whole)
        adapters = new_adapters(world.session, PAPER.lora, seed=SEED)
        try:
            for run in runs(world, adapters).values():
                run(options.steps or 2)
        finally:
            adapters.remove()
            torch.cuda.set_per_process_memory_fraction(1.0)
    return torch.cuda.max_memory_reserved() / GIB
