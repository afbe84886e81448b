"""Mined embeddings as the host's CONDITIONING, and back.

Embeddings of one round may differ in length: free contexts are as long as mining's settings say,
those of tokens as long as the text encoder's prompts. What is of one length shares an entry.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...darkminer.errors import DarkMinerError
from ...darkminer.model.sampling import of_one_length
from ...darkminer.types import EmbeddingPool, MinedEmbedding
from ..host.predict import counting_all
from ..host.session import Conditioning

ROUND = "darkminer_round"
"""What mined CONDITIONING carries besides the anchor's vectors: the round that mined it."""

_ROWS = "darkminer_rows"
_PICTURES = 256  # of a batch, up to which each picture finds its own embedding


def as_conditioning(
    embeddings: EmbeddingPool, anchor: Conditioning, *, frames: bool = False
) -> Conditioning:
    """The newest round's contexts as CONDITIONING, with the anchor's other vectors.

    Picture i of a batch shows embedding i. The host takes the mean of its entries' predictions,
    weighted by their masks; where there are several lengths, an entry's mask is 1 for the pictures
    whose embedding it holds and 0 for all others, so that none is a mixture.

    Args:
        frames: whether the MODEL's latents have a frame axis, see
            :func:`~..host.predict.has_frames`.
    """
    contexts = [e.context for e in embeddings.current()]
    extra = {**anchor[0][1], ROUND: embeddings.round}
    # The host joins a prompt with a second tokenizer's tokens, of which there is one row only.
    groups = list(of_one_length(contexts, 1 if "t5xxl_ids" in extra else len(contexts)))
    return [_entry(contexts, rows, extra, frames, alone=len(groups) == 1) for rows in groups]


def _entry(
    contexts: Sequence[Tensor],
    rows: list[int],
    extra: Mapping[str, Any],
    frames: bool,
    *,
    alone: bool,
) -> list[Any]:
    """One entry of a CONDITIONING with the contexts ``rows``, which are of one length."""
    own = torch.stack([contexts[i] for i in rows])
    extra = counting_all(extra, own.shape[1])
    if alone:
        return [own, extra]
    if len(rows) > 1:  # row i for picture i; what lies between is masked
        own = own[[rows.index(i) if i in rows else 0 for i in range(len(contexts))]]
    extra |= {_ROWS: tuple(rows), "mask": _mask(rows, len(contexts), frames)}
    return [own, extra]


def _mask(rows: list[int], count: int, frames: bool) -> Tensor:
    """Weights of a batch's pictures, ``[pictures, 1, 1]``; the host brings them to any size."""
    own = torch.zeros(count)
    own[rows] = 1.0
    pictures = own.repeat(-(-_PICTURES // count))
    return pictures.view(-1, 1, 1, 1) if frames else pictures.view(-1, 1, 1)


def contexts_in(conditioning: Conditioning) -> list[Tensor]:
    """All contexts ``[L_i, D]`` float32 CPU of a CONDITIONING, one per embedding or prompt.

    Those of :func:`as_conditioning` come in the order of their embeddings, all others as they lie
    there; several entries, as the host's combining nodes make them, are read one after the other.
    """
    found: list[tuple[int | None, Tensor]] = []
    for context, extra in conditioning:
        rows = extra.get(_ROWS)
        if rows is None or 1 < len(context) <= max(rows):
            found += [(None, _owned(c)) for c in context]
        else:
            found += [(i, _owned(context[i if len(context) > 1 else 0])) for i in rows]
    places = [place for place, _ in found]
    if None not in places and len(set(places)) == len(places):
        found.sort(key=lambda pair: pair[0] or 0)
    return [context for _, context in found]


def _owned(context: Tensor) -> Tensor:
    return context.detach().float().cpu().clone()


def mined_into(
    embeddings: EmbeddingPool | None, mined: Conditioning, concept: str, node: str
) -> EmbeddingPool:
    """The pool with the newest round's contexts as ``mined`` has them.

    A node between may have changed the CONDITIONING. Without embeddings, or where it comes from
    elsewhere altogether and says no round, it opens a round of its own.

    Raises:
        DarkMinerError: if ``mined`` and ``embeddings`` are not of the same mining.
    """
    contexts = contexts_in(mined)
    rounds = {extra[ROUND] for _, extra in mined if ROUND in extra}
    if embeddings is None or not rounds:
        before = embeddings or EmbeddingPool(concept=concept)
        return before.opened(MinedEmbedding(c, before.round + 1) for c in contexts)
    current = embeddings.current()
    for round_ in sorted(rounds - {embeddings.round}):
        raise DarkMinerError(
            f"{node}: mined is of round {round_} and embeddings of round {embeddings.round}: "
            "connect the embeddings that the same MineEmbedding gives."
        )
    if len(current) != len(contexts):
        raise DarkMinerError(
            f"{node}: mined holds {len(contexts)} embeddings and the round in embeddings "
            f"{len(current)}: connect mined and embeddings of the same MineEmbedding."
        )
    entries = tuple(replace(e, context=c) for e, c in zip(current, contexts, strict=True))
    return replace(embeddings, entries=(*embeddings.earlier(), *entries))
