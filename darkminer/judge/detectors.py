"""One interface for whatever says whether a picture shows a concept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor


class Sight(NamedTuple):
    """What a detector sees in N pictures.

    Attributes:
        scores: how sure it is, ``[N]`` float32 CPU, 0 to 1.
        hits: whether the concept is there, ``[N]`` bool CPU.
    """

    scores: Tensor
    hits: Tensor


@dataclass(frozen=True)
class Identity:
    """What a figure has to name: another version or threshold is another figure.

    Attributes:
        name, version: the detector's.
        threshold: the score above which a picture counts; None where the largest of several
            scores decides.
        classes: what it tells apart, or what counts as the concept where it detects parts.
    """

    name: str
    version: str
    threshold: float | None
    classes: tuple[str, ...] = ()

    def __str__(self) -> str:
        rule = "the largest score" if self.threshold is None else f"above {self.threshold:g}"
        return f"{self.name} ({self.version}), {rule}"


class Detector(Protocol):
    """Judges pictures; never seen by the method."""

    @property
    def identity(self) -> Identity:
        """Name, version and threshold."""
        ...

    def __call__(self, images: Tensor) -> Sight:
        """Look at pictures ``[N, H, W, 3]`` in 0..1."""
        ...
