"""A whole round of the ``paper`` preset against the reference's, block by block in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .gallery import SEED, World, gallery_world, reference_of
from .rows import Options, Result, row, timed, wait

BLOCK = 50  # steps between two turns


class Turns:
    """A report that lets the reference take as many steps as ours took, and keeps both clocks.

    Ours is stopped at every ``BLOCK`` steps; what it did since goes on its account. Without another
    only ours is timed.
    """

    def __init__(self, stage: str, other: Callable[[int, int], None] | None):
        self._stage, self._other = stage, other
        self.ours: list[float] = []
        self.theirs: list[float] = []
        self._done = 0
        self._start = time.perf_counter()

    def __call__(self, report: Any) -> None:
        due = report.step == report.steps or report.step - self._done >= BLOCK
        if report.stage != self._stage or report.part or report.step == 0 or not due:
            return
        wait()
        self.ours.append(time.perf_counter() - self._start)
        first, self._done = self._done, report.step
        if self._other is not None:
            self.theirs.append(timed(partial(self._other, first, report.step - first)))
        self._start = time.perf_counter()

    def rest(self) -> None:
        """What ours did after its last report."""
        wait()
        self.ours[-1] += time.perf_counter() - self._start


class ReferenceRound:
    """The reference's steps on draws of its own."""

    def __init__(self, world: World):
        self._world, self._reference = world, reference_of(world)
        self._gen, self._device = torch.Generator().manual_seed(1), world.session.device
        tokens = world.anchor[0]
        start = torch.randn(32, tokens.shape[-1], generator=self._gen)
        self.context = (start * tokens.std() + tokens.mean()).to(self._device)
        self._images = world.pool.latents[:3].to(self._device)
        self._made = self._images

    def mine(self, first: int, count: int) -> None:
        from dark_miner.benchmarks.reference import MineDraw

        def draws():
            for _ in range(count):
                yield MineDraw(self._images, self._noise(3), self._levels(3))

        self.context, _ = self._reference.mine(self.context, draws(), first)

    def circumvent(self, first: int, count: int) -> None:
        from dark_miner.benchmarks.reference import CircumventDraw

        def draws():
            for _ in range(count):
                x = self._made[int(torch.randint(len(self._made), (), generator=self._gen))][None]
                yield CircumventDraw(x, self._noise(1), self._levels(1), self.context[None])

        self._reference.circumvent(self._world.anchor.to(self._device), draws(), first)

    def verify(self) -> None:
        noise = self._noise(1)
        for context in (self._world.anchor, self.context[None]):
            self._pictures(self._reference.erased, context, noise)

    def pictures(self, count: int) -> None:
        noise = self._noise(count)
        self._made = self._pictures(self._reference.original, self.context[None], noise)

    def _pictures(self, unet: Any, context: Tensor, noise: Tensor) -> Tensor:
        s, empty = self._world.sampling, self._world.empty.to(self._device)
        return self._reference.pictures(
            unet, context.to(self._device), empty, noise, steps=s.steps, guidance=s.cfg
        )

    def _noise(self, count: int) -> Tensor:
        shape = (count, *self._world.session.latent_shape)
        return torch.randn(shape, generator=self._gen).to(self._device)

    def _levels(self, count: int) -> Tensor:
        return torch.randint(1000, (count,), generator=self._gen).to(self._device)


