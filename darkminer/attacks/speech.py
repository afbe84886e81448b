"""What an attack can say: rows of token vectors in, contexts out; token numbers in, text out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import DarkMinerError


class Speech(Protocol):
    """A text encoder as attacks on its input use it; gradients reach every vector of a row.

    Attributes:
        table: input vector of each token, ``[V, Din]`` float32, on the encoder's device.
        allowed: numbers of the tokens an attack may use, ``[A]`` int64, ascending.
        length: tokens that fit into one prompt.
    """

    table: Tensor
    allowed: Tensor
    length: int

    def __call__(self, rows: Tensor) -> Tensor:
        """Contexts ``[B, L, D]`` of B rows of n token vectors ``[B, n, Din]``, n up to length."""
        ...

    def ids(self, text: str) -> list[int]:
        """The tokens of a text, without the marks around them; no more than ``length``."""
        ...

    def text(self, ids: Sequence[int]) -> str:
        """The text of tokens."""
        ...


@dataclass(frozen=True)
class Spoken:
    """Tokens as a text that can be pasted.

    Attributes:
        text: what to paste.
        ids: the tokens that were found.
        read: the tokens that the tokenizer makes of the text.
    """

    text: str
    ids: tuple[int, ...]
    read: tuple[int, ...]

    @property
    def differs(self) -> tuple[int, ...]:
        """Places among ``ids``, from 0, that the pasted text does not give back.

        Where the text only gives more tokens at the end, that is the number of tokens found.
        """
        matcher = SequenceMatcher(None, self.ids, self.read, autojunk=False)
        places = (
            range(a, max(b, a + 1)) for kind, a, b, *_ in matcher.get_opcodes() if kind != "equal"
        )
        return tuple(sorted({place for part in places for place in part}))

    @property
    def note(self) -> str:
        """What pasting changes, in words; empty where it changes nothing."""
        if not self.differs:
            return ""
        places = ", ".join(str(place + 1) for place in self.differs)
        return f"pasted, it is read otherwise at token {places} ({len(self.read)} tokens)"


def spoken(speech: Speech, ids: Sequence[int]) -> Spoken:
    """Tokens as text, and what a tokenizer makes of that text."""
    text = speech.text(ids)
    return Spoken(text, tuple(ids), tuple(speech.ids(text)))


def said(speech: Speech, ids: Sequence[int]) -> Tensor:
    """The context ``[L, D]`` float32 CPU of tokens."""
    with torch.no_grad():
        return speech(speech.table[list(ids)][None])[0].float().cpu()


def nearest(vectors: Tensor, speech: Speech) -> Tensor:
    """The allowed token whose vector has the largest cosine to each of ``vectors`` ``[n, Din]``.

    Returns:
        token numbers ``[n]`` int64, on the CPU.
    """
    own = speech.table[speech.allowed.to(speech.table.device)]
    likeness = F.normalize(vectors.detach(), dim=1) @ F.normalize(own, dim=1).T
    return speech.allowed[likeness.argmax(1).cpu()]


def drawn(count: int, speech: Speech, gen: torch.Generator) -> Tensor:
    """``count`` allowed tokens, uniformly at random, ``[count]`` int64 CPU."""
    return speech.allowed[torch.randint(len(speech.allowed), (count,), generator=gen)]


def require_room(speech: Speech, tokens: int, what: str) -> None:
    """Refuse a prompt that has no room for what an attack adds.

    Raises:
        DarkMinerError: if more tokens are asked for than fit, or an attack may use none.
    """
    if tokens > speech.length:
        raise DarkMinerError(
            f"{what} takes {tokens} tokens and this CLIP reads {speech.length} at once: shorten "
            "the prompt, or learn fewer tokens."
        )
    if not len(speech.allowed):
        raise DarkMinerError(f"{what} may use none of this CLIP's tokens: exclude fewer words.")
