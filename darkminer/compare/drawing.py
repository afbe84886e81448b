"""Pictures half drawn by the model as it stands, as several methods take them to train on.

The methods' own codes stop the host's sampler on its way. Here the way is DDIM without noise
(Song et al., 2021, equation 12, sigma 0) over the MODEL's own levels, for all three predictions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..model.interface import DiffusionModel
from ..model.sampling import seeded_noise


def levels(model: DiffusionModel, steps: int) -> list[int]:
    """Indices of ``steps`` levels of the schedule, evenly from the noisiest to the cleanest."""
    return torch.linspace(len(model.schedule) - 1, 0, steps).round().long().tolist()


@torch.no_grad()
def half_drawn(
    model: DiffusionModel,
    context: Tensor,
    empty: Tensor,
    count: int,
    gen: torch.Generator,
    *,
    steps: int,
    guidance: float,
) -> tuple[Tensor, Tensor]:
    """Pictures that the network as it stands has drawn up to a random level.

    Args:
        context, empty: the prompt's and the empty prompt's, ``[L, D]`` and ``[L0, D]``.
        count: how many, all up to the same level.
        gen: gives noise and level.
        steps: of a whole picture; guidance: classifier-free; 1 is none.

    Returns:
        noisy latents ``[count, C, h, w]`` and their levels ``[count]``, on the CPU.
    """
    x = seeded_noise(model, count, gen)
    places = levels(model, steps)
    stop = int(torch.randint(steps, (), generator=gen))
    for here, there in zip(places[:stop], places[1 : stop + 1], strict=True):
        index = torch.full((count,), here)
        answer = _guided(model, x, index, context, empty, guidance)
        clean, noise = model.schedule.clean_and_noise(answer, x, index)
        x = model.schedule.add_noise(clean, noise, torch.full((count,), there))
    return x.float().cpu(), torch.full((count,), places[stop])


def _guided(
    model: DiffusionModel,
    x: Tensor,
    index: Tensor,
    context: Tensor,
    empty: Tensor,
    guidance: float,
) -> Tensor:
    def ask(said: Tensor) -> Tensor:
        many = said.to(model.device).expand(len(x), -1, -1)
        return model.denoise(x, model.schedule.timestep(index, x), many)

    if guidance == 1.0:
        return ask(context)
    if len(context) != len(empty):
        without, along = ask(empty), ask(context)
    else:
        both = torch.stack([empty, context]).to(model.device).repeat_interleave(len(x), 0)
        twice = model.schedule.timestep(index.repeat(2), x)
        without, along = model.denoise(x.repeat(2, 1, 1, 1), twice, both).chunk(2)
    return without + guidance * (along - without)
