"""The context attack: a few context vectors optimised directly, past the text encoder.

What any text could reach at best: after each step every vector is scaled down to the largest norm
that the text encoder's outputs have.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..model.interface import DiffusionModel
from ..rng import generator
from ..types import Report, silent
from .common import AttackConfig, Watch, optimise


def optimise_context(
    model: DiffusionModel,
    latents: Tensor,
    vectors: int,
    start: Tensor,
    config: AttackConfig,
    *,
    seed: int,
    max_norm: float | None,
    report: Report = silent,
    watch: Watch | None = None,
) -> tuple[Tensor, list[float]]:
    """Learn ``vectors`` context vectors that make the model draw the concept.

    Args:
        latents: the concept's own pictures, ``[n, C, h, w]`` in model space.
        start: context of a neutral prompt, ``[1, L, D]``; start values are drawn from its tokens.
        max_norm: largest norm of a vector; None leaves it free (a bound, beyond any text).
        watch: see :data:`~.common.Watch`.

    Returns:
        the context ``[1, vectors, D]`` and the loss of each step.
    """
    gen = generator(seed, 0, f"attack.context.{vectors}")
    tokens = start[0].detach().float()
    chosen = torch.randint(len(tokens), (vectors,), generator=gen)
    context = tokens[chosen][None].clone().to(model.device)

    def project(c: Tensor) -> None:
        norm = c.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        c.mul_((float(max_norm or 0.0) / norm).clamp(max=1.0))

    losses = optimise(
        model,
        latents,
        context,
        lambda c, which: c.expand(len(which), -1, -1),
        config,
        gen,
        stage="context attack",
        report=report,
        watch=watch,
        after_step=project if max_norm is not None else None,
    )
    return context.detach(), losses
