"""The idea of Latent Guard (Liu et al., ECCV 2024, arXiv 2404.08031): prompts whose embedding lies
near that of a concept on a list are not drawn.

A prompt is blocked where its cosine to any concept is at least the threshold.

What differs from the paper: everything that is learnt. There a mapping layer on the text encoder,
trained by contrast on prompts with and without a thousand concepts, attends from a concept to the
prompt's tokens, and cosines are taken in the space that it learns; paraphrases and adversarial
prompts are found by it. Here they are taken between what the text encoder itself says of the whole
prompt and of the concept (its pooled embedding). That notices prompts that are mostly about the
concept, and misses one that hides it among other things.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from ..errors import DarkMinerError
from ..finite import TEXT_ENCODER, finite


@dataclass(frozen=True)
class Judgement:
    """What the filter says of a prompt.

    Attributes:
        cosines: concept -> the largest cosine of a part of the prompt to it, the nearest first.
        threshold: from which on the prompt is blocked.
    """

    cosines: Mapping[str, float]
    threshold: float

    @property
    def nearest(self) -> str:
        """The concept that the prompt is nearest to."""
        return next(iter(self.cosines))

    @property
    def blocked(self) -> bool:
        """Whether the prompt is not to be drawn."""
        return self.cosines[self.nearest] >= self.threshold

    @property
    def words(self) -> str:
        """What is to be told of it."""
        each = ", ".join(f"{name!r} {cosine:.3f}" for name, cosine in self.cosines.items())
        if self.blocked:
            return f"blocked, the empty prompt takes its place: {each}; from {self.threshold:g} on"
        return f"passed: {each}; blocked from {self.threshold:g} on"


def judge(prompt: Tensor, concepts: Mapping[str, Tensor], threshold: float) -> Judgement:
    """Compare a prompt with every concept.

    Args:
        prompt: embeddings of its parts, ``[n, D]``.
        concepts: name -> embeddings of its parts ``[m, D]``.
        threshold: a cosine, -1 to 1.

    Raises:
        DarkMinerError: if there is no concept.
        NotFiniteError: if an embedding is not finite.
    """
    if not concepts:
        raise DarkMinerError("The list of concepts is empty: write at least one, a line each.")
    parts = F.normalize(finite(prompt, TEXT_ENCODER, "embeddings"), dim=1)
    found = {
        name: float((parts @ F.normalize(finite(own, TEXT_ENCODER, "embeddings"), dim=1).T).max())
        for name, own in concepts.items()
    }
    return Judgement(dict(sorted(found.items(), key=lambda pair: -pair[1])), threshold)
