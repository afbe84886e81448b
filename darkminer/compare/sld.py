"""SLD: Safe Latent Diffusion (Schramowski et al., CVPR 2023, arXiv 2211.05105), guidance alone.

While a picture is drawn, guidance is also led away from a concept S (equations 3 to 8):

    e = e(x) + s_g (e(x, p) - e(x) - g)
    g = m (e(x, S) - e(x)) + s_m n        n <- b n + (1 - b) g
    m = min(1, |s_S (e(x, p) - e(x, S))|) where e(x, p) - e(x, S) < threshold, else 0

g is left out of e during the warm-up, though n gathers it. What differs: the paper writes max for
min, its authors' code clamps at 1 from above, and so do we, since max would never let m be small;
n holds what g was with the momentum in it, as in that code; the warm-up, given in steps of 50, is
taken in proportion to the sampler's steps. The weak setting's scale is the paper's 200 (a widely
used port has 20).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..settings import Settings, setting

STEPS = 50
"""Sampling steps that warm-ups are given for."""


@dataclass(frozen=True)
class SLDConfig(Settings):
    """Settings of SLD."""

    warmup: int = setting(10, "steps of 50 without it", low=0, high=STEPS)
    scale: float = setting(1000.0, "s_S; 0 is plain guidance", low=0)
    threshold: float = setting(0.01, "how near prompt and concept must be")
    momentum: float = setting(0.3, "s_m", low=0)
    beta: float = setting(0.4, "b, how slowly the momentum moves", low=0, high=1)


PUBLISHED: dict[str, SLDConfig] = {
    "weak": SLDConfig(15, 200.0, 0.0, 0.0, 0.0),
    "medium": SLDConfig(10, 1000.0, 0.01, 0.3, 0.4),
    "strong": SLDConfig(7, 2000.0, 0.025, 0.5, 0.7),
    "max": SLDConfig(0, 5000.0, 1.0, 0.5, 0.7),
}
"""The paper's four settings."""


class SafeGuidance:
    """One drawing's guidance away from a concept; it remembers from step to step."""

    def __init__(self, config: SLDConfig):
        self._config = config
        self._momentum: Tensor | None = None

    def begin(self) -> None:
        """A new drawing."""
        self._momentum = None

    def away(self, prompt: Tensor, empty: Tensor, concept: Tensor, share: float) -> Tensor:
        """g, to be taken from ``prompt - empty`` before guidance scales it.

        Args:
            prompt, empty, concept: e(x, p), e(x) and e(x, S), ``[B, C, ...]``.
            share: of the steps that are done, from 0 to below 1.

        Returns:
            as they; zeros during the warm-up.
        """
        config = self._config
        apart = prompt - concept
        weight = (config.scale * apart).abs().clamp(max=1.0)
        weight = torch.where(apart >= config.threshold, torch.zeros_like(weight), weight)
        before = self._momentum
        if before is None or before.shape != apart.shape:
            before = torch.zeros_like(apart)
        found = weight * (concept - empty) + config.momentum * before
        self._momentum = config.beta * before + (1.0 - config.beta) * found
        return found if share * STEPS >= config.warmup else torch.zeros_like(found)
