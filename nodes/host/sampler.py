"""The host's samplers on a training copy, each picture with noise of its own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import comfy.k_diffusion.sampling
import comfy.sample
import comfy.samplers
import torch
from torch import Tensor

from ...darkminer.model.interface import Sampler
from ...darkminer.model.sampling import SamplingConfig
from ...darkminer.rng import seed_from
from .predict import masked


def sampler(
    patcher: Any, anchor: Any, negative: Any, config: SamplingConfig, frames: bool
) -> Sampler:
    """The host's sampler on the training copy, model-space latents out.

    Samplers that add noise on their way (ancestral, SDE) draw it from a seed of each picture's own,
    made of the noise it starts from: pictures share none, and a picture does not depend on how
    many are made at once.

    Args:
        patcher: around the training copy.
        anchor: one prompt's CONDITIONING: what else the network is given.
        negative: the empty prompt's; None for no guidance.
        frames: whether the network takes a frame axis.
    """
    extra = anchor[0][1]
    guided = negative is not None
    adds = _adds_noise(config.sampler)

    def run(context: Tensor, start: Tensor) -> Tensor:
        # The host samples both prompts in one batch where they lie on one device.
        place = negative[0][0].device if guided else context.device
        context = context.to(place)
        positive = [[context, masked(extra, anchor[0][0], context)]]
        conditions = (positive, negative if guided else positive)
        cfg = config.cfg if guided else 1.0
        rest = {"latent_image": torch.zeros_like(start), "disable_pbar": True}
        if adds != "in batches":
            seed = seed_from(start[0]) if adds else 0
            return comfy.sample.sample(
                patcher, start, config.steps, cfg, config.sampler, config.scheduler, *conditions,
                seed=seed, **rest,
            )  # fmt: skip
        host = comfy.samplers.KSampler(
            patcher, config.steps, patcher.load_device, config.sampler, config.scheduler,
            model_options=patcher.model_options,
        )  # fmt: skip
        own = _with_noise_of(config.sampler, [seed_from(row) for row in start])
        return comfy.sample.sample_custom(
            patcher, start, cfg, own, host.sigmas, *conditions, seed=0, **rest
        )

    @torch.no_grad()
    def sample(context: Tensor, noise: Tensor) -> Tensor:
        start = (noise.unsqueeze(2) if frames else noise).cpu()
        if adds == "one by one" and len(start) > 1:
            contexts = context.expand(len(start), -1, -1)
            parts = zip(contexts.split(1), start.split(1), strict=True)
            latents = torch.cat([run(*part) for part in parts])
        else:
            latents = run(context, start)
        latents = patcher.model.process_latent_in(latents.float())
        return (latents.squeeze(2) if frames else latents).to(noise.device)

    return sample


def _adds_noise(name: str) -> str:
    """How a sampler can be given noise of each picture's own; empty where it adds none.

    The host's samplers that add noise let themselves be handed its source. A sampler of another
    pack that does not may draw any from the seed.
    """
    made = comfy.samplers.sampler_object(name)
    function = getattr(made, "sampler_function", None)
    if function is None:
        return "one by one"
    if "noise_sampler" in inspect.signature(function).parameters:
        return "in batches"
    return "" if function.__module__.startswith("comfy.") else "one by one"


def _with_noise_of(name: str, seeds: Sequence[int]) -> Any:
    """The host's sampler object whose pictures draw from a seed each."""
    made = comfy.samplers.sampler_object(name)
    function = made.sampler_function

    @wraps(function)
    def run(model: Any, x: Tensor, sigmas: Tensor, **options: Any) -> Tensor:
        source = _noise_source(function, x, sigmas, seeds)
        return function(model, x, sigmas, **{**options, "noise_sampler": source})

    return comfy.samplers.KSAMPLER(run, made.extra_options, made.inpaint_options)


def _noise_source(
    function: Callable[..., Any], x: Tensor, sigmas: Tensor, seeds: Sequence[int]
) -> Callable[..., Tensor]:
    """What the sampler would make itself, with one seed per picture in place of one for all."""
    library = comfy.k_diffusion.sampling
    if _walks(function):
        return library.BrownianTreeNoiseSampler(
            x, sigmas[sigmas > 0].min(), sigmas.max(), seed=list(seeds),
            cpu=not function.__name__.endswith("_gpu"),
        )  # fmt: skip
    rows = zip(x.split(1), seeds, strict=True)
    each = [library.default_noise_sampler(row, seed=seed) for row, seed in rows]
    return lambda *levels: torch.cat([draw(*levels) for draw in each])


def _walks(function: Callable[..., Any]) -> bool:
    """Whether a sampler's noise is steps of one Brownian path, made by itself or whom it calls."""
    library = comfy.k_diffusion.sampling
    names = inspect.unwrap(function).__code__.co_names
    called = [n for n in names if n.startswith("sample_") and n != function.__name__]
    return "BrownianTreeNoiseSampler" in names or any(
        _walks(getattr(library, n)) for n in called if hasattr(library, n)
    )
