"""What the method asks of a host: a network, its noise levels, its pictures and its text encoder.

One callable is the whole model interface of the losses (:class:`Denoiser`); the algorithm knows
nothing else of the host.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from ..finite import Giver
from .memory import Memory
from .schedule import Schedule


class Denoiser(Protocol):
    """The whole model interface of the losses."""

    def __call__(self, x: Tensor, timestep: Tensor, context: Tensor) -> Tensor:
        """Predict from noisy latents.

        Args:
            x: noisy latents as the network sees them, ``[B, C, h, w]``.
            timestep: what :meth:`Schedule.timestep` gives for the drawn indices, ``[B]``.
            context: cross-attention context, ``[B, L, D]``.

        Returns:
            The network's own prediction (epsilon, v or velocity), ``[B, C, h, w]``, float32.
        """
        ...


class TextEncoder(Protocol):
    """A text encoder that lets gradients reach one token at its input."""

    def __call__(self, prompts: Sequence[str], vectors: Tensor) -> Tensor:
        """Contexts ``[B, L, D]`` of B prompts whose ``*`` is ``vectors`` ``[1 or B, Din]``."""
        ...

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Contexts ``[B, L, D]`` of B prompts without any ``*``."""
        ...

    def embedding(self, word: str) -> Tensor:
        """The input vector ``[Din]`` of a one-token word."""
        ...


@dataclass(frozen=True)
class TextSpace:
    """What mining needs to find tokens that speak through the text encoder.

    Attributes:
        encoder: the text encoder.
        template: prompt with ``*`` for the token, e.g. ``"a * photo"``.
        words: subjects to join the token with, whole words of the vocabulary.
    """

    encoder: TextEncoder
    template: str
    words: tuple[str, ...]


class Sampler(Protocol):
    """Makes latents with the network as it stands (its adapters on or off)."""

    def __call__(self, context: Tensor, noise: Tensor) -> Tensor:
        """Sample latents from unit noise, both ``[B, C, h, w]``, and context ``[B or 1, L, D]``."""
        ...


ImageDecoder = Callable[[Tensor], Tensor]
"""Model-space latents ``[B, C, h, w]`` -> images ``[B, H, W, 3]`` in 0..1, float32, CPU."""

ImageEncoder = Callable[[Tensor], Tensor]
"""Images ``[B, H, W, 3]`` in 0..1 -> features ``[B, F]``, float32, CPU."""


@dataclass(frozen=True)
class DiffusionModel:
    """The model under erasure, as one training session hands it to the method.

    Attributes:
        network: the frozen training copy; adapters are injected here and nowhere else.
        denoise: the network as a :class:`Denoiser`; gradients reach context and adapters.
        schedule: noise levels and parameterisation, from the host.
        sample: pictures' latents from a context with the host's own sampler (no gradients).
        decode: latents to images.
        latent_shape: ``(C, h, w)`` of one picture.
        context_dim: width D of the cross-attention context.
        device: where network and latents live.
        names: module path of each adaptable layer -> stem of its key in a LoRA file.
        fingerprint: short hash that names the base model's weights; where LoRAs are on them, a plus
            sign and a second one that names those.
        family: LoRA metadata's name of the model family, e.g. ``"sd_v1"``.
        latent_format: the host's name of the latents' scaling and channels.
        batch: pictures to make at once.
        memory: how much is computed at once; ``denoise`` obeys it.
        guided: the same sampler with another guidance; None where there is but one.
        sampled_by: names what samples, and what to change when it gives no numbers.
    """

    network: nn.Module
    denoise: Denoiser
    schedule: Schedule
    sample: Sampler
    decode: ImageDecoder
    latent_shape: tuple[int, int, int]
    context_dim: int
    device: torch.device
    names: dict[str, str]
    fingerprint: str = ""
    family: str = ""
    latent_format: str = ""
    batch: int = 8
    memory: Memory = field(default_factory=Memory)
    guided: Callable[[float], Sampler] | None = None
    sampled_by: Giver = ("The sampler", "choose another sampler or scheduler, or more steps")
