"""A whole round of the ``paper`` preset against the reference's, block by block in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from .gallery import SEED, World, gallery_reference, gallery_world
from .rows import Options, Result, row, timed, wait

BLOCK = 50  # steps between two turns


class Turns:
    """A report that lets the reference take as many steps as ours took, and keeps both clocks.

    Ours is stopped at every ``BLOCK`` steps; what it did since goes on its account.
    """

    def __init__(self, stage: str, other: Callable[[int, int], None]):
        self._stage, self._other = stage, other
        self.ours: list[float] = []
        self.theirs: list[float] = []
        self._done = 0
        self._start = time.perf_counter()

    def __call__(self, report: Any) -> None:
        due = report.step == report.steps or report.step - self._done >= BLOCK
        if report.stage != self._stage or report.step == 0 or not due:
            return
        wait()
        self.ours.append(time.perf_counter() - self._start)
        first, self._done = self._done, report.step
        self.theirs.append(timed(lambda: self._other(first, report.step - first)))
        self._start = time.perf_counter()

    def rest(self) -> None:
        """What ours did after its last report."""
        wait()
        self.ours[-1] += time.perf_counter() - self._start


class ReferenceRound:
    """The reference's steps on draws of its own."""

    def __init__(self, world: World):
        self._world, self._reference = world, gallery_reference(world)
        self._gen = torch.Generator().manual_seed(1)
        tokens = world.anchor[0]
        start = torch.randn(32, tokens.shape[-1], generator=self._gen)
        self.context = start * tokens.std() + tokens.mean()
        self._images = world.pool.latents[:3]
        self._made = self._images

    def mine(self, first: int, count: int) -> None:
        from dark_miner.benchmarks.reference import MineDraw

        def draws():
            for _ in range(count):
                noise = torch.randn(self._images.shape, generator=self._gen)
                yield MineDraw(self._images, noise, torch.randint(1000, (3,), generator=self._gen))

        self.context, _ = self._reference.mine(self.context, draws(), first)

    def circumvent(self, first: int, count: int) -> None:
        from dark_miner.benchmarks.reference import CircumventDraw

        def draws():
            for _ in range(count):
                x = self._made[int(torch.randint(len(self._made), (), generator=self._gen))][None]
                noise = torch.randn(x.shape, generator=self._gen)
                t = torch.randint(1000, (1,), generator=self._gen)
                yield CircumventDraw(x, noise, t, self.context[None])

        self._reference.circumvent(self._world.anchor, draws(), first)

    def verify(self) -> None:
        noise = torch.randn(1, *self._world.session.latent_shape, generator=self._gen)
        for context in (self._world.anchor, self.context[None]):
            self._pictures(self._reference.erased, context, noise)

    def pictures(self, count: int) -> None:
        noise = torch.randn(count, *self._world.session.latent_shape, generator=self._gen)
        self._made = self._pictures(self._reference.original, self.context[None], noise)

    def _pictures(self, unet: Any, context: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        s = self._world.sampling
        return self._reference.pictures(
            unet, context, self._world.empty, noise, steps=s.steps, guidance=s.cfg
        )


def stages(world: World, config: Any) -> dict[str, dict[str, list[float]]]:
    """Seconds of each stage's blocks, ours and the reference's."""
    from dark_miner.darkminer.circumvent import circumvent, with_pictures
    from dark_miner.darkminer.loop import new_adapters
    from dark_miner.darkminer.mine import mine
    from dark_miner.darkminer.types import EmbeddingPool
    from dark_miner.darkminer.verify import verify

    theirs, session, result = ReferenceRound(world), world.session, {}
    theirs.mine(0, 2)
    theirs.circumvent(0, 2)  # both sides start warm
    adapters = new_adapters(session, config.circumvent, seed=SEED)
    try:
        warm = replace(config.mine, steps=2)
        mine(session, world.pool, world.anchor, warm, seed=SEED, round_=9)
        turns = Turns("mine", theirs.mine)
        found = mine(
            session, world.pool, world.anchor, config.mine, seed=SEED, round_=1, report=turns
        ).embeddings
        turns.rest()
        result["mine"] = {"reference": turns.theirs, "ours": turns.ours}
        seconds = timed(
            lambda: verify(
                session, world.encode, found, world.anchor, world.pool, config.verify, seed=SEED,
                round_=1, adapters=adapters,
            )
        )  # fmt: skip
        result["verify"] = {"reference": [timed(theirs.verify)], "ours": [seconds]}
        pool = EmbeddingPool(concept=world.pool.concept).opened(found)
        start = time.perf_counter()
        pool = with_pictures(session, adapters, pool, config.circumvent, seed=SEED)
        seconds = time.perf_counter() - start
        made = timed(lambda: theirs.pictures(config.circumvent.images))
        result["pictures"] = {"reference": [made], "ours": [seconds]}
        turns = Turns("circumvent", theirs.circumvent)
        circumvent(
            session, adapters, pool, world.anchor, config.circumvent, seed=SEED, report=turns
        )
        turns.rest()
        result["circumvent"] = {"reference": turns.theirs, "ours": turns.ours}
    finally:
        adapters.remove()
    return result


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
    total = {who: sum(sum(s[who]) for s in found.values()) for who in ("reference", "ours")}
    details: dict[str, Any] = {"seconds": total}
    for stage, both in found.items():
        per_block = {who: statistics.median(values) for who, values in both.items()}
        details[stage] = {
            "seconds": {who: sum(values) for who, values in both.items()},
            "median_block": per_block,
            "ratio_of_medians": per_block["reference"] / per_block["ours"],
        }
    note = "" if options.steps is None else f"{options.steps} steps a stage instead of 1000"
    return Result(total["reference"] / total["ours"], 3.0, True, details, note)
