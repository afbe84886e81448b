"""Trains the judge, apart from every model of the gallery."""

import torch
import torch.nn.functional as F

from .gallery import OBJECTS
from .judge import Judge
from .train_data import COUNT, PLACEMENTS
from .train_run import Recipe, Run

RECIPE = Recipe(rate=2e-3, warmup=50, decay=0.01, seed=9)
BATCH = 64
UNSEEN = 12  # placements of each drawing that only the last test sees
SMOOTHING = 0.02


def judge() -> Judge:
    """A fresh one."""
    torch.manual_seed(5)
    return Judge()


def _blur(x: torch.Tensor) -> torch.Tensor:
    line = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], device=x.device)
    kernel = (line[:, None] * line / 256).expand(3, 1, 5, 5)
    return F.conv2d(F.pad(x, (2, 2, 2, 2), mode="replicate"), kernel, groups=3)


def train(run: Run, pixels: torch.Tensor) -> None:
    """Style and object of pictures, some blurred or noisy: sampled pictures are never as crisp."""
    gen, device = run.gen, run.device
    for _ in run.steps():
        number = torch.randint(COUNT, (BATCH,), generator=gen)
        index = number + COUNT * torch.randint(UNSEEN, PLACEMENTS, (BATCH,), generator=gen)
        x = pixels[index].float().to(device) / 255
        if torch.rand((), generator=gen) < 0.3:
            share = torch.rand(BATCH, 1, 1, 1, generator=gen).to(device)
            x = x * (1 - share) + share * _blur(x)
        strength = 0.05 * torch.rand(BATCH, 1, 1, 1, generator=gen)
        x = x + (strength * torch.randn(x.shape, generator=gen)).to(device)
        style, thing = run.net(x)
        number = number.to(device)
        style_loss = F.cross_entropy(style, number // len(OBJECTS), label_smoothing=SMOOTHING)
        thing_loss = F.cross_entropy(thing, number % len(OBJECTS), label_smoothing=SMOOTHING)
        run.update(style_loss + thing_loss, style=style_loss, object=thing_loss)
    _show_unseen(run, pixels[: UNSEEN * COUNT])


def _show_unseen(run: Run, pixels: torch.Tensor) -> None:
    run.net.eval()
    number = torch.arange(len(pixels)) % COUNT
    with torch.no_grad():
        parts = [run.net(some.float().to(run.device) / 255) for some in pixels.split(512)]
    style, thing = (torch.cat(logits).argmax(1).cpu() for logits in zip(*parts, strict=True))
    style_right = (style == number // len(OBJECTS)).float().mean()
    thing_right = (thing == number % len(OBJECTS)).float().mean()
    print(f"unseen placements: style {style_right:.4f}, object {thing_right:.4f}")
