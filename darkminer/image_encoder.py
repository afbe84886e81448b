"""An image encoder for verification when the host has no CLIP vision model at hand."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .errors import DarkMinerError
from .libraries import library
from .types import ImageEncoder


def open_clip_encoder(name: str, weights: str, device: torch.device | str = "cpu") -> ImageEncoder:
    """CLIP's image encoder through open_clip, as an :data:`~.types.ImageEncoder`.

    Args:
        name: architecture, e.g. ``"ViT-B-32"``.
        weights: a tag open_clip knows (downloaded once) or the path of a weights file.

    Raises:
        DarkMinerError: if the weights cannot be had.
    """
    open_clip = library("open_clip")
    from torchvision.transforms.v2.functional import center_crop, normalize, resize

    try:
        model = open_clip.create_model(name, pretrained=weights, device=device)
    except Exception as error:  # open_clip raises many kinds, also of its download libraries
        raise DarkMinerError(
            f"open_clip could not load {name} with weights {weights!r} ({error}): connect a "
            "CLIP_VISION (Load CLIP Vision) to clip_vision instead, or name a weights file that is "
            "on this machine."
        ) from error
    model.eval().requires_grad_(False)
    visual: Any = model.visual  # typed as a plain Module, it knows its own size and statistics
    side = visual.image_size if isinstance(visual.image_size, int) else visual.image_size[0]
    mean, std = list(visual.image_mean), list(visual.image_std)

    @torch.no_grad()
    def encode(images: Tensor) -> Tensor:
        x = images.movedim(-1, 1).to(device)
        x = center_crop(resize(x, [side], antialias=True), [side, side])
        return visual(normalize(x, mean, std)).float().cpu()

    return encode
