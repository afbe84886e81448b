"""The paper's figure 3: what a model draws from gamma times a context, gamma from 1 to below 0.

A context that is scaled down loses the concept; where an erasure moves whole directions instead of
single contexts, the curve after it is flat.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..judge.evaluate import Mean, Proportion
from ..types import Tally
from .scene import ATTACK, Attempt, Scene

GAMMAS = (1.0, 0.75, 0.5, 0.25, 0.0, -0.25, -0.5)


@dataclass(frozen=True)
class Point:
    """What comes of one gamma.

    Attributes:
        gamma: what the contexts were multiplied with.
        score: how sure the detector is, on average; ratio: in how many pictures it counts.
        pictures: one a prompt, ``[n, H, W, 3]`` in 0..1.
    """

    gamma: float
    score: Mean
    ratio: Proportion
    pictures: Tensor = field(repr=False)


def gamma_curve(scene: Scene, gammas: Sequence[float] = GAMMAS) -> list[Point]:
    """Pictures of every prompt's scaled context, each prompt's on the same noise.

    Raises:
        DarkMinerError: if the scene has no model or no detector.
    """
    detect = scene.need("detector")
    tally = Tally(scene.report, ATTACK, 0, len(gammas) * len(scene.prompts), "pictures")
    points = []
    for gamma in gammas:
        pictures = []
        for i, prompt in enumerate(scene.prompts):
            pictures.append(scene.picture(i, Attempt(prompt, gamma * scene.contexts[i])))
            tally(1, pictures[-1])
        drawn = torch.cat(pictures)
        sight = detect(drawn)
        ratio = Proportion(int(sight.hits.sum()), len(sight.hits))
        points.append(Point(gamma, Mean.of(sight.scores), ratio, drawn))
    return points
