"""How fast a network is, asked before a run begins."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from ..model.interface import DiffusionModel


@torch.no_grad()
def seconds_per_row(model: DiffusionModel, context: Tensor) -> float:
    """What a row through the network takes, of two passes of a whole batch: the second counts.

    Nothing is drawn at random, and nothing is kept.

    Args:
        context: any prompt's, ``[1, L, D]``.
    """
    x = torch.zeros(model.batch, *model.latent_shape, device=model.device)
    index = torch.full((len(x),), len(model.schedule) // 2)
    timestep = model.schedule.timestep(index, x)
    rows = context.to(model.device).expand(len(x), -1, -1)
    begun = 0.0
    for _ in range(2):
        begun = time.perf_counter()
        float(model.denoise(x, timestep, rows).float().sum())  # waits for the device
    return (time.perf_counter() - begun) / len(x)
