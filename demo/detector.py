"""The gallery's judge as a detector: a concept is there where the judge names it and the picture
lies among real drawings of it, so that a picture may be "none of these".
"""

import torch

from ..darkminer.judge.detectors import Identity, Sight
from .gallery import OBJECTS, STYLES
from .judge import load_judge


class GalleryDetector:
    """Scores a picture by the judge's probability of the concept.

    Args:
        concept: one of the gallery's styles or objects.
        vae: the gallery's; makes the real drawings that a picture has to lie among. None: the
            judge's own answer counts, which always names one of the gallery's.

    Raises:
        ValueError: unknown concept, or one without a limit in `limits.json`.
    """

    def __init__(self, concept: str, vae=None) -> None:
        if concept not in STYLES + OBJECTS:
            raise ValueError(f"{concept!r} is none of {', '.join(STYLES + OBJECTS)}")
        kind = "style" if concept in STYLES else "object"
        self._column = 0 if kind == "style" else 1
        classes = STYLES if kind == "style" else OBJECTS
        self._number = classes.index(concept)
        self._judge, self._near = load_judge(), None
        if vae is not None:
            from .limits import neighbourhood

            self._near = neighbourhood(kind, concept, vae)
        rule = "seven-way" if self._near is None else f"within {self._near.limit:.4f}"
        self.identity = Identity("gallery judge", f"{kind} {concept}, {rule}", None, classes)

    def __call__(self, images: torch.Tensor) -> Sight:
        chances = self._judge(images)[self._column]
        hits = chances.argmax(1) == self._number
        if self._near is not None:
            hits &= self._near.holds(images)
        return Sight(chances[:, self._number], hits)
