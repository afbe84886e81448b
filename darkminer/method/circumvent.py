"""Circumventing: train the adapters so that the embeddings lead to the anchor (section 3.2.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ..errors import DarkMinerError
from ..finite import in_stage
from ..model.adapter import Adapters
from ..model.interface import DiffusionModel
from ..model.sampling import pictures_each, sample_each, seeded_noise
from ..rng import generator
from ..settings import setting
from ..standing import UNKEPT, Checkpoints
from ..types import EmbeddingPool, MinedEmbedding, Report, Tally, silent
from .engine import Plan, noised
from .losses import preserved_contexts
from .optim import TrainingConfig
from .retain import NOTHING, Retain
from .trainer import train_as_planned

Preserved = Literal["c0", "0c", "-c"]
PRESERVED: tuple[Preserved, ...] = ("c0", "0c", "-c")


@dataclass(frozen=True)
class CircumventConfig(TrainingConfig):
    """Circumventing (equations 7 and 8)."""

    batch: int = setting(1, "embeddings (and x, t, noise) per step", low=1)
    r: float = setting(0.7, "probability of an embedding of the newest round", low=0, high=1)
    alpha_c: float = setting(1.0, "weight of the circumventing loss, equation 7", low=0)
    alpha_p: float = setting(0.5, "weight of the preserving loss, equation 8", low=0)
    preserved: tuple[Preserved, ...] = setting(
        PRESERVED,
        "parts of equation 8: the anchor, the zero context, the opposite of c",
        choices=PRESERVED,
    )
    images: int = setting(4, "pictures the original model makes from each embedding (x)", low=1)
    fresh: bool = setting(
        False, "whether every step makes a new picture x instead of drawing one of those"
    )
    eta: float = setting(
        0.0,
        "how far the target lies past the anchor, e0(c0) - eta (e0(c) - e0(c0)); 0 is equation 7",
        low=0,
    )


@dataclass(frozen=True)
class TrainResult:
    """The pool, with every entry's pictures unless each step made its own, and each step's loss."""

    embeddings: EmbeddingPool
    losses: list[float]


@in_stage("circumvent")
def circumvent(
    model: DiffusionModel,
    adapters: Adapters,
    embeddings: EmbeddingPool,
    anchor: Tensor,
    config: CircumventConfig,
    *,
    seed: int,
    retain: Retain = NOTHING,
    checkpoints: Checkpoints = UNKEPT,
    report: Report = silent,
) -> TrainResult:
    """Train ``adapters`` in place with ``alpha_c l_c + alpha_p l_p`` (equations 7 and 8).

    The teacher is the same network with its adapters off; only the adapters' tensors are optimised.

    Args:
        anchor: context of c0, ``[1, L0, D]``.
        retain: what must not change besides.
        checkpoints: where it goes on from, and where it is kept on the way.

    Raises:
        DarkMinerError: if there is nothing to circumvent.
        DivergedError: if a loss is not finite.
        OutOfTime: if the run's time is up.
    """
    if not embeddings.entries:
        raise DarkMinerError(
            "The embedding pool is empty: mine an embedding (or make the concept's contexts) first."
        )
    round_ = embeddings.round
    if not config.fresh:
        embeddings = with_pictures(
            model, adapters, embeddings, config.images, seed=seed, report=report
        )
    gen = generator(seed, round_, "circumvent")
    retain.close_exactly(model, adapters)
    kept = retain.in_training(
        model, adapters, "bank.probe", seed=seed, round_=round_, report=report
    )

    def plan(step: int) -> list[Plan]:
        erasing = plan_erasing(model, adapters, embeddings, anchor, config, gen)
        return [erasing, *(entries.plan(step, gen) for entries in kept)]

    losses = train_as_planned(
        model, adapters, plan, config, retain.config.refresh if kept else config.steps,
        stage="circumvent", round_=round_, gen=gen, kept=kept, checkpoints=checkpoints,
        report=report,
    )  # fmt: skip
    return TrainResult(embeddings, losses)


def with_pictures(
    model: DiffusionModel,
    adapters: Adapters,
    embeddings: EmbeddingPool,
    images: int,
    *,
    seed: int,
    stage: str = "circumvent",
    report: Report = silent,
) -> EmbeddingPool:
    """Fill in what the *original* model makes from each entry that has no latents yet.

    Args:
        images: pictures per entry.
        stage: what reports call it.
    """
    missing = [i for i, e in enumerate(embeddings.entries) if e.latents is None]
    if not missing:
        return embeddings
    entries = list(embeddings.entries)
    gen = generator(seed, embeddings.round, "pictures")
    tally = Tally(report, stage, embeddings.round, len(missing) * images, "pictures")
    with adapters.off():
        made = pictures_each(model, [entries[i].context for i in missing], images, gen, tally)
    for i, latents in zip(missing, made, strict=True):
        entries[i] = replace(entries[i], latents=latents.clone())
    return replace(embeddings, entries=tuple(entries))


def plan_erasing(
    model: DiffusionModel,
    adapters: Adapters,
    embeddings: EmbeddingPool,
    anchor: Tensor,
    config: CircumventConfig,
    gen: torch.Generator,
) -> Plan:
    """Equations 7 and 8 on one batch of embeddings; each mean is over the batch."""
    drawn = [_draw(embeddings, config.r, gen) for _ in range(config.batch)]
    made = noised(model, _pictures(model, adapters, drawn, config, gen), gen)
    plan, rows = Plan(made.noisy, made.timestep), range(len(drawn))
    anchors = [anchor[0] if e.anchor is None else e.anchor for e in drawn]
    preserved = [preserved_contexts(e.context, config.preserved) for e in drawn]
    at_anchor = [plan.ask(i, anchors[i]) for i in rows]
    at_concept = [plan.ask(i, drawn[i].context) if config.eta else None for i in rows]
    for i in rows:
        plan.want(
            i, drawn[i].context, config.alpha_c / len(rows), at_anchor[i], at_concept[i], config.eta
        )
    if config.alpha_p:
        weight = config.alpha_p / len(rows)
        for i in rows if "c0" in config.preserved else ():
            plan.want(i, anchors[i], weight, at_anchor[i])
        for i in rows:
            for context in preserved[i]:
                plan.want(i, context, weight, plan.ask(i, context))
    return plan


def _draw(embeddings: EmbeddingPool, r: float, gen: torch.Generator) -> MinedEmbedding:
    """With probability r one of the newest round, else one of the earlier rounds."""
    current, earlier = embeddings.current(), embeddings.earlier()
    newest = bool(torch.rand((), generator=gen) < r)
    group = (current or earlier) if newest else (earlier or current)
    return group[int(torch.randint(len(group), (), generator=gen))]


def _pictures(
    model: DiffusionModel,
    adapters: Adapters,
    drawn: Sequence[MinedEmbedding],
    config: CircumventConfig,
    gen: torch.Generator,
) -> Tensor:
    """A picture x of each embedding by the original model, ``[B, C, h, w]``."""
    if config.fresh:
        noise = seeded_noise(model, len(drawn), gen)
        with adapters.off():
            return sample_each(model, [e.context for e in drawn], noise)
    return torch.stack([e.picture(gen) for e in drawn])
