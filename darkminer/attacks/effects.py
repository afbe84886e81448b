"""What an erasure does besides: how much of it is needed, and what it does to other prompts.

The strength curve asks the prompts in words with the LoRA at a quarter to its whole strength: who
loads it weaker, to spare other pictures, sees what comes back. Drift is that of
:class:`~..method.guard.Guard`, of prompts that do not name the concept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..finite import in_stage
from ..judge.evaluate import Mean, Proportion
from ..method.guard import Guard, GuardConfig
from ..method.retain import Retain, RetainConfig
from ..types import Tally
from .scene import ATTACK, Attempt, Scene

STRENGTHS = (0.25, 0.5, 0.75, 1.0)
DRAWS = 4
"""Noisy pictures of each unrelated prompt; one is drawn by the original model."""


@dataclass(frozen=True)
class Point:
    """What the prompts as they are come to with the LoRA at one strength.

    Attributes:
        strength: what the LoRA is multiplied with.
        score: how sure the detector is, on average; ratio: in how many pictures it counts.
    """

    strength: float
    score: Mean
    ratio: Proportion


@dataclass(frozen=True)
class Drift:
    """How far prompts that have nothing to do with the concept have moved.

    Attributes:
        value: the root of their squared shifts over the original model's own squared errors; 0 is
            no shift, 1 as much as that model is wrong by itself.
        prompts: what was asked.
    """

    value: float
    prompts: tuple[str, ...]


@dataclass(frozen=True)
class Effects:
    """Both.

    Attributes:
        strengths: a point for each of :data:`STRENGTHS`.
        drift: at strength 1.
    """

    strengths: tuple[Point, ...]
    drift: Drift


@in_stage(ATTACK)
def effects(
    scene: Scene, unrelated: Sequence[tuple[str, Tensor]], strengths: Sequence[float] = STRENGTHS
) -> Effects:
    """Measure both on a scene whose model carries an erasure.

    Args:
        unrelated: prompts that do not name the concept, each with its context ``[L, D]``.

    Raises:
        DarkMinerError: if the scene has no model, no detector or no erasure on it.
    """
    return Effects(strength_curve(scene, strengths), drift_of(scene, unrelated))


def strength_curve(scene: Scene, strengths: Sequence[float] = STRENGTHS) -> tuple[Point, ...]:
    """Pictures of every prompt as it is, on the same noise at each strength."""
    detect, adapters = scene.need("detector"), scene.need("adapters")
    tally = Tally(scene.report, ATTACK, 0, len(strengths) * len(scene.prompts), "strengths")
    points: list[Point] = []
    for strength in strengths:
        drawn: list[Tensor] = []
        with adapters.at(strength):
            for i, prompt in enumerate(scene.prompts):
                drawn.append(scene.picture(i, Attempt(prompt, scene.contexts[i])))
                tally(1, drawn[-1])
        sight = detect(torch.cat(drawn))
        ratio = Proportion(int(sight.hits.sum()), len(sight.hits))
        points.append(Point(strength, Mean.of(sight.scores), ratio))
    return tuple(points)


def drift_of(scene: Scene, unrelated: Sequence[tuple[str, Tensor]]) -> Drift:
    """Of the model with its whole erasure, on pictures that it drew without."""
    model, adapters = scene.need("model"), scene.need("adapters")
    keep = [context[None] for _, context in unrelated]
    guard = Guard(
        model, adapters, Retain(RetainConfig(keep_images=1), keep=keep, made={}), keep[0],
        GuardConfig(prompts=len(keep), draws=DRAWS), seed=scene.seed, report=scene.report,
    )  # fmt: skip
    value = guard.drift(0, Tally(scene.report, ATTACK, 0, len(guard), "drift"))
    return Drift(value, tuple(prompt for prompt, _ in unrelated))
