"""The image pool P_I: pictures of the concept, made by the original model or collected."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import DarkMinerError
from ..finite import in_stage
from ..model.interface import DiffusionModel
from ..model.sampling import decode_all, sample_each, seeded_noise
from ..rng import generator
from ..types import ImagePool, Report, StepReport, silent
from .blank import require_draws, require_noise_matters


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
    template: str = "",
    report: Report = silent,
) -> ImagePool:
    """Let the model make ``size`` pictures from the concept's prompt.

    Args:
        context: the prompt's context, ``[1, L, D]``.
        template: the prompt with ``*`` in the concept's place.

    Raises:
        DarkMinerError: if the model draws the same whatever the prompt, or whatever the noise.
    """
    if size < 1:
        raise DarkMinerError(f"The pool size is {size}: ask for at least 1 picture.")
    noise = seeded_noise(model, size, generator(seed, 0, "pool"))
    require_draws(model, context[0], noise[:1])
    latents, images = [], []
    for start in range(0, size, model.batch):
        part = noise[start : start + model.batch]
        made = sample_each(model, [context[0]] * len(part), part)
        shown = decode_all(model, made)
        latents.append(made)
        images.append((shown * 255.0).round().to(torch.uint8))
        report(StepReport("pool", 0, start + len(part), size, images=shown[:4]))
    require_noise_matters(torch.cat(images))
    return ImagePool(
        torch.cat(latents), torch.cat(images), concept, prompt, seed, model.fingerprint,
        family=model.family, latent_format=model.latent_format, template=template,
    )  # fmt: skip


def check_pool(pool: ImagePool, k: int, model: DiffusionModel) -> None:
    """Refuse a pool that mining cannot use.

    Raises:
        DarkMinerError: if it holds fewer than k pictures or is another model's.
    """
    if len(pool) < k:
        raise DarkMinerError(
            f"The pool holds {len(pool)} pictures and mining needs {k}: build a larger pool."
        )
    check_origin(pool, model)


def check_origin(pool: ImagePool, model: DiffusionModel) -> None:
    """Refuse a pool of another model.

    Made pictures must be of the same base weights; LoRAs on them may differ, since an erased model
    is attacked, and erased from again, with pictures of the original. Collected pictures may have
    been encoded by any model with the same latents.

    Raises:
        DarkMinerError: if the pool is another model's; names both.
    """
    have, want = pool.latents.shape[1], model.latent_shape[0]
    if have != want:
        raise DarkMinerError(
            f"The pool's latents have {have} channels and this MODEL works with {want}: build the "
            "pool with the same MODEL and VAE."
        )
    others_weights = pool.prompt and _differ(_base(pool), _base(model))
    if others_weights or _differ(pool.latent_format, model.latent_format):
        raise DarkMinerError(
            f"The pool is of another model, {_origin(pool)}, than this MODEL, {_origin(model)}: "
            "build the pool with this MODEL and its VAE, or hand its pictures to ImagePoolBuilder "
            "as images."
        )


def _base(named: ImagePool | DiffusionModel) -> str:
    """The part of a fingerprint that names the weights alone, without what is on them."""
    return named.fingerprint.partition("+")[0]


def _differ(one: str, other: str) -> bool:
    """Whether both are known and not the same."""
    return bool(one and other and one != other)


def _origin(named: ImagePool | DiffusionModel) -> str:
    latents = f"({named.latent_format} latents)" if named.latent_format else ""
    return " ".join(filter(None, (named.family, named.fingerprint, latents)))
