"""Trains text and image encoder together on pictures and captions, as CLIP is trained."""

import math
import random
from types import MethodType

import comfy.clip_model
import comfy.ops
import torch
import torch.nn.functional as F
from torch import nn

from .captions import Tokens, caption
from .gallery import OBJECTS, STYLES
from .models import TEXT, VISION, WIDTH, GalleryTextModel
from .train_data import COUNT, PLACEMENTS, UNSEEN, signed
from .train_run import Recipe, Run

RECIPE = Recipe(rate=1.2e-3, warmup=100, decay=0.02, betas=(0.9, 0.98), clip=1.0, seed=3)
BATCH = 96  # different drawings: no caption fits two of them
PARTIAL = 32  # further captions that name only the style or only the thing


def _layer(self, x, mask=None, optimized_attention=None):
    x = x + self.self_attn(self.layer_norm1(x), mask, optimized_attention)
    return x + self.mlp(self.layer_norm2(x))


def _initialise(net: nn.Module) -> None:
    for module in net.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.trunc_normal_(module.weight, std=0.04)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, comfy.clip_model.CLIPLayer):
            # The host adds in place, which autograd cannot follow; the sums are the same.
            module.forward = MethodType(_layer, module)


def text_model() -> GalleryTextModel:
    """The text encoder with fresh weights."""
    net = GalleryTextModel(dict(TEXT), torch.float32, "cpu", comfy.ops.manual_cast)
    _initialise(net)
    nn.init.trunc_normal_(net.text_projection.weight, std=0.09)
    return net


def vision_model() -> nn.Module:
    """The image encoder with fresh weights."""
    model = comfy.clip_model.CLIPVisionModelProjection
    net = model(dict(VISION), torch.float32, "cpu", comfy.ops.manual_cast)
    _initialise(net)
    nn.init.normal_(net.vision_model.embeddings.class_embedding, std=0.02)
    return net


class Pair(nn.Module):
    """Both encoders, the scale of their products, and classifiers that help them to learn."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.text, self.vision = text_model(), vision_model()
        self.image_style = nn.Linear(WIDTH, len(STYLES))
        self.image_thing = nn.Linear(WIDTH, len(OBJECTS))
        self.text_style = nn.Linear(WIDTH, len(STYLES))
        self.text_thing = nn.Linear(WIDTH, len(OBJECTS))
        self.scale = nn.Parameter(torch.tensor(math.log(14.0)))

    def images(self, x: torch.Tensor) -> torch.Tensor:
        """Image embeddings [B, 128]."""
        return self.vision(pixel_values=x, intermediate_output=-2)[2]


def train(run: Run, pixels: torch.Tensor) -> None:
    """Contrastive loss, and style and thing told from either embedding."""
    net, gen, device = run.net, run.gen, run.device
    rng, tokens = random.Random(run.recipe.seed + run.step), Tokens()
    same = torch.arange(BATCH, device=device)

    def pick(number: torch.Tensor, low: int, high: int) -> torch.Tensor:
        index = number + COUNT * torch.randint(low, high, (len(number),), generator=gen)
        return signed(pixels[index], device)

    for _ in run.steps():
        number = torch.randperm(COUNT, generator=gen)[:BATCH]
        style, thing = number // len(OBJECTS), number % len(OBJECTS)
        x = pick(number, UNSEEN, PLACEMENTS)
        strength = 0.06 * torch.rand(BATCH, 1, 1, 1, generator=gen)
        x = x + (strength * torch.randn(x.shape, generator=gen)).to(device)

        meanings = list(zip(style.tolist(), thing.tolist(), strict=True))
        partial = [(s, -1) if rng.random() < 0.4 else (-1, t) for s, t in meanings[:PARTIAL]]
        texts = [caption(rng, *meaning) for meaning in meanings + partial]
        encoded = net.text(tokens(texts).to(device))
        words, ends = F.normalize(encoded[2][:BATCH], dim=-1), encoded[3]
        seen = net.images(x)

        logits = net.scale.exp() * F.normalize(seen, dim=-1) @ words.T
        contrast = (F.cross_entropy(logits, same) + F.cross_entropy(logits.T, same)) / 2
        named = torch.tensor(meanings + partial, device=device)  # -1: not named, not asked
        text_loss = F.cross_entropy(net.text_style(ends), named[:, 0], ignore_index=-1)
        text_loss += F.cross_entropy(net.text_thing(ends), named[:, 1], ignore_index=-1)
        image_loss = F.cross_entropy(net.image_style(seen), style.to(device))
        image_loss += F.cross_entropy(net.image_thing(seen), thing.to(device))
        loss = contrast + 0.5 * text_loss + 0.25 * image_loss
        run.update(loss, contrast=contrast, text=text_loss, image=image_loss)
        if run.step % 200 == 0:
            _show_unseen(net, pick, gen)


def _show_unseen(net: Pair, pick, gen: torch.Generator) -> None:
    number = torch.randperm(COUNT, generator=gen)[:128]
    with torch.no_grad():
        seen = net.images(pick(number, 0, UNSEEN))
        style = net.image_style(seen).argmax(1).cpu() == number // len(OBJECTS)
        thing = net.image_thing(seen).argmax(1).cpu() == number % len(OBJECTS)
    print(f"unseen placements: style {style.float().mean():.3f}, object {thing.float().mean():.3f}")
