"""Erases a target of the gallery through the loop node's own functions, and saves the LoRA."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from .targets import Target

log = logging.getLogger(__name__)

POOL_SIZE = 200
ANCHOR, NEGATIVE = "a drawing", ""


def gallery_sampling():
    """How every gallery picture is made."""
    from dark_miner.darkminer.config import SamplingConfig
    from dark_miner.demo.gallery import SAMPLING as s

    return SamplingConfig(s["steps"], s["cfg"], s["sampler_name"], s["scheduler"], batch=64)


def log_stages():
    """A report that logs when a stage begins and what its loss came to."""
    from dark_miner.darkminer.types import StepReport

    seen: set[tuple[str, int]] = set()
    started = time.monotonic()

    def report(r: StepReport) -> None:
        seconds = time.monotonic() - started
        if (r.stage, r.round) not in seen:
            seen.add((r.stage, r.round))
            log.info("%6.1f s  %s, round %d", seconds, r.stage, r.round)
        if r.loss is not None and r.step == r.steps:
            log.info("%6.1f s  %s, round %d: loss %.3f", seconds, r.stage, r.round, r.loss)

    return report


def erase_target(
    target: Target, seed: int, preset: str, rounds: int | None, path: Path, config: Any = None
) -> tuple[Any, float]:
    """Erase a target from the gallery model and save the LoRA to ``path``.

    Returns:
        the erasure and the seconds from loaded models to saved file, the pool included.
    """
    from dark_miner.darkminer.config import PRESETS
    from dark_miner.darkminer.lora_file import save_lora
    from dark_miner.demo.gallery import HELD_OUT, SIZE
    from dark_miner.demo.models import load_demo_models
    from dark_miner.nodes.erasing import run_erasure
    from dark_miner.nodes.host_vision import vision_encoder
    from dark_miner.nodes.image_pool import made

    model, clip, vae, clip_vision = load_demo_models()
    started = time.monotonic()
    config = config or PRESETS[preset]
    if rounds is not None:
        config = replace(config, max_rounds=rounds)
    sampling, report = gallery_sampling(), log_stages()
    pool = made(
        model, clip, vae, target.name, target.template.replace("*", target.name), NEGATIVE,
        POOL_SIZE, SIZE, SIZE, seed, sampling, report,
    )  # fmt: skip
    done, lora = run_erasure(
        model, clip, vae, vision_encoder(clip_vision, "quality"), pool, config, anchor=ANCHOR,
        negative=NEGATIVE, sampling=sampling, seed=seed, exclude=HELD_OUT, report=report,
    )  # fmt: skip
    save_lora(path, lora, lora.metadata)
    return done, time.monotonic() - started
