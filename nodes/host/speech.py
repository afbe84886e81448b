"""The CLIP's input as attacks use it: whole rows of token vectors, and text for what they find."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...darkminer.errors import DarkMinerError
from .text import TextEncoder, vocabulary


class ClipSpeech:
    """A :class:`~...darkminer.attacks.speech.Speech` of the host's CLIP.

    Where there are several encoders (SDXL), a token's vector is theirs side by side. A row is one
    chunk of the host's: what it holds beyond the attack's tokens is padded as the host pads. Make
    it inside :func:`~.session.training_mode`.

    Args:
        text: the training copy of the CLIP.
        exclude: no token may speak of these words; parts of words are left out then, since they
            could be joined to one.

    Raises:
        DarkMinerError: if the CLIP's encoders do not count the same tokens.
    """

    def __init__(self, text: TextEncoder, exclude: Sequence[str] = ()):
        self._text, self._clip = text, text.clip
        tables, words = text.tables, text.vocabularies
        self._widths = [t.shape[1] for t in tables.values()]
        (known, *others), count = words.values(), min(len(t) for t in tables.values())
        if any(other != known for other in others):
            raise DarkMinerError(
                "The text encoders of this CLIP count their tokens differently, and no text can be "
                "searched for through all of them: use a model whose text encoders are CLIPs."
            )
        self.table: Tensor = torch.cat([t[:count].detach().float() for t in tables.values()], 1)
        self._empty = {name: chunks[0] for name, chunks in text.tokens("").items()}
        self._marks = _marks(self._empty)
        self.length = min(map(len, self._empty.values())) - 2
        usable = sorted(n for n in known if n < count and n not in self._marks)
        if exclude:
            left = set(vocabulary(self._clip, exclude))
            usable = [n for n in usable if known[n].removesuffix("</w>") in left]
        self.allowed: Tensor = torch.tensor(usable, dtype=torch.int64)

    def __call__(self, rows: Tensor) -> Tensor:
        """Contexts ``[B, L, D]`` of B rows of token vectors ``[B, n, Din]``; gradients pass."""
        return self._text.encode_chunks([self._chunks(row) for row in rows])

    def _chunks(self, row: Tensor) -> dict[str, list[list[tuple[Any, float]]]]:
        shares = row.split(self._widths, dim=1)
        return {
            name: [_filled(chunk, share)]
            for (name, chunk), share in zip(self._empty.items(), shares, strict=True)
        }

    def ids(self, text: str) -> list[int]:
        """The tokens of a prompt's first chunk, without its marks, weights and embeddings."""
        chunk = next(iter(self._text.tokens(text).values()))[0]
        found = []
        for token, _ in chunk[1:]:
            if not isinstance(token, Tensor):
                if token in self._marks:
                    break
                found.append(int(token))
        return found[: self.length]

    def text(self, ids: Sequence[int]) -> str:
        """What to paste for tokens; brackets are escaped, since prompts give weights by them."""
        plain = self._text.decode(list(ids))
        return plain.replace("(", r"\(").replace(")", r"\)").strip()


def _marks(empty: dict[str, list[tuple[Any, float]]]) -> set[int]:
    """Start, end and padding of every encoder."""
    return {int(token) for chunk in empty.values() for token, _ in chunk}


def _filled(chunk: list[tuple[Any, float]], vectors: Tensor) -> list[tuple[Any, float]]:
    """The empty prompt's chunk with vectors ``[n, Din]`` behind its start."""
    if not len(vectors):
        return chunk
    return [chunk[0], (vectors, 1.0), *chunk[1 : len(chunk) - len(vectors)]]
