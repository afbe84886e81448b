"""Noise levels and parameterisation: what a network is given and what it predicts.

A network sees ``x_t = signal * x + noise_level * epsilon``. Variance-preserving models (epsilon, v)
have signal^2 + noise_level^2 = 1; flow models have signal + noise_level = 1. Both come from the
host as sigmas, so that no schedule is ever assumed here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Prediction = Literal["epsilon", "v", "flow"]


@dataclass(frozen=True)
class Schedule:
    """A discrete schedule of T noise levels.

    Attributes:
        signal: coefficient of the clean latents at each level, ``[T]`` float32 CPU.
        noise: coefficient of the noise at each level, ``[T]`` float32 CPU.
        timesteps: what the network is told at each level, ``[T]`` float32 CPU.
        prediction: what the network predicts.
    """

    signal: Tensor
    noise: Tensor
    timesteps: Tensor
    prediction: Prediction

    @classmethod
    def from_sigmas(cls, sigmas: Tensor, timesteps: Tensor, prediction: Prediction) -> Schedule:
        """Build from the host's sigmas ``[T]`` (noise-to-signal ratio; for flow, time in 0..1)."""
        sigmas = sigmas.detach().float().cpu()
        if prediction == "flow":
            signal, noise = 1.0 - sigmas, sigmas
        else:
            signal = (1.0 + sigmas.square()).rsqrt()
            noise = sigmas * signal
        return cls(signal, noise, timesteps.detach().float().cpu(), prediction)

    def __len__(self) -> int:
        return self.signal.shape[0]

    def draw(self, count: int, gen: torch.Generator) -> Tensor:
        """``count`` level indices, uniform over the model's own schedule, ``[count]`` int64 CPU."""
        return torch.randint(len(self), (count,), generator=gen)

    def timestep(self, index: Tensor, like: Tensor) -> Tensor:
        """What the network is told for the levels ``index``, on ``like``'s device."""
        return self.timesteps[index].to(like.device)

    def add_noise(self, x: Tensor, noise: Tensor, index: Tensor) -> Tensor:
        """Noisy latents ``[B, C, h, w]`` at the levels ``index`` ``[B]``."""
        a, b = self.coefficients(index, x)
        return a * x + b * noise

    def target(self, x: Tensor, noise: Tensor, index: Tensor) -> Tensor:
        """What the network should predict for clean ``x`` and ``noise``, ``[B, C, h, w]``.

        epsilon: the noise; v: signal * noise - noise_level * x (Salimans and Ho, 2022);
        flow: noise - x.
        """
        if self.prediction == "epsilon":
            return noise
        if self.prediction == "flow":
            return noise - x
        a, b = self.coefficients(index, x)
        return a * noise - b * x

    def clean_and_noise(
        self, prediction: Tensor, noisy: Tensor, index: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The clean latents and the noise that a prediction amounts to, both ``[B, C, h, w]``.

        What :meth:`add_noise` and :meth:`target` are made of, the other way round. At a level that
        is nothing but noise an epsilon prediction says nothing of the clean latents.
        """
        a, b = self.coefficients(index, noisy)
        if self.prediction == "epsilon":
            return (noisy - b * prediction) / a.clamp(min=1e-4), prediction
        if self.prediction == "v":  # of a variance-preserving schedule
            return a * noisy - b * prediction, a * prediction + b * noisy
        return noisy - b * prediction, noisy + a * prediction

    def coefficients(self, index: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Signal and noise at the levels ``index`` ``[B]``, to be multiplied with ``like``."""
        shape = (-1, *([1] * (like.ndim - 1)))
        a = self.signal[index].view(shape).to(like.device, like.dtype)
        b = self.noise[index].view(shape).to(like.device, like.dtype)
        return a, b
