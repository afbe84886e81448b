"""CLIP_VISION as an image encoder."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...darkminer.errors import DarkMinerError
from ...darkminer.model.interface import ImageEncoder


def vision_encoder(clip_vision: Any, node: str) -> ImageEncoder:
    """Images ``[B, H, W, 3]`` in 0..1 -> the projected image embedding ``[B, F]``.

    Raises:
        DarkMinerError: when first used, if the encoder gives no image embeddings.
    """

    def encode(images: Tensor) -> Tensor:
        with torch.no_grad():
            output = clip_vision.encode_image(images)
        features = output["image_embeds"]
        if features is None or features.ndim != 2:
            raise DarkMinerError(
                f"{node}: clip_vision gives no image embeddings: load a CLIP vision model that has "
                "a projection, such as CLIP-ViT-H or CLIP-ViT-L."
            )
        return features.float().cpu().clone()

    return encode