class Ours:
    """The engine's stages of one round, one after the other."""

    def __init__(self, world: World, config: Any, adapters: Any):
        from dark_miner.darkminer.types import EmbeddingPool

        self._world, self._config, self._adapters = world, config, adapters
        self._pool = EmbeddingPool(concept=world.pool.concept)
        self._common = (world.session, world.pool, world.anchor)

    def mine(self, report: Any) -> None:
        from dark_miner.darkminer.method.mine import mine

        self._mined = mine(
            *self._common, self._config.mine, seed=SEED, round_=1, report=report
        ).embeddings
        self._pool = self._pool.opened(self._mined)

    def verify(self) -> None:
        """Pictures and scores; only the pictures where there is nothing to look at them with."""
        from dark_miner.darkminer.method.verify import verify
        from dark_miner.darkminer.model.sampling import sample_each

        world = self._world
        if world.encode is None:
            contexts = [c for e in self._mined for c in (world.anchor[0], e.context)]
            for c in contexts:
                noise = torch.randn(1, *world.session.latent_shape).to(world.session.device)
                sample_each(world.session, [c], noise)
            return
        verify(
            world.session, world.encode, self._mined, world.anchor, world.pool,
            self._config.verify, seed=SEED, round_=1, adapters=self._adapters,
        )  # fmt: skip

    def pictures(self) -> None:
        from dark_miner.darkminer.method.circumvent import with_pictures

        self._pool = with_pictures(
            self._world.session, self._adapters, self._pool,
            self._config.circumvent.images, seed=SEED,
        )  # fmt: skip

    def circumvent(self, report: Any) -> None:
        from dark_miner.darkminer.method.circumvent import circumvent

        circumvent(
            self._world.session, self._adapters, self._pool, self._world.anchor,
            self._config.circumvent, seed=SEED, report=report,
        )  # fmt: skip


Seconds = dict[str, dict[str, list[float]]]


def stages(world: World, config: Any, against_reference: bool = True) -> Seconds:
    """Seconds of each stage's blocks, ours and the reference's."""
    from dark_miner.darkminer.method.loop import new_adapters

    theirs, result = ReferenceRound(world) if against_reference else None, {}
    few = {"steps": 2}
    warm = replace(
        config, mine=replace(config.mine, **few), circumvent=replace(config.circumvent, **few)
    )
    for settings, other in ((warm, None), (config, theirs)):  # both sides start warm
        if theirs is not None:
            theirs.mine(0, 2)
            theirs.circumvent(0, 2)
        adapters = new_adapters(world.session, settings.lora, seed=SEED)
        try:
            result = _one_round(Ours(world, settings, adapters), other, settings)
        finally:
            adapters.remove()
    return result


def _one_round(ours: Ours, theirs: ReferenceRound | None, config: Any) -> Seconds:
    result: Seconds = {}

    def trained(stage: str) -> None:
        turns = Turns(stage, getattr(theirs, stage) if theirs else None)
        getattr(ours, stage)(turns)
        turns.rest()
        result[stage] = {"reference": turns.theirs, "ours": turns.ours}

    def pictured(stage: str, *args: int) -> None:
        other = [timed(partial(getattr(theirs, stage), *args))] if theirs else []
        result[stage] = {"reference": other, "ours": [timed(getattr(ours, stage))]}

    trained("mine")
    pictured("verify")
    pictured("pictures", config.circumvent.images)
    trained("circumvent")
    return result


def total(found: Seconds) -> dict[str, float]:
    """Seconds of the whole round, the reference's and ours."""
    return {who: sum(sum(s[who]) for s in found.values()) for who in ("reference", "ours")}


@row
def paper_round(options: Options) -> Result:
    """Gallery model, preset paper, a whole round: reference time / ours (goal at least 3)."""
    from dark_miner.darkminer.config import PAPER

    config = PAPER
    if options.steps is not None:
        config = replace(
            PAPER,
            mine=replace(PAPER.mine, steps=options.steps),
            circumvent=replace(PAPER.circumvent, steps=options.steps),
        )
    with gallery_world(options.style) as world:
        found = stages(world, config)
    seconds = total(found)
    details: dict[str, Any] = {"seconds": seconds}
    for stage, both in found.items():
        per_block = {who: statistics.median(values) for who, values in both.items()}
        details[stage] = {
            "seconds": {who: sum(values) for who, values in both.items()},
            "median_block": per_block,
            "ratio_of_medians": per_block["reference"] / per_block["ours"],
        }
    note = "" if options.steps is None else f"{options.steps} steps a stage instead of 1000"
    return Result(seconds["reference"] / seconds["ours"], 3.0, True, details, note)
