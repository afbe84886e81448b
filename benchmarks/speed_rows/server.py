"""The loop node on a real server against the same run by the bare library."""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..hosted import ROOT, script
from .gallery import ANCHOR, NEGATIVE, TEMPLATE, gallery_pool
from .rows import Options, Result, row

STEPS, POOL = 60, 24


def prompt(style: str, seed: int, steps: int, sampling: Any) -> dict[str, Any]:
    """One round of preset paper with the gallery's models."""

    def node(kind: str, **inputs: Any) -> dict[str, Any]:
        return {"class_type": kind, "inputs": inputs}

    shared = {
        "sampling_steps": sampling.steps, "cfg": sampling.cfg, "sampler_name": sampling.sampler,
        "scheduler": sampling.scheduler, "batch_size": sampling.batch,
    }  # fmt: skip
    models = {"model": ["m", 0], "clip": ["m", 1], "vae": ["m", 2]}
    return {
        "m": node("DarkMinerDemoModels"),
        "pool": node(
            "ImagePoolBuilder", **models, concept=style, template=TEMPLATE, size=POOL, width=32,
            height=32, seed=0, **shared,
        ),
        "loop": node(
            "DarkMinerLoop", **models, clip_vision=["m", 3], pool=["pool", 0],
            anchor_prompt=ANCHOR, negative_prompt=NEGATIVE, preset="paper", max_rounds=1,
            seed=seed, **shared, threshold="-1", mine_steps=steps, circumvent_steps=steps,
        ),
        "save": node("SaveErasureLoRA", lora=["loop", 1], filename_prefix="loras/speed"),
    }  # fmt: skip


class LoopClock:
    """Seconds between the server's start of the loop node and of the next one."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._start: float | None = None

    def __call__(self, kind: str, data: dict[str, Any]) -> None:
        if kind != "executing":
            return
        now = time.perf_counter()
        if self._start is not None:
            self.seconds, self._start = now - self._start, None
        if data.get("node") == "loop":
            self._start = now


def by_library(models: tuple[Any, ...], pool: Any, seed: int, steps: int, sampling: Any) -> float:
    """Seconds of the same run without nodes."""
    from dark_miner.darkminer.config import PAPER
    from dark_miner.nodes.erase.erasing import run_erasure
    from dark_miner.nodes.host.vision import vision_encoder

    model, clip, vae, vision = models
    config = replace(
        PAPER,
        max_rounds=1,
        mine=replace(PAPER.mine, steps=steps),
        verify=replace(PAPER.verify, threshold=-1.0),
        circumvent=replace(PAPER.circumvent, steps=steps),
    )
    start = time.perf_counter()
    run_erasure(
        model, clip, vae, vision_encoder(vision, "speed"), pool, config, anchor=ANCHOR,
        negative=NEGATIVE, sampling=sampling, seed=seed,
    )  # fmt: skip
    return time.perf_counter() - start


@row
def server_overhead(options: Options) -> Result:
    """Gallery model: DarkMinerLoop through a server / the bare library (goal at most 1.03)."""
    from dark_miner.benchmarks.erasure import gallery_sampling
    from dark_miner.demo.models import load_demo_models

    steps, sampling, tools = options.steps or STEPS, gallery_sampling(), script("comfy_server")
    models = load_demo_models()
    pool = gallery_pool(models, options.style, POOL, sampling)
    taken: dict[str, list[float]] = {"server": [], "library": []}

    async def ask(address: str, seed: int) -> float:
        clock = LoopClock()
        async with tools.Client(address) as client:
            await client.run(prompt(options.style, seed, steps, sampling), clock)
        return clock.seconds

    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        tools.prepare_base(base, ROOT)
        host = Path(os.environ["COMFYUI_PATH"])
        with tools.Server(host, sys.executable, base, base / "output", cpu=True) as server:
            asyncio.run(ask(server.address, 99))  # both sides start warm
            by_library(models, pool, 99, steps, sampling)
            for seed in range(options.repeats):
                taken["server"].append(asyncio.run(ask(server.address, seed)))
                taken["library"].append(by_library(models, pool, seed, steps, sampling))
    pairs = zip(taken["server"], taken["library"], strict=True)
    ratio = statistics.median(s / o for s, o in pairs)
    details = {f"seconds, {who}": statistics.median(v) for who, v in taken.items()}
    note = f"{steps} steps a stage; the median of {options.repeats} ratios of neighbours"
    return Result(ratio, 1.03, False, details, note)
