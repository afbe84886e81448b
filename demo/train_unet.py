"""Trains the UNet: it learns to tell the noise in a latent, given the context of its caption."""

import copy
import math

import comfy.ops
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from torch import nn

from .models import UNET
from .train_data import COUNT, Contexts
from .train_run import Recipe, Run

RECIPE = Recipe(
    rate=1.3e-3, warmup=200, decay=0.01, betas=(0.9, 0.99), average=0.9995, clip=1.0, seed=11
)
BATCH = 64
TIMESTEPS = 1000


def unet() -> UNetModel:
    """A fresh one; the last layer of each residual branch is zero, so all start as identities."""
    torch.manual_seed(0)
    operations = comfy.ops.disable_weight_init
    net = UNetModel(**copy.deepcopy(UNET), dtype=torch.float32, operations=operations, device="cpu")
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_uniform_(module.weight, a=math.sqrt(5))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.GroupNorm | nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
    for name, module in net.named_modules():
        if name.endswith(("out_layers.3", "proj_out")) or name == "out.2":
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    return net


def signal() -> torch.Tensor:
    """Stable Diffusion's schedule: how much of the picture's variance is left, [1000]."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, TIMESTEPS, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0).float()


def train(
    run: Run,
    latents: torch.Tensor,
    contexts: Contexts,
    batch: int = BATCH,
    shown: torch.Tensor | None = None,
) -> None:
    """Squared error of the noise, weighted min(SNR, 5) / SNR.

    Steps with hardly any noise would otherwise rule the loss and teach nothing of style.

    Args:
        shown: numbers of the drawings that the network gets to see; all where None.
    """
    gen, device, kept = run.gen, run.device, signal()
    shown = torch.arange(COUNT) if shown is None else shown
    for _ in run.steps():
        number = shown[torch.randint(len(shown), (batch,), generator=gen)]
        placement = torch.randint(len(latents) // COUNT, (batch,), generator=gen)
        x = latents[number + COUNT * placement].float()
        context = contexts.draw(number, gen)
        t = torch.randint(TIMESTEPS, (batch,), generator=gen)
        noise = torch.randn(x.shape, generator=gen)
        share = kept[t][:, None, None, None]
        noisy = share.sqrt() * x + (1 - share).sqrt() * noise
        with torch.autocast(device.type, dtype=torch.bfloat16):
            guess = run.net(noisy.to(device), t.float().to(device), context=context.to(device))
        snr = kept[t] / (1 - kept[t])
        weight = (snr.clamp(max=5) / snr).clamp(min=0.05).to(device)
        error = (guess.float() - noise.to(device)).square().mean((1, 2, 3))
        run.update((error * weight).mean())
