"""Trains the autoencoder: 32 x 32 pictures to latents of 8 channels of 8 x 8 and back."""

import copy

import torch
from comfy.ldm.models.autoencoder import AutoencoderKL
from torch import nn

from .models import AUTOENCODER
from .train_data import signed
from .train_run import Recipe, Run

RECIPE = Recipe(
    rate=2.5e-3, warmup=150, decay=1e-4, betas=(0.9, 0.98), average=0.995, clip=1.0, seed=2
)
BATCH = 24
KL_WEIGHT = 2e-4


def autoencoder() -> AutoencoderKL:
    """A fresh one, with weights that keep the size of what passes through."""
    torch.manual_seed(0)
    net = AutoencoderKL(**copy.deepcopy(AUTOENCODER))
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.GroupNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
    return net


def edges(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Differences of neighbours, down and across."""
    return x[..., 1:, :] - x[..., :-1, :], x[..., 1:] - x[..., :-1]


def train(run: Run, pixels: torch.Tensor) -> None:
    """Absolute and squared error of pixels, error of edges, and a little pull to unit latents."""
    net, gen, device = run.net, run.gen, run.device
    for _ in run.steps():
        x = signed(pixels[torch.randint(len(pixels), (BATCH,), generator=gen)], device)
        if torch.rand((), generator=gen) < 0.5:
            x = x.flip(-1)
        mean, log_variance = net.quant_conv(net.encoder(x)).chunk(2, 1)
        log_variance = log_variance.clamp(-20, 10)
        noise = torch.randn(mean.shape, generator=gen).to(device)
        y = net.decoder(net.post_quant_conv(mean + noise * (0.5 * log_variance).exp()))
        absolute, squared = (y - x).abs().mean(), (y - x).square().mean()
        pairs = zip(edges(y), edges(x), strict=True)
        edge = sum(((a - b).abs().mean() for a, b in pairs), torch.zeros((), device=device))
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        loss = absolute + 4 * squared + 0.5 * edge + KL_WEIGHT * kl
        run.update(loss, l1=absolute, rmse=squared.sqrt(), kl=kl)
