"""Circumventing Concept Erasure (Pham et al., 2023): textual inversion on the erased model.

One placeholder token at the text encoder's *input* is learnt from pictures of the concept; then
prompts with that token are tried on the erased model.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..model.interface import DiffusionModel, TextEncoder
from ..rng import generator
from ..types import Report, silent
from .common import AttackConfig, Watch, optimise


def invert(
    model: DiffusionModel,
    text: TextEncoder,
    latents: Tensor,
    prompts: Sequence[str],
    config: AttackConfig,
    *,
    seed: int,
    word: str = "picture",
    report: Report = silent,
    watch: Watch | None = None,
) -> tuple[Tensor, list[float]]:
    """Learn the token that makes the model draw the concept.

    Args:
        latents: the concept's own pictures, ``[n, C, h, w]`` in model space.
        prompts: one prompt per picture, with ``*`` for the token, e.g. "a * drawing of a cat".
        word: a neutral one-token word to start from.
        watch: see :data:`~.common.Watch`.

    Returns:
        the token ``[1, Din]`` and the loss of each step.
    """
    vector, texts = text.embedding(word)[None].clone(), list(prompts)
    losses = optimise(
        model,
        latents,
        vector,
        lambda v, which: text([texts[int(i)] for i in which], v).to(model.device),
        config,
        generator(seed, 0, "attack.cce"),
        stage="cce",
        report=report,
        watch=watch,
    )
    return vector.detach(), losses
