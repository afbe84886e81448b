"""Where the host itself gives no numbers, or hides that it does."""

from __future__ import annotations

import copy
from typing import Any

import comfy.samplers
import torch
from torch import Tensor

from ...darkminer.errors import DarkMinerError
from ...darkminer.finite import VAE, Giver, finite, is_finite
from ...darkminer.model.sampling import SamplingConfig


def check_names(config: SamplingConfig) -> None:
    """Refuse a sampler or scheduler that the host would replace by its first without a word.

    Raises:
        DarkMinerError: if it has none of that name.
    """
    known = comfy.samplers.KSampler.SAMPLERS, comfy.samplers.KSampler.SCHEDULERS
    for field, names in zip(("sampler", "scheduler"), known, strict=True):
        if getattr(config, field) not in names:
            raise DarkMinerError(
                f"{field} {getattr(config, field)!r} is none of this ComfyUI's: choose of "
                f"{', '.join(names)}."
            )


def check_levels(patcher: Any, config: SamplingConfig) -> None:
    """Refuse a scheduler that gives no noise levels, before anything is sampled.

    Raises:
        DarkMinerError: see :func:`check_names`, or if a level is NaN or infinite ("kl_optimal"
            with one step).
    """
    check_names(config)
    levels = comfy.samplers.KSampler(
        patcher, config.steps, torch.device("cpu"), config.sampler, config.scheduler, 1.0, {}
    ).sigmas
    if not is_finite(levels):
        raise DarkMinerError(
            f"scheduler {config.scheduler!r} gives noise levels that are not finite (NaN or "
            f"infinity) in sampling_steps {config.steps}: take more steps or another scheduler."
        )


def sampled_by(config: SamplingConfig) -> Giver:
    """Names the sampler for an error, and what to change on the node."""
    return (
        f"The sampler {config.sampler!r} with scheduler {config.scheduler!r} in {config.steps} "
        "steps",
        "choose another sampler_name or scheduler, or more sampling_steps, or a lower cfg",
    )


def seen_unclamped(vae: Any) -> Any:
    """The VAE with its answers seen before the host clamps them to 0..1.

    Infinity would come out as white. The VAE itself is not touched: this is a view of it with an
    output step of its own.
    """
    clamp = getattr(vae, "process_output", None)
    if clamp is None:
        return vae

    def seen(pixels: Tensor) -> Tensor:
        return clamp(finite(pixels, VAE, "pictures"))

    view = copy.copy(vae)
    view.process_output = seen
    return view
