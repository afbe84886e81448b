"""What a run has come to: erased, still there, or nothing.

Where the first verification says no and nothing was trained, there is no erasure: the LoRA changes
nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..model.adapter import AdapterState
from ..types import EmbeddingPool

_NAME = 60  # letters of a concept's name in a sentence


@dataclass(frozen=True)
class Outcome:
    """The last verdict on the model that is handed on.

    Attributes:
        there: whether it still found the concept.
        score: its highest score.
        threshold: what it was held against; None where that is not known.
        empty: whether nothing was trained.
        rounds: rounds that mined.
        concept: what was to be erased, in words; empty where nobody said.
        timed_out: whether the run's time was up before it had ended.
        too_far: drift of what is retained after a round that was left out; None: none was.
    """

    there: bool
    score: float
    threshold: float | None
    empty: bool
    rounds: int
    concept: str = ""
    timed_out: bool = False
    too_far: float | None = None

    @property
    def verdict(self) -> str:
        """The same in a word or two."""
        if self.timed_out:
            return "out of time"
        if self.there:
            return "still there"
        return "nothing erased" if self.empty else "gone"

    @property
    def words(self) -> str:
        """One sentence: what was found, and what to do where that is not what was wanted."""
        if self.timed_out:
            return (
                f"The time was up before {self._subject} was verified to be gone: this is the "
                "erasure so far; raise max_minutes and queue it again to go on."
            )
        measured = f"score {self.score:.2f}"
        if self.threshold is not None:
            measured += f", threshold {self.threshold:.2f}"
        if self.empty and not self.there:
            return (
                f"Nothing was found that produces the concept ({measured}), so nothing was erased "
                "and the model stays as it is: check that the pool shows the concept and that the "
                "image encoder tells it apart, lower the threshold, or mine for more steps."
            )
        if self.there and self.too_far is not None:
            return (
                f"{self._subject} is still there {self._when} ({measured}): another round moved "
                f"what is retained by {self.too_far:.3g}, more than guard_max_drift allows, and "
                "was left out; raise it, or retain more."
            )
        if self.there:
            return (
                f"{self._subject} is still there {self._when} ({measured}): raise max_rounds, or "
                "go on from this erasure."
            )
        return f"{self._subject} is gone: nothing is found any more that produces it ({measured})."

    @property
    def _subject(self) -> str:
        name = self.concept if len(self.concept) <= _NAME else f"{self.concept[:_NAME]}…"
        return f'"{name}"' if name else "The concept"

    @property
    def _when(self) -> str:
        if self.rounds:
            return f"after {self.rounds} round{'s' if self.rounds > 1 else ''}"
        return "and no round was run"


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
    return Outcome(there, score, threshold, empty, embeddings.round, embeddings.concept)


def adds_nothing(state: AdapterState) -> bool:
    """The same of adapters: none has left its start."""
    return not any(bool(up.any()) for up in state.up.values())


def nothing_found(embeddings: EmbeddingPool) -> bool:
    """Whether the newest verification has left no embedding at all: nothing to circumvent."""
    looked = bool(embeddings.history) and embeddings.history[-1].round == embeddings.round
    return looked and not embeddings.entries
