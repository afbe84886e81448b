"""A world to check by hand: a two-layer denoiser with real attention, and a real sampler."""

from __future__ import annotations

import math

import torch
from dark_miner.darkminer.model.adapter import LoraConfig
from dark_miner.darkminer.model.interface import DiffusionModel
from dark_miner.darkminer.model.schedule import Schedule
from dark_miner.darkminer.types import ImagePool
from torch import Tensor, nn

CHANNELS, SIDE, WIDTH, LENGTH = 2, 2, 6, 3
LEVELS = 10
LORA = LoraConfig(rank=2, alpha=2.0)


class Attention(nn.Module):
    def __init__(self, dim: int, context_dim: int):
        super().__init__()
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_k = nn.Linear(context_dim, dim, bias=False)
        self.to_v = nn.Linear(context_dim, dim, bias=False)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        q, k, v = self.to_q(x), self.to_k(context), self.to_v(context)
        return torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), dim=-1) @ v


class Denoiser(nn.Module):
    """Latent pixels attend to themselves and to the context; the time scales the result."""

    def __init__(self, seed: int = 0):
        super().__init__()
        self.inward = nn.Linear(CHANNELS, 8)
        self.attn1 = Attention(8, 8)
        self.attn2 = Attention(8, WIDTH)
        self.outward = nn.Linear(8, CHANNELS)
        gen = torch.Generator().manual_seed(seed)
        for p in self.parameters():
            p.data = torch.randn(p.shape, generator=gen) * 0.4
        self.requires_grad_(False)

    def forward(self, x: Tensor, timestep: Tensor, context: Tensor) -> Tensor:
        h = self.inward(x.flatten(2).mT)
        h = h + self.attn1(h, h)
        h = h + self.attn2(h, context)
        scale = 1.0 + timestep.view(-1, 1, 1) / LEVELS
        return (self.outward(torch.tanh(h)) * scale).mT.reshape(x.shape)


def schedule(prediction: str = "epsilon") -> Schedule:
    sigmas = torch.linspace(0.1, 0.95 if prediction == "flow" else 5.0, LEVELS)
    return Schedule.from_sigmas(sigmas, torch.arange(LEVELS).float(), prediction)  # type: ignore[arg-type]


def model(seed: int = 0, network: nn.Module | None = None) -> DiffusionModel:
    """A whole model: the sampler takes three plain Euler steps in the denoiser's own prediction."""
    network = network if network is not None else Denoiser(seed)

    def sample(context: Tensor, noise: Tensor) -> Tensor:
        x = noise
        with torch.no_grad():
            for level in (9, 5, 1):
                t = torch.full((len(x),), float(level))
                x = x - 0.3 * network(x, t, context.expand(len(x), -1, -1))
        return x

    def decode(latents: Tensor) -> Tensor:
        rgb = torch.cat([latents, latents[:, :1]], dim=1)
        return torch.sigmoid(rgb).movedim(1, -1)

    return DiffusionModel(
        network=network,
        denoise=network,
        schedule=schedule(),
        sample=sample,
        decode=decode,
        latent_shape=(CHANNELS, SIDE, SIDE),
        context_dim=WIDTH,
        device=torch.device("cpu"),
        names={"attn1.to_v": "lora_unet_attn1_to_v", "attn2.to_v": "lora_unet_attn2_to_v"},
        fingerprint="toy",
        family="toy",
        batch=4,
    )


def encode(images: Tensor) -> Tensor:
    """Images ``[B, H, W, 3]`` -> features ``[B, 12]``: the pixels themselves."""
    return images.flatten(1).float()


def context(seed: int, length: int = LENGTH) -> Tensor:
    gen = torch.Generator().manual_seed(100 + seed)
    return torch.randn(1, length, WIDTH, generator=gen)


def pool(size: int = 8, channels: int = CHANNELS) -> ImagePool:
    """Pictures that lie close together, as pictures of one concept do."""
    gen = torch.Generator().manual_seed(7)
    latents = torch.ones(size, channels, SIDE, SIDE) + 0.1 * torch.randn(
        size, channels, SIDE, SIDE, generator=gen
    )
    rgb = torch.cat([latents, latents[:, :1]], dim=1)[:, :3]
    images = (torch.sigmoid(rgb).movedim(1, -1) * 255).round().to(torch.uint8)
    return ImagePool(latents, images, "concept", "a concept photo", 0, "toy")
