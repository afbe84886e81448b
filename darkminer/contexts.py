"""The text start: the concept's own contexts as the first embeddings.

Mined embeddings lie far from anything a prompt can say, so circumventing them alone leaves ordinary
prompts nearly untouched for many rounds. The concept's own contexts cost nothing and fix that.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .image_pool import concept_prompt
from .types import EmbeddingPool, MinedEmbedding


def concept_prompts(concept: str, templates: Sequence[str]) -> list[str]:
    """The concept in every template, without repeats.

    Raises:
        DarkMinerError: as :func:`~.image_pool.concept_prompt`.
    """
    return list(dict.fromkeys(concept_prompt(concept, t) for t in templates))


def text_pool(concept: str, prompts: Sequence[str], contexts: Sequence[Tensor]) -> EmbeddingPool:
    """An embedding pool at round 0 that holds one context ``[L, D]`` per prompt."""
    entries = tuple(
        MinedEmbedding(c.detach().float().cpu().clone(), 0, source=p)
        for p, c in zip(prompts, contexts, strict=True)
    )
    return EmbeddingPool(entries, concept=concept)
