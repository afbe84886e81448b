"""What a run has come to: erased, still there, or nothing.

Where the first verification says no and nothing was trained, there is no erasure: the LoRA changes
nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..model.adapter import AdapterState
from ..types import EmbeddingPool


@dataclass(frozen=True)
class Outcome:
    """The last verdict on the model that is handed on.

    Attributes:
        there: whether it still found the concept.
        score: its highest score.
        threshold: what it was held against; None where that is not known.
        empty: whether nothing was trained.
        rounds: rounds that mined.
    """

    there: bool
    score: float
    threshold: float | None
    empty: bool
    rounds: int

    @property
    def words(self) -> str:
        """One sentence: what was found, and what to do where that is not what was wanted."""
        measured = f"score {self.score:.2f}"
        if self.threshold is not None:
            measured += f", threshold {self.threshold:.2f}"
        if self.empty and not self.there:
            return (
                f"Nothing was found that produces the concept ({measured}), so nothing was erased "
                "and the model stays as it is: check that the pool shows the concept and that the "
                "image encoder tells it apart, lower the threshold, or mine for more steps."
            )
        if self.there:
            return (
                f"The concept is still there after round {self.rounds} ({measured}): raise "
                "max_rounds, or go on from this erasure."
            )
        return f"Nothing is found any more that produces the concept ({measured})."


def outcome_of(
    embeddings: EmbeddingPool, there: bool, score: float, empty: bool, round_: int
) -> Outcome:
    """The outcome of a last verification.

    Args:
        embeddings: holds its record, if it was one that leaves any.
        round_: the round that it looked at.
    """
    record = embeddings.history[-1] if embeddings.history else None
    known = record is not None and record.round == round_
    threshold = record.threshold if record is not None and known else None
    return Outcome(there, score, threshold, empty, embeddings.round)


def adds_nothing(state: AdapterState) -> bool:
    """The same of adapters: none has left its start."""
    return not any(bool(up.any()) for up in state.up.values())


def nothing_found(embeddings: EmbeddingPool) -> bool:
    """Whether the newest verification has left no embedding at all: nothing to circumvent."""
    looked = bool(embeddings.history) and embeddings.history[-1].round == embeddings.round
    return looked and not embeddings.entries
