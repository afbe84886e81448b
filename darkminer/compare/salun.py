"""SalUn: saliency unlearning (Fan et al., ICLR 2024, arXiv 2310.12508), its form for generation.

Only weights that matter for the concept move: those whose gradient of the denoising loss on the
concept's pictures is largest (equation 3, its median as the limit). They learn to say of these
pictures, under the concept's prompt c, what the model says under another one c' (equation 6):

    L = |e(x_t, c) - sg[e(x_t, c')]|^2 + b |e(y_t, a) - noise|^2

with x the concept's pictures and y, a pictures that stay and their prompts.

What differs from the authors' code: linear layers of the attention blocks move and not the whole
network, c' is one anchor prompt, retained pictures are the model's own, and what the weights have
changed by becomes a LoRA by SVD, with its error told: a masked change has full rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..method.engine import Targets, join, noised
from ..model.interface import DiffusionModel
from ..model.sampling import predict_each
from ..rng import generator
from ..settings import setting
from ..types import Report, Tally, silent
from .config import ComparedConfig
from .layers import layers_of_part
from .weights import Weights, gradients, opened, salient, train

STAGE = "salun"


@dataclass(frozen=True)
class SalUnConfig(ComparedConfig):
    """Settings of SalUn."""

    lr: float = setting(1e-4, "learning rate", above=0)
    lr_late: float = setting(1e-4, "learning rate from step lr_drop on", above=0)
    batch: int = setting(4, "pictures of the concept in a step, and pictures that stay", low=1)
    share: float = setting(0.5, "of the weights, those that may move", low=0, high=1)
    beta: float = setting(1.0, "weight b of the pictures that stay", low=0)
    looks: int = setting(16, "batches that the saliency is taken from", low=1)


def salun(
    model: DiffusionModel,
    pictures: Tensor,
    concept: Tensor,
    other: Tensor,
    stay: Sequence[Tensor],
    latents: Tensor,
    config: SalUnConfig,
    *,
    seed: int,
    report: Report = silent,
) -> tuple[dict[str, Tensor], list[float]]:
    """What each weight is to change by, ``[out, in]``, and the loss of each step.

    Args:
        pictures: of the concept, ``[n, C, h, w]``; concept, other: c and c', ``[L, D]``.
        stay: prompts ``[L, D]`` that stay; latents: a picture of each, ``[m, C, h, w]``.

    Raises:
        DivergedError: if a loss is not finite or the weights have grown beyond their limit.
    """
    gen = generator(seed, 0, "compare.salun")
    with opened(model, layers_of_part(model, "all")) as weights:
        weights.masks = saliency(model, weights, pictures, concept, config, gen, report)

        def rows() -> Targets:
            x = drawn(model, pictures, config.batch, gen)
            answer = predict_each(model, x.noisy, x.timestep, [other] * config.batch)
            weight = torch.full((config.batch,), 1.0 / config.batch)
            told = Targets(x.noisy, x.timestep, [concept] * config.batch, answer, weight)
            if not config.beta:
                return told
            which = torch.randint(len(stay), (config.batch,), generator=gen)
            y = noised(model, latents[which], gen)
            kept = [stay[int(i)] for i in which]
            return join([
                told, Targets(y.noisy, y.timestep, kept, y.truth, config.beta * weight)
            ])  # fmt: skip

        losses = train(model, weights, rows, config, stage=STAGE, report=report)
        return {path: change.cpu() for path, change in weights.changes().items()}, losses


def drawn(model: DiffusionModel, pictures: Tensor, count: int, gen: torch.Generator):
    """Some pictures with noise, see :func:`~..method.engine.noised`."""
    return noised(model, pictures[torch.randint(len(pictures), (count,), generator=gen)], gen)


def saliency(
    model: DiffusionModel,
    weights: Weights,
    pictures: Tensor,
    concept: Tensor,
    config: SalUnConfig,
    gen: torch.Generator,
    report: Report = silent,
) -> dict[str, Tensor]:
    """Equation 3: which entries of each weight may move, ``[out, in]`` bool."""
    total = {path: torch.zeros_like(p.data) for path, p in weights.parameters().items()}
    tally = Tally(report, STAGE, 0, config.looks, "saliency")
    for _ in range(config.looks):
        x = drawn(model, pictures, config.batch, gen)
        weight = torch.full((config.batch,), 1.0 / config.batch)
        rows = Targets(x.noisy, x.timestep, [concept] * config.batch, x.truth, weight)
        model.memory.attempt(gradients, model, weights, rows)
        for path, parameter in weights.parameters().items():
            assert parameter.grad is not None
            total[path] += parameter.grad
        tally(1)
    return salient({path: size.abs() for path, size in total.items()}, config.share)
