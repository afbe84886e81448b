"""Pictures as the host's own nodes draw them: KSampler on an empty latent, then VAE Decode."""

from __future__ import annotations

from typing import Any

import comfy.sample
import torch
from torch import Tensor

from ...darkminer.finite import NETWORK, VAE, finite
from ...darkminer.model.sampling import SamplingConfig
from .finite import check_names, seen_unclamped
from .session import Conditioning, latent_size


@torch.no_grad()
def drawn(
    model: Any,
    vae: Any,
    positive: Conditioning,
    negative: Conditioning,
    size: tuple[int, int],
    seed: int,
    config: SamplingConfig,
) -> Tensor:
    """One picture ``[1, H, W, 3]`` in 0..1, float32 CPU: what a KSampler draws from this seed.

    Args:
        size: width and height in pixels.

    Raises:
        DarkMinerError: if the VAE's ratio does not divide the size, or the host has no such
            sampler or scheduler.
        NotFiniteError: if the network or the VAE gives no numbers.
    """
    check_names(config)
    height, width = latent_size(vae, *size)
    empty = torch.zeros(1, vae.latent_channels, height, width)
    latent = comfy.sample.fix_empty_latent_channels(model, empty)
    made = comfy.sample.sample(
        model, comfy.sample.prepare_noise(latent, seed), config.steps, config.cfg, config.sampler,
        config.scheduler, positive, negative, latent, seed=seed, disable_pbar=True,
    )  # fmt: skip
    pictures = seen_unclamped(vae).decode(finite(made, NETWORK, "latents"))
    if pictures.ndim == 5:  # one frame
        pictures = pictures.flatten(0, 1)
    return finite(pictures.float().cpu(), VAE, "pictures")
