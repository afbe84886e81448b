"""A model that draws nothing, and an encoder that sees nothing: neither has lost the concept.

Where every prompt gives the same picture, equation 6 compares a picture with itself: the score is 0
and reads as "gone". The same holds where all features are the same.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import DarkMinerError
from ..model.interface import DiffusionModel
from ..model.sampling import decode_all, sample_each

_SAME = 1e-6  # rounding of float32; an erased prompt's pictures still differ by 1e-3 and more


def same(one: Tensor, other: Tensor) -> bool:
    """Whether all numbers are equal but for rounding."""
    scale = float(other.abs().max())
    return float((one - other).abs().max()) <= _SAME * max(scale, _SAME)


def require_prompt_matters(prompted: Tensor, other: Tensor) -> None:
    """Refuse a model whose pictures do not depend on the prompt.

    Args:
        prompted, other: images ``[n, H, W, 3]`` of two prompts on the same noise.

    Raises:
        DarkMinerError: if they are the same.
    """
    if same(prompted, other):
        raise DarkMinerError(
            "The pictures are the same whatever the prompt, so that the model draws nothing and no "
            "score says anything: check MODEL, VAE and LoRA, and that cfg is above 0."
        )


def require_draws(model: DiffusionModel, context: Tensor, noise: Tensor) -> None:
    """Refuse a model that draws the same picture under ``context`` and under the zero context.

    Args:
        context: ``[L, D]``.
        noise: of one picture, ``[1, C, h, w]``.

    Raises:
        DarkMinerError: as :func:`require_prompt_matters`.
    """
    prompts = (context, torch.zeros_like(context))
    require_prompt_matters(*(decode_all(model, sample_each(model, [c], noise)) for c in prompts))


def require_noise_matters(images: Tensor) -> None:
    """Refuse pictures ``[n, H, W, 3]`` uint8 of different noise that are all the same.

    Raises:
        DarkMinerError: if there are several and they are.
    """
    if len(images) > 1 and bool((images == images[:1]).all()):
        raise DarkMinerError(
            "All pictures are the same whatever the noise, so that the model draws nothing: check "
            "MODEL, VAE, and the sampler's settings."
        )


def require_direction(concept: Tensor, reference: Tensor) -> None:
    """Refuse features that do not tell the concept's pictures from the reference's.

    Args:
        concept: ``[..., F]``; reference: ``[r, F]``.

    Raises:
        DarkMinerError: if they are all the same.
    """
    origin = reference.reshape(-1, reference.shape[-1])[:1]
    if same(concept, origin.expand_as(concept)) and same(reference, origin.expand_as(reference)):
        raise DarkMinerError(
            "The image encoder gives the same features for every picture, so that no score says "
            "anything: use another CLIP_VISION (or other open_clip weights)."
        )
