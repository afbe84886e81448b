"""Pictures for the stages: many contexts, in batches of one length, from seeded noise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..finite import NETWORK, VAE, Giver, finite, is_finite
from ..rng import normal
from ..settings import Settings, setting
from .interface import DiffusionModel
from .memory import in_halves


@dataclass(frozen=True)
class SamplingConfig(Settings):
    """How pictures are made, by the host's own samplers and schedulers."""

    steps: int = setting(50, "sampling steps of every picture", low=1)
    cfg: float = setting(
        7.5, "classifier-free guidance between prompt and negative; 1 is none", low=0
    )
    sampler: str = setting("ddim", "the host's sampler")
    scheduler: str = setting("normal", "the host's noise schedule")
    batch: int = setting(8, "pictures made at once; less when memory runs out", low=1)


Made = Callable[[int], object]
"""Told how many pictures or predictions have been made since it was last told."""


def unwatched(_: int) -> None:
    """A :data:`Made` that does nothing."""


def seeded_noise(model: DiffusionModel, count: int, gen: torch.Generator) -> Tensor:
    """Unit noise for ``count`` pictures, ``[count, C, h, w]`` on the model's device."""
    return normal((count, *model.latent_shape), gen, torch.empty(0, device=model.device))


def of_one_length(contexts: Sequence[Tensor], batch: int) -> Iterator[list[int]]:
    """Indices of contexts ``[L_i, D]`` that fit into one batch: at most ``batch``, of equal L."""
    lengths: dict[int, list[int]] = {}
    for i, context in enumerate(contexts):
        lengths.setdefault(len(context), []).append(i)
    for members in lengths.values():
        for start in range(0, len(members), batch):
            yield members[start : start + batch]


def alike(
    contexts: Sequence[Tensor], *columns: Tensor, batch: int | None = None
) -> Iterator[tuple[list[int], Tensor, tuple[Tensor, ...]]]:
    """Contexts ``[L_i, D]`` with what belongs to each, parted into batches of one length.

    Args:
        columns: tensors ``[n, ...]`` with one row for each context.
        batch: rows in a batch at the most; None sets no limit.

    Yields:
        the rows' indices, their contexts ``[b, L, D]`` and their part of every column.
    """
    for rows in of_one_length(contexts, batch or len(contexts)):
        yield rows, torch.stack([contexts[i] for i in rows]), tuple(c[rows] for c in columns)


@torch.no_grad()
def sample_each(
    model: DiffusionModel, contexts: Sequence[Tensor], noise: Tensor, made: Made = unwatched
) -> Tensor:
    """One picture's latents per context, with the network as it stands.

    Args:
        contexts: n contexts ``[L_i, D]``; their lengths may differ.
        noise: ``[n, C, h, w]``.
        made: told after every batch.

    Returns:
        ``[n, C, h, w]`` float32 CPU.

    Raises:
        NotFiniteError: if they are not finite; says whether network or sampler is to blame.
    """
    result = torch.empty(noise.shape, dtype=torch.float32)

    def make(part: Sequence[int]) -> None:
        context = torch.stack([contexts[i] for i in part]).to(model.device)
        latents = model.sample(context, noise[part]).float().cpu()
        if not is_finite(latents):
            finite(latents, _to_blame(model, context, noise[part]), "latents")
        result[part] = latents
        made(len(part))

    for part in of_one_length(contexts, model.batch):
        in_halves(part, make)
    return result


def _to_blame(model: DiffusionModel, context: Tensor, noise: Tensor) -> Giver:
    """The network, if it gives no numbers for plain noise, or else what samples with it."""
    index = torch.full((len(noise),), len(model.schedule) - 1)
    x = model.schedule.add_noise(torch.zeros_like(noise), noise, index)
    made = model.denoise(x, model.schedule.timestep(index, x), context)
    return model.sampled_by if is_finite(made) else NETWORK


@torch.no_grad()
def predict_each(
    model: DiffusionModel,
    noisy: Tensor,
    timestep: Tensor,
    contexts: Sequence[Tensor],
    *,
    batch: int | None = None,
    made: Made = unwatched,
) -> Tensor:
    """The network's predictions ``[n, C, h, w]`` float32 CPU as it stands, without gradients.

    Args:
        noisy: ``[n, C, h, w]``; timestep: ``[n]``.
        contexts: n contexts ``[L_i, D]``; their lengths may differ.
        batch: rows per pass at the most; None: as many as pictures are made at once.
        made: told after every pass.
    """
    answers = torch.empty_like(noisy, dtype=torch.float32, device="cpu")
    for rows, context, (x, t) in alike(contexts, noisy, timestep, batch=batch or model.batch):
        asked = (part.to(model.device) for part in (x, t, context))
        answers[rows] = model.denoise(*asked).float().cpu()
        made(len(rows))
    return finite(answers, NETWORK, "predictions")


def draw_images(
    model: DiffusionModel, contexts: Sequence[Tensor], noise: Tensor, made: Made = unwatched
) -> Tensor:
    """One picture per context, ``[n, H, W, 3]`` in 0..1; arguments as of :func:`sample_each`."""
    return decode_all(model, sample_each(model, contexts, noise, made))


def pictures_each(
    model: DiffusionModel,
    contexts: Sequence[Tensor],
    count: int,
    gen: torch.Generator,
    made: Made = unwatched,
) -> Tensor:
    """``count`` pictures' latents of every context ``[L_i, D]``: ``[n, count, C, h, w]``."""
    noise = seeded_noise(model, count * len(contexts), gen)
    latents = sample_each(model, [c for c in contexts for _ in range(count)], noise, made)
    return latents.view(len(contexts), count, *model.latent_shape)


@torch.no_grad()
def decode_all(model: DiffusionModel, latents: Tensor) -> Tensor:
    """Images ``[n, H, W, 3]`` in 0..1, float32 CPU, of model-space latents ``[n, C, h, w]``.

    Raises:
        NotFiniteError: if the VAE gives pictures that are not finite.
    """
    parts = [model.decode(part.to(model.device)) for part in latents.split(model.batch)]
    return finite(torch.cat(parts).float().cpu(), VAE, "pictures")
