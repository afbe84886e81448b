"""Words of prompts, and which words of a vocabulary speak of the same thing.

What no prompt may hold is said in the words of a prompt: a concept, or a list. A vocabulary's word
is left out if it is

- one of those words, whatever stands around it in the prompt: weights such as ``(ink:1.3)``,
  brackets, punctuation, slashes, hyphens, upper case and accents do not count;
- an inflection of one, or has the same base: ``ink``, ``inks``, ``inked``, ``inking``; ``berry``,
  ``berries``; ``wolf``, ``wolves``; ``bake``, ``baked``, ``baking``; ``stop``, ``stopped``;
- a compound of one and another word of the vocabulary: ``inkjet``, ``sunflower`` for ``flower``.

A word that only holds the letters (``drink``, ``pink``, ``link`` for ``ink``) stays. The rules are
English and plain: now and then a word too many is left out, which costs nothing.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable

_EMBEDDING = re.compile(r"\bembedding:", re.IGNORECASE)
_LETTERS = re.compile(r"[^\W\d_]+")
_SHORTEST = 3  # letters of a base, and of either part of a compound


def split_words(text: str) -> list[str]:
    """The words of a prompt or of a list, lower case, without accents and prompt syntax."""
    plain = _EMBEDDING.sub(" ", text).lower()
    parts = unicodedata.normalize("NFKD", plain)
    return _LETTERS.findall("".join(c for c in parts if not unicodedata.combining(c)))


def bases(word: str) -> set[str]:
    """What a word may be an inflection of, itself included."""
    found = {word}
    if word.endswith("s") and not word.endswith("ss"):
        found.add(word[:-1])
    for ending, others in (
        ("es", ("",)), ("ies", ("y",)), ("ied", ("y",)), ("ves", ("f", "fe")), ("ed", ("", "e")),
        ("ing", ("", "e")),
    ):  # fmt: skip
        if word.endswith(ending):
            stem = word.removesuffix(ending)
            found |= {stem + other for other in others}
            if ending in ("ed", "ing") and stem[-1:] == stem[-2:-1]:
                found.add(stem[:-1])  # stopped, running
    return {w for w in found if len(w) >= _SHORTEST} | {word}


def names(prompt: str, concept: str) -> bool:
    """Whether a prompt says the concept: its words one after the other, inflected or not."""
    said, wanted = ([bases(word) for word in split_words(text)] for text in (prompt, concept))
    if not wanted:
        return bool(concept.strip()) and prompt.strip() == concept.strip()
    places = range(len(said) - len(wanted) + 1)
    return any(all(a & b for a, b in zip(said[i:], wanted, strict=False)) for i in places)


def without(vocabulary: Collection[str], excluded: Iterable[str]) -> list[str]:
    """The words of a vocabulary that speak of none of the excluded ones, sorted.

    Args:
        vocabulary: lower-case words.
        excluded: words, or text that holds them; see the rule above.
    """
    named = {base for text in excluded for word in split_words(text) for base in bases(word)}
    parts = {w for w in named if len(w) >= _SHORTEST}
    known = set(vocabulary)

    def speaks(word: str) -> bool:
        if bases(word) & named:
            return True
        cuts = range(_SHORTEST, len(word) - _SHORTEST + 1)
        halves = ((word[:i], word[i:]) for i in cuts)
        return any((a in parts and b in known) or (b in parts and a in known) for a, b in halves)

    return sorted(word for word in known if not speaks(word))
