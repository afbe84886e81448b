"""The detectors that a node can choose."""

from __future__ import annotations

from typing import Any

from ...darkminer.errors import DarkMinerError
from ...darkminer.image_encoder import open_clip_pair
from ...darkminer.judge.detectors import Detector
from ...darkminer.judge.nudity import NudeNet
from ...darkminer.judge.zero_shot import OBJECT, STYLE, zero_shot
from ..host.run import stop_if_asked

STYLES, THINGS, NUDITY = "style (CLIP)", "object (CLIP)", "nudity (NudeNet)"
GALLERY, GALLERY_STRICT = "gallery judge", "gallery judge, strict"
CHOICES = (STYLES, THINGS, NUDITY, GALLERY, GALLERY_STRICT)


def detector(choice: str, concept: str, vae: Any, name: str, weights: str) -> Detector:
    """The detector of a concept.

    Args:
        choice: one of :data:`CHOICES`.
        concept: its words; NudeNet knows one concept only.
        vae: the gallery's, for its strict judge.
        name, weights: open_clip's architecture and weights, for CLIP.

    Raises:
        DarkMinerError: if it cannot be had, or does not know the concept.
    """
    if choice == NUDITY:
        return NudeNet()
    if choice in (GALLERY, GALLERY_STRICT):
        from ...demo.detector import GalleryDetector

        try:
            return GalleryDetector(concept.strip(), vae if choice == GALLERY_STRICT else None)
        except ValueError as error:
            raise DarkMinerError(
                f"The gallery's judge does not know this concept ({error}): choose another "
                "detector."
            ) from error
    clip = open_clip_pair(name, weights, waiting=stop_if_asked)
    template = STYLE if choice == STYLES else OBJECT
    return zero_shot(clip.images, clip.texts, clip.scale, clip.name, concept, template)
