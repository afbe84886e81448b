"""What a run has come to, at its end or on its way."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ..model.adapter import AdapterState
from ..standing import StageState
from ..types import EmbeddingPool, Verdict
from .outcome import Outcome, adds_nothing

LAST_LOOK = "last look"
OPENING = "opening"


def mining(round_: int) -> tuple[str, str]:
    """The names of a round's two searches: of contexts, and of tokens."""
    return f"mine {round_}", f"mine {round_} tokens"


def _drift_name(stage: str, before: int) -> str:
    """What drift is measured after when a stage is over; empty: this one trains nothing."""
    kind, _, round_ = stage.partition(" ")
    if kind in ("chase", "repair") or stage == f"circumvent {before}":
        return OPENING
    return f"round {round_}" if kind == "circumvent" else ""


@dataclass(frozen=True)
class Erasure:
    """What a run has come to: all that it needs to go on, or to be handed on.

    Attributes:
        adapters: the LoRA's weights, after the last stage that is over.
        embeddings: every embedding that was circumvented, and the history of all verifications.
        verdicts: one per round that mined, with its pictures.
        last: the verification after the last round, where rounds ended before nothing was found.
        losses: name of the stage and round, e.g. ``"mine 2"`` or ``"mine 2 tokens"`` -> loss of
            each step.
        seconds: ``"opening"``, ``"round 1"``, ... and ``"last look"`` -> what they took.
        finished: stages that are over, in their order, e.g. ``"mine 2"``.
        stage: the one that was under way, on its way; None between two.
        timed_out: whether the run ended because its time was up.
        notes: sentences on what did not go as planned.
        before: rounds that earlier runs have had.
        drifts: ``"opening"``, ``"round 1"``, ... -> how far what is retained had drifted after it,
            where that is guarded (:mod:`.guard`); that of a round that was left out as well.
    """

    adapters: AdapterState
    embeddings: EmbeddingPool
    verdicts: tuple[Verdict, ...] = ()
    losses: dict[str, list[float]] = field(default_factory=dict)
    last: Verdict | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    finished: tuple[str, ...] = ()
    stage: StageState | None = None
    timed_out: bool = False
    notes: tuple[str, ...] = ()
    before: int = 0
    drifts: dict[str, float] = field(default_factory=dict)

    @property
    def newest(self) -> Verdict | None:
        """The newest verification; once a run is over, that of the model it hands on."""
        return self.last or (self.verdicts[-1] if self.verdicts else None)

    @property
    def score(self) -> float:
        """The newest verification's highest score, 0 before the first."""
        return self.newest.score if self.newest is not None else 0.0

    @property
    def outcome(self) -> Outcome:
        """What came of it; a run whose first verdict is no and that trained nothing is empty."""
        there = self.newest is not None and self.newest.verified
        threshold = self.newest.threshold if self.newest is not None else None
        empty = adds_nothing(self.adapters)
        return Outcome(
            there, self.score, threshold, empty, self.embeddings.round, self.embeddings.concept,
            self.timed_out, self.too_far,
        )  # fmt: skip

    @property
    def over(self) -> bool:
        """Whether it has ended by itself: nothing was found, or its last look is taken."""
        if LAST_LOOK in self.finished:
            return True
        ended = bool(self.finished) and self.finished[-1].startswith("verify")
        return ended and not self.verdicts[-1].verified

    @property
    def rounds(self) -> int:
        """Rounds of this run that have begun; its last look, which only mines, is none."""
        names = (name.split() for name in self.finished)
        begun = [int(n[1]) for n in names if n[0] in ("verify", "pictures", "circumvent")]
        return max(begun, default=self.before) - self.before

    @property
    def trained(self) -> list[str]:
        """What has trained the LoRA and is over, as :attr:`drifts` names it."""
        named = [_drift_name(name, self.before) for name in self.finished]
        return list(dict.fromkeys(name for name in named if name))

    @property
    def too_far(self) -> float | None:
        """The drift of the round that was left out; None where none was."""
        return next((d for name, d in self.drifts.items() if name not in self.trained), None)

    def judged_alike(self, threshold: float | str) -> bool:
        """Whether another threshold would have let the same embeddings through in every round, but
        for the verification that ended the run.
        """
        ended = self.over and self.last is None
        scores = [(s, v.threshold) for v in self.verdicts[: -1 if ended else None]
                  for s in v.scores]  # fmt: skip
        if not isinstance(threshold, float):
            return not scores
        return all((s > threshold) == (s > before) for s, before in scores)

    def reopened(self) -> Erasure:
        """A run that is over, as it stood before the mining and verification that ended it."""
        self = replace(self, drifts={n: d for n, d in self.drifts.items() if n in self.trained})
        if self.last is not None:
            rest = tuple(name for name in self.finished if name != LAST_LOOK)
            before = self.embeddings.before(self.embeddings.round + 1)
            return replace(self, finished=rest, last=None, embeddings=before)
        round_ = self.embeddings.round
        ending = (*mining(round_), f"verify {round_}")
        return replace(
            self, finished=tuple(name for name in self.finished if name not in ending),
            verdicts=self.verdicts[:-1], embeddings=self.embeddings.before(round_),
        )  # fmt: skip
