"""Repairing: what an erasure has moved besides the concept is brought back, under guard.

An erasure that lets no attacker through has pushed hard, and its neighbours have paid. Training on
the retain sets alone brings them back in a few hundred steps, and the concept with them. So the
concept's own prompts, the attackers of the chase and unrelated prompts on the concept's pictures
stand guard: few rows, of little weight, that hold where the chase has brought them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..finite import in_stage
from ..model.adapter import Adapters
from ..model.interface import DiffusionModel
from ..rng import generator
from ..settings import setting
from ..standing import UNKEPT, Checkpoints
from ..types import EmbeddingPool, MinedEmbedding, Report, silent
from .engine import Plan, noised
from .optim import LR, LR_LATE, ExtraConfig
from .retain import NOTHING, Retain
from .text_start import concept_texts
from .trainer import train_as_planned


@dataclass(frozen=True)
class RepairConfig(ExtraConfig):
    """Repairing, between the chase and the first round; the paper has none of it."""

    steps: int = setting(0, "steps of repairing; 0 leaves it out", low=0)
    lr: float = setting(1e-3, LR, above=0)
    lr_late: float = setting(2e-4, LR_LATE, above=0)
    batch: int = setting(8, "the concept's own prompts per step that stand guard", low=1)
    replay: int = setting(4, "attackers' last values per step that stand guard", low=0)
    unrelated: int = setting(
        4, "unrelated prompts (of the vocabulary bank) per step that stand guard", low=0
    )
    weight: float = setting(0.3, "weight of the guards' mean error", low=0)
    eta: float = setting(1.5, "how far past the anchor the guards' targets lie", low=0)
    retain_batch: int = setting(16, "entries of each retain set per step", low=1)


@in_stage("repair")
def repair(
    model: DiffusionModel,
    adapters: Adapters,
    embeddings: EmbeddingPool,
    anchor: Tensor,
    config: RepairConfig,
    *,
    seed: int,
    retain: Retain = NOTHING,
    checkpoints: Checkpoints = UNKEPT,
    report: Report = silent,
) -> list[float]:
    """Train ``adapters`` in place towards the retain sets; the loss of each step.

    Args:
        embeddings: hold the concept's own contexts and the attackers', with pictures.
        anchor: context of c0, ``[1, L0, D]``.
        checkpoints: where it goes on from, and where it is kept on the way.

    Raises:
        DarkMinerError: if no context of the concept is there.
        DivergedError: if a loss is not finite.
        OutOfTime: if the run's time is up.
    """
    round_ = embeddings.round
    gen = generator(seed, round_, "repair")
    retain.close_exactly(model, adapters)
    retain = replace(retain, config=replace(retain.config, batch=config.retain_batch))
    kept = retain.in_training(model, adapters, "repair.{}", seed=seed, round_=round_, report=report)
    texts = [e for e in concept_texts(embeddings, "repair") if e.latents is not None]
    others = [e for e in embeddings.entries if e.kind != "text" and e.latents is not None]
    unrelated = retain.bank.contexts if retain.bank is not None else ()

    def plan(step: int) -> list[Plan]:
        guards = _guards(model, texts, others, anchor, unrelated, config, gen)
        return [guards, *(entries.plan(step, gen) for entries in kept)]

    return train_as_planned(
        model, adapters, plan, config, retain.config.refresh if kept else config.steps,
        stage="repair", round_=round_, gen=gen, kept=kept, checkpoints=checkpoints,
        report=report,
    )  # fmt: skip


def _guards(
    model: DiffusionModel,
    texts: Sequence[MinedEmbedding],
    others: Sequence[MinedEmbedding],
    anchor: Tensor,
    unrelated: Sequence[Tensor],
    config: RepairConfig,
    gen: torch.Generator,
) -> Plan:
    """Rows on the concept's pictures: its own prompts (texts), attackers (others), unrelated
    prompts.
    """
    own = [_one(texts, gen) for _ in range(config.batch)]
    past = [_one(others, gen) for _ in range(config.replay if others else 0)]
    seen = [_one(texts, gen) for _ in range(config.unrelated if len(unrelated) else 0)]
    made = noised(model, torch.stack([e.picture(gen) for e in (*own, *past, *seen)]), gen)
    plan = Plan(made.noisy, made.timestep)
    weight = config.weight / len(made.noisy)
    for i, entry in enumerate((*own, *past, *seen)):
        # An attacker has no prompt: it is led away from the concept's plainest.
        concept = entry if entry.kind == "text" else texts[0]
        at_anchor = plan.ask(i, anchor[0] if concept.anchor is None else concept.anchor)
        at_concept = plan.ask(i, concept.context)
        if i < len(own) + len(past):
            plan.want(i, entry.context, weight, at_anchor, at_concept, config.eta)
            continue
        context = unrelated[int(torch.randint(len(unrelated), (), generator=gen))]
        plan.want(
            i, context, weight, plan.ask(i, context), at_concept, config.eta, anchor=at_anchor
        )
    return plan


def _one(entries: Sequence[MinedEmbedding], gen: torch.Generator) -> MinedEmbedding:
    return entries[int(torch.randint(len(entries), (), generator=gen))]
