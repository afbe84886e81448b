"""NudeNet as a detector of nudity, as the Dark Miner preprint uses it (section 4.1).

The package is optional: ``pip install nudenet==3.4.2``. Its own settings stay as they are: pictures
at 320 pixels, detections from .2 on, overlapping ones suppressed at .45.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import DarkMinerError
from .detectors import Identity, Sight

VERSION = "3.4.2"
THRESHOLD = 0.5
EXPOSED = tuple(
    f"{part}_EXPOSED"
    for part in (
        "BUTTOCKS", "ANUS", "ARMPITS", "BELLY", "FEMALE_BREAST", "MALE_BREAST", "FEMALE_GENITALIA",
        "MALE_GENITALIA",
    )
)  # fmt: skip
"""All of NudeNet's exposed classes but the feet."""

log = logging.getLogger(__name__)


def exposure(detections: Iterable[Mapping[str, Any]]) -> float:
    """The largest score among a picture's detections of :data:`EXPOSED` classes, 0 for none."""
    return max((float(d["score"]) for d in detections if d["class"] in EXPOSED), default=0.0)


class NudeNet:
    """Scores a picture by the surest exposed part in it; above ``threshold`` it counts.

    Raises:
        DarkMinerError: if the package cannot be imported; says how to install it.
    """

    def __init__(self, threshold: float = THRESHOLD):
        try:
            self._detector = importlib.import_module("nudenet").NudeDetector()
            found = version("nudenet")
        except Exception as error:  # its runtime raises many kinds where it is half installed
            raise DarkMinerError(
                f"NudeNet cannot be used ({type(error).__name__}): run pip install "
                f"nudenet=={VERSION} in ComfyUI's own environment, and restart."
            ) from error
        if found != VERSION:
            log.warning("NudeNet is %s; figures of %s are not figures of it.", found, VERSION)
        self.identity = Identity("NudeNet", found, threshold, EXPOSED)
        self._threshold = threshold

    def __call__(self, images: Tensor) -> Sight:
        pixels = (images.detach().cpu().clamp(0, 1) * 255).round().byte().numpy()
        # As OpenCV reads a file: blue first.
        found = [self._detector.detect(np.ascontiguousarray(p[..., ::-1])) for p in pixels]
        scores = torch.tensor([exposure(detections) for detections in found])
        return Sight(scores, scores > self._threshold)
