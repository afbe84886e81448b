"""Erases a target of the gallery through the loop node's own functions, and saves the LoRA."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .targets import Target

log = logging.getLogger(__name__)

POOL_SIZE = 200
ANCHOR, NEGATIVE = "a drawing", ""


def gallery_sampling():
    """How every gallery picture is made."""
    from dark_miner.darkminer.model.sampling import SamplingConfig
    from dark_miner.demo.gallery import SAMPLING as s

    return SamplingConfig(s["steps"], s["cfg"], s["sampler_name"], s["scheduler"], batch=64)


def log_stages(plan: Any = None):
    """A report that logs how far a run is, and what each stage's loss came to.

    Args:
        plan: the run's :class:`~dark_miner.darkminer.progress.plan.Plan`, if it is known.
    """
    from dark_miner.darkminer.progress.lines import Lines
    from dark_miner.darkminer.types import StepReport

    started = time.monotonic()
    lines = Lines(lambda line: log.info("%6.1f s  %s", time.monotonic() - started, line), plan)

    def report(r: StepReport) -> None:
        lines(r)
        if r.loss is not None and r.step == r.steps:
            seconds = time.monotonic() - started
            log.info("%6.1f s  %s, round %d: loss %.3f", seconds, r.stage, r.round, r.loss)

    return report


@dataclass(frozen=True)
class Given:
    """What an erasure starts from, apart from its settings.

    Attributes:
        anchor: the prompt of c0.
        pool_size, pool_seed: of the image pool; the seed is the erasure's own where None.
        keep: prompts whose pictures must not change.
    """

    anchor: str = ANCHOR
    pool_size: int = POOL_SIZE
    pool_seed: int | None = None
    keep: tuple[str, ...] = ()


def erase_target(
    target: Target,
    seed: int,
    config: Any,
    path: Path,
    given: Given = Given(),
    at: Mapping[int, Path] | None = None,
) -> tuple[Any, float]:
    """Erase a target from the gallery model and save the LoRA to ``path``.

    Args:
        at: rounds after which the LoRA is saved as well, and where.

    Returns:
        the erasure and the seconds from loaded models to saved file, the pool included.
    """
    from dark_miner.darkminer.files.lora_file import save_lora, to_state_dict
    from dark_miner.darkminer.progress.plan import pool_plan
    from dark_miner.demo.gallery import HELD_OUT, SIZE
    from dark_miner.demo.models import load_demo_models
    from dark_miner.nodes.erase.erasing import run_erasure, run_plan
    from dark_miner.nodes.erase.image_pool import made
    from dark_miner.nodes.host.lora import names_of
    from dark_miner.nodes.host.text import contexts
    from dark_miner.nodes.host.vision import vision_encoder

    model, clip, vae, clip_vision = load_demo_models()
    started = time.monotonic()
    sampling, keep = gallery_sampling(), [c[None] for c in contexts(clip, list(given.keep))]
    run = run_plan(config, sampling, keep=keep)
    report = log_stages(
        replace(run, parts=(*pool_plan(given.pool_size, sampling).parts, *run.parts))
    )
    pool_seed = seed if given.pool_seed is None else given.pool_seed
    pool = made(
        model, clip, vae, target.name, target.template, NEGATIVE,
        given.pool_size, SIZE, SIZE, pool_seed, sampling, report,
    )  # fmt: skip
    names = names_of(model)

    def save_round(done: Any) -> None:
        if at and (file := at.get(done.embeddings.round)):
            save_lora(file, to_state_dict(done.adapters, names), {})

    done, lora = run_erasure(
        model, clip, vae, vision_encoder(clip_vision, "quality"), pool, config,
        anchor=given.anchor, negative=NEGATIVE, sampling=sampling, seed=seed, exclude=HELD_OUT,
        keep=keep, report=report, on_round=save_round,
    )  # fmt: skip
    save_lora(path, lora, lora.metadata)
    return done, time.monotonic() - started


def erasing_config(
    preset: str, rounds: int | None, keep_exact: float = 0.0, assignments: Sequence[str] = ()
) -> Any:
    """A preset, with another number of rounds, exact keeping and other settings where given.

    Args:
        assignments: each "place=value", e.g. "chase.unrelated_eta=2.5", see
            :func:`~dark_miner.darkminer.settings.changed`; the later one counts.

    Raises:
        ValueError: if there is no such setting, or the value is not of its kind or range.
    """
    from dark_miner.darkminer.config import PRESETS
    from dark_miner.darkminer.settings import changed

    config = PRESETS[preset]
    config = replace(
        config,
        max_rounds=config.max_rounds if rounds is None else rounds,
        retain=replace(config.retain, keep_exact=keep_exact),
    )
    for assignment in assignments:
        place, equals, text = assignment.partition("=")
        if not equals:
            raise ValueError(f"{assignment!r}: write SETTING=VALUE, e.g. chase.unrelated_eta=2.5.")
        config = changed(config, place, text)
    return config


def print_rounds(done: Any) -> None:
    """What each round's embeddings scored, and the threshold they were held against."""
    for record in done.embeddings.history:
        scores = ", ".join(f"{s:.2f}" for s in record.scores)
        print(f"round {record.round}: scores {scores}; tau {record.threshold:.2f}")
