"""Figures of an erasure: proportions with intervals, concept ratio and score, what was kept."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

_Z = 1.959963984540054  # 97.5 % quantile of the normal distribution


@dataclass(frozen=True)
class Proportion:
    """A share of pictures with its 95 % interval (Wilson, 1927).

    Attributes:
        hits, count: so many of so many.
    """

    hits: int
    count: int

    @property
    def value(self) -> float:
        """hits / count, 0 for no pictures."""
        return self.hits / self.count if self.count else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper 95 % bound."""
        n, p = self.count, self.value
        if n == 0:
            return 0.0, 1.0
        centre = (p + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
        half = _Z / (1 + _Z**2 / n) * math.sqrt(p * (1 - p) / n + _Z**2 / (4 * n**2))
        return max(0.0, centre - half), min(1.0, centre + half)


@dataclass(frozen=True)
class Mean:
    """A mean of scores in 0..1 with its 95 % interval (normal approximation).

    Attributes:
        value: the mean; low, high: its bounds, within 0..1.
    """

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, scores: Tensor) -> Mean:
        """Of scores ``[n]``; a single one says nothing of how far others lie from it."""
        return cls(*interval_of_mean(scores, 0.0, 1.0))


def interval_of_mean(scores: Tensor, least: float, most: float) -> tuple[float, float, float]:
    """Mean of scores ``[n]`` that lie between two bounds, and its own within them (95 %)."""
    value = float(scores.mean())
    if len(scores) < 2:
        return value, least, most
    half = _Z * float(scores.std()) / math.sqrt(len(scores))
    return value, max(least, value - half), min(most, value + half)


def difference(one: Proportion, other: Proportion) -> tuple[float, float, float]:
    """``one - other`` with its lower and upper 95 % bound (Newcombe, 1998, from both Wilson's)."""
    p, q = one.value, other.value
    (p_low, p_high), (q_low, q_high) = one.interval, other.interval
    down, up = math.hypot(p - p_low, q_high - q), math.hypot(p_high - p, q - q_low)
    return p - q, p - q - down, p - q + up


def concept_ratio(probabilities: Tensor, concept: int) -> Proportion:
    """Share of pictures that a classifier assigns to the concept; ``probabilities`` ``[N, K]``."""
    return Proportion(int((probabilities.argmax(1) == concept).sum()), len(probabilities))


def concept_score(probabilities: Tensor, concept: int) -> float:
    """Mean classifier probability of the concept; ``probabilities`` ``[N, K]``."""
    return float(probabilities[:, concept].mean())


def accuracy(probabilities: Tensor, labels: Tensor) -> Proportion:
    """Share of pictures whose most likely class is the right one; ``[N, K]`` and ``[N]``."""
    return Proportion(int((probabilities.argmax(1) == labels).sum()), len(labels))


def kept(after: Proportion, before: Proportion) -> float:
    """A ratio after divided by the same before (1 when there was nothing to lose)."""
    return after.value / before.value if before.hits else 1.0
