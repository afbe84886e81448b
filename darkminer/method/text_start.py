"""The text start: the concept's own contexts as the first embeddings.

Mined embeddings lie far from anything a prompt can say, so circumventing them alone leaves ordinary
prompts nearly untouched for many rounds. The concept's own contexts cost nothing and fix that.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import Tensor

from ..errors import DarkMinerError
from ..types import EmbeddingPool, MinedEmbedding
from .image_pool import concept_prompt

_ARTICLES = ("a", "an", "the")
_OF = r"\s+of(\s+(a|an|the))?\s+\*"
_THING = re.compile(_OF + r"\s*$", re.IGNORECASE)
_PART = re.compile(_OF + r"(?=\s*([,.;:]|$))", re.IGNORECASE)
_LONE = re.compile(r"\s+([,.;:])")


def concept_prompts(concept: str, templates: Sequence[str]) -> list[str]:
    """The concept in every template, without repeats.

    Raises:
        DarkMinerError: as :func:`~.image_pool.concept_prompt`.
    """
    return list(dict.fromkeys(concept_prompt(concept, t) for t in templates))


def without_concept(template: str) -> str:
    """A template without its ``*``: "a * photo" and "a photo of a *" both give "a photo"."""
    plain = " ".join(_PART.sub("", template).replace("*", " ").split())
    return _LONE.sub(r"\1", plain).lstrip(",.;: ")


def with_word(template: str, word: str) -> str:
    """A template with one more word in the picture.

    The concept of "a * photo" is a way to show things: "a * photo of a dog". That of "a photo of a
    *" is a thing, which can be shown in other ways: "a dog photo of a *".
    """
    thing = _THING.search(template)
    if thing is None:
        return f"{template} of a {word}"
    head = template[: thing.start()].split()
    place = 1 if head and head[0].lower() in _ARTICLES else 0
    return " ".join([*head[:place], word, *head[place:]]) + thing.group()


def subject_prompts(concept: str, template: str, words: Sequence[str]) -> list[tuple[str, str]]:
    """The concept with other words in the picture, and the same prompts without the concept.

    What a style is shows best on subjects, and "a photo of a dog" is a truer anchor of
    "a van gogh photo of a dog" than "a photo" is.

    Returns:
        pairs (prompt, its anchor prompt), one per word.
    """
    templates = [with_word(template, w) for w in words]
    return [(concept_prompt(concept, t), without_concept(t)) for t in templates]


def concept_texts(embeddings: EmbeddingPool, stage: str) -> list[MinedEmbedding]:
    """The concept's own contexts among the embeddings, which a stage begins with.

    Raises:
        DarkMinerError: if there is none.
    """
    texts = [e for e in embeddings.entries if e.kind == "text"]
    if not texts:
        raise DarkMinerError(
            f"The {stage} needs the concept's own contexts to begin with: make them with "
            "DarkMinerConceptContexts (or set text_start)."
        )
    return texts


def text_pool(
    concept: str,
    prompts: Sequence[str],
    contexts: Sequence[Tensor],
    anchors: Sequence[Tensor | None],
    templates: Sequence[str] | None = None,
) -> EmbeddingPool:
    """An embedding pool at round 0 that holds one context ``[L, D]`` per prompt.

    Args:
        anchors: what each prompt is to show instead, ``[L0, D]``; None for the run's anchor.
        templates: each prompt with ``*`` in the concept's place, where a token may stand instead.
    """
    rows = zip(prompts, contexts, anchors, templates or [""] * len(prompts), strict=True)
    entries = tuple(
        MinedEmbedding(
            _owned(c), 0, kind="text", prompt=p, template=t, anchor=None if a is None else _owned(a)
        )
        for p, c, a, t in rows
    )
    return EmbeddingPool(entries, concept=concept)


def _owned(context: Tensor) -> Tensor:
    return context.detach().float().cpu().clone()
