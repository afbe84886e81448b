"""Concept Ablation (CA): Ablating Concepts in Text-to-Image Diffusion Models (Kumari et al., ICCV
2023, arXiv 2303.13516), its model-based form.

Pictures of the anchor are kept, and the prompt that names the concept learns to say what the
anchor's prompt says on them (equation 4):

    L = |e(x_t, c) - sg[e(x_t, a)]|^2 + w |e(x_t, a) - noise|^2

where x shows the anchor, sg stops gradients of the *student's own* answer, and the second term, on
the same pictures, holds the anchor (their regularisation, off by default in the paper's figures of
styles). The keys and values of the cross-attention are trained.

What differs from the authors' code: a LoRA in place of the weights; prompts are the pool's template
with words of the vocabulary rather than a language model's; pictures are drawn by the host's
sampler as the user sets it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..method.engine import Targets, join, noised
from ..method.trainer import Trainer
from ..model.adapter import Adapters
from ..model.interface import DiffusionModel
from ..model.sampling import predict_each
from ..rng import generator
from ..settings import setting
from ..types import Report, silent
from .config import ComparedConfig

STAGE = "ablation"


@dataclass(frozen=True)
class AblationConfig(ComparedConfig):
    """Settings of Concept Ablation."""

    batch: int = setting(8, "pictures of a step", low=1)
    prior: float = setting(0.0, "weight w of the anchor's own denoising", low=0)


def ablate(
    model: DiffusionModel,
    adapters: Adapters,
    pairs: Sequence[tuple[Tensor, Tensor]],
    latents: Tensor,
    config: AblationConfig,
    *,
    seed: int,
    report: Report = silent,
) -> list[float]:
    """Train the adapters; the loss of each step.

    Args:
        pairs: contexts ``[L, D]`` of a prompt that names the concept and of the same without it.
        latents: a picture of each pair's second prompt by the original model, ``[n, C, h, w]``.

    Raises:
        DivergedError: if a loss is not finite or the LoRA has grown beyond its limit.
    """
    gen = generator(seed, 0, "compare.ablation")
    trainer = Trainer(model, adapters, config, stage=STAGE, round_=0, report=report)
    for _ in range(config.steps):
        which = torch.randint(len(pairs), (config.batch,), generator=gen)
        chosen = [pairs[int(i)] for i in which]
        made = noised(model, latents[which], gen)
        anchors = [anchor for _, anchor in chosen]
        # The student's own answer, not the original model's: no gradient passes here.
        answer = predict_each(model, made.noisy, made.timestep, anchors)
        weight = torch.full((config.batch,), 1.0 / config.batch)
        said = [concept for concept, _ in chosen]
        rows = Targets(made.noisy, made.timestep, said, answer, weight)
        if config.prior:
            held = Targets(made.noisy, made.timestep, anchors, made.truth, config.prior * weight)
            rows = join([rows, held])
        trainer.step(lambda rows=rows: rows)
    return trainer.losses()
