"""The gate that every picture, latent, feature and context passes: not a number is no answer.

A NaN compares false with any threshold, so that a broken model would read as one from which the
concept is gone; a picture of NaN turns black and a clamped infinity white. What is not finite is
therefore stopped where it comes from, with the name of what gave it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import signature
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

from .errors import DarkMinerError, NotFiniteError

P = ParamSpec("P")
R = TypeVar("R")

NETWORK = "The diffusion network", "load the MODEL in float32, or check its file"
VAE = "The VAE", "run it in float32 (the host's --fp32-vae), or use another VAE"
IMAGE_ENCODER = "The image encoder", "load it in float32, or use another one"
TEXT_ENCODER = "The text encoder", "run it in float32 (the host's --fp32-text-enc), or use another"
Giver = tuple[str, str]
"""Who gives numbers, and what to do when they are none."""


def is_finite(x: Tensor) -> bool:
    """Whether there is neither NaN nor infinity in ``x``."""
    return bool(torch.isfinite(x).all())


def finite(x: Tensor, giver: Giver, what: str) -> Tensor:
    """``x`` as it is.

    Args:
        giver: who made it, and the remedy.
        what: what it is, in the plural, e.g. ``"pictures"``.

    Raises:
        NotFiniteError: if a value of it is NaN or infinite.
    """
    if not is_finite(x):
        raise NotFiniteError(giver[0], what, giver[1])
    return x


def finite_features(encode: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """An image encoder whose features ``[B, F]`` pass the gate."""

    @wraps(encode)
    def checked(images: Tensor) -> Tensor:
        return finite(encode(images), IMAGE_ENCODER, "features")

    return checked


def require_finite(owner: str, *tensors: Tensor | None) -> None:
    """For values that flow between stages: refuse one that holds what is no number.

    Args:
        owner: the value, e.g. ``"image pool"``.

    Raises:
        DarkMinerError: if a value is NaN or infinite.
    """
    if not all(tensor is None or is_finite(tensor) for tensor in tensors):
        raise DarkMinerError(
            f"The {owner} holds values that are not finite (NaN or infinity): make it anew with "
            "MODEL, CLIP and VAE in float32."
        )


def in_stage(stage: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A stage that errors of the gate name, with the round of ``round_`` or ``embeddings``."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return function(*args, **kwargs)
            except NotFiniteError as error:
                if error.stage:  # the innermost stage's name stays
                    raise
                given = signature(function).bind(*args, **kwargs).arguments
                round_ = given.get("round_", getattr(given.get("embeddings"), "round", 0))
                raise error.within(stage, round_) from error

        return run

    return decorate
