"""The image pool P_I: pictures of the concept, made by the original model or collected."""

from __future__ import annotations

import torch
from torch import Tensor

from .errors import DarkMinerError
from .finite import in_stage
from .rng import generator
from .sampling import decode_all, sample_each, seeded_noise
from .types import DiffusionModel, ImagePool, Report, StepReport, silent


def concept_prompt(concept: str, template: str) -> str:
    """The template with the concept in place of its ``*``.

    Raises:
        DarkMinerError: if the concept is empty or the template has no ``*``.
    """
    if not concept.strip():
        raise DarkMinerError("The concept is empty: write what is to be erased, e.g. van gogh.")
    if "*" not in template:
        raise DarkMinerError(
            f"The prompt template {template!r} has no *: put a * where the concept belongs, "
            'e.g. "a * photo".'
        )
    return template.replace("*", concept.strip())


@in_stage("pool")
def build_pool(
    model: DiffusionModel,
    context: Tensor,
    *,
    size: int,
    seed: int,
    concept: str,
    prompt: str,
    report: Report = silent,
) -> ImagePool:
    """Let the model make ``size`` pictures from the concept's prompt.

    Args:
        context: the prompt's context, ``[1, L, D]``.
    """
    if size < 1:
        raise DarkMinerError(f"The pool size is {size}: ask for at least 1 picture.")
    noise = seeded_noise(model, size, generator(seed, 0, "pool"))
    latents, images = [], []
    for start in range(0, size, model.batch):
        part = noise[start : start + model.batch]
        made = sample_each(model, [context[0]] * len(part), part)
        shown = decode_all(model, made)
        latents.append(made)
        images.append((shown * 255.0).round().to(torch.uint8))
        report(StepReport("pool", 0, start + len(part), size, images=shown[:4]))
    return ImagePool(
        torch.cat(latents), torch.cat(images), concept, prompt, seed, model.fingerprint
    )


def check_pool(pool: ImagePool, k: int, model: DiffusionModel) -> None:
    """Refuse a pool that mining cannot use.

    Raises:
        DarkMinerError: if it holds fewer than k pictures or its latents do not fit the model.
    """
    if len(pool) < k:
        raise DarkMinerError(
            f"The pool holds {len(pool)} pictures and mining needs {k}: build a larger pool."
        )
    shape = tuple(pool.latents.shape[1:])
    if shape[0] != model.latent_shape[0]:
        raise DarkMinerError(
            f"The pool's latents have {shape[0]} channels and this MODEL works with "
            f"{model.latent_shape[0]}: build the pool with the same MODEL and VAE."
        )
