"""What a run leaves for its report besides its LoRA's metadata, and the report as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import writable
from ..markup import picture_source
from ..method.erasure import LAST_LOOK, Erasure
from ..method.shown import Shown
from ..runs import report
from ..types import ImagePool, Verdict

SCHEMA = "1"
_PAIRS = 3  # of a verification, its highest scores
_FIRST, _NEWEST = 3, 6  # verifications that keep pictures where there are more
_POOL = 6  # pictures of the concept


@dataclass(frozen=True)
class Look:
    """A verification with its pictures.

    Attributes:
        name: ``"round 2"`` or ``"last look"``.
        scores, threshold, there: what it said.
        pairs: its highest scores, each with the addresses (:func:`~..markup.picture_source`) of
            what the reference shows and of what was mined.
    """

    name: str
    scores: tuple[float, ...]
    threshold: float
    there: bool
    pairs: tuple[tuple[float, str, str], ...]

    @property
    def score(self) -> float:
        """The highest score."""
        return max(self.scores)


@dataclass(frozen=True)
class Told:
    """A run for its report: plain data and small pictures, whatever the run's own were.

    Attributes:
        verdict: what has come of it, in a word or two.
        figures: rounds, times and notes, see :func:`~..runs.report`.
        losses: name of the stage and round -> loss of each step.
        looks: verifications of this run, in their order.
        concept: addresses of a few of the pool's pictures.
        shown: prompts before and after, each with pairs of addresses from the same noise.
    """

    verdict: str
    figures: dict[str, Any]
    losses: dict[str, list[float]]
    looks: tuple[Look, ...]
    concept: tuple[str, ...]
    shown: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = ()


def told_of(erasure: Erasure, pool: ImagePool, shown: Sequence[Shown] = ()) -> Told:
    """What a run that is over, or out of time, leaves.

    Args:
        shown: pictures before and after, where they were drawn.
    """
    first = erasure.embeddings.round - len(erasure.verdicts) + 1
    named = [(f"round {i}", v) for i, v in enumerate(erasure.verdicts, start=first)]
    named += [(LAST_LOOK, erasure.last)] if erasure.last is not None else []
    more = len(named) - _NEWEST
    looks = tuple(
        _look(name, verdict, _PAIRS if i < _FIRST or i >= more else 0)
        for i, (name, verdict) in enumerate(named)
    )
    return Told(
        erasure.outcome.verdict, report(erasure), dict(erasure.losses), looks,
        tuple(picture_source(image) for image in pool.first(_POOL)),
        tuple((one.prompt, _pairs(one)) for one in shown),
    )  # fmt: skip


def _pairs(shown: Shown) -> tuple[tuple[str, str], ...]:
    both = zip(shown.before, shown.after, strict=True)
    return tuple((picture_source(before), picture_source(after)) for before, after in both)


def _look(name: str, verdict: Verdict, pairs: int) -> Look:
    best = sorted(range(len(verdict.scores)), key=lambda i: -verdict.scores[i])[:pairs]
    shown = tuple(
        (verdict.scores[i], picture_source(verdict.reference[i]), picture_source(verdict.target[i]))
        for i in best
    )
    return Look(name, verdict.scores, verdict.threshold, verdict.verified, shown)


def parsed(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The fields of a LoRA's metadata that are ours, read where they hold JSON."""
    found: dict[str, Any] = {}
    for key, value in metadata.items():
        if key.startswith("darkminer_"):
            found[key.removeprefix("darkminer_")] = _read(value)
    return found


def _read(value: str) -> Any:
    if value[:1] not in ("[", "{"):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def as_json(metadata: Mapping[str, str], told: Told | None, file: str) -> str:
    """The report for a program.

    Args:
        metadata: of the LoRA; told: of the run that made it, where that is known.
        file: name of the LoRA's file.
    """
    about: dict[str, Any] = {"schema": SCHEMA, "file": file, "lora": parsed(metadata)}
    if told is not None:
        about |= {"verdict": told.verdict, "run": told.figures, "losses": told.losses}
    return writable(json.dumps(about, indent=1, ensure_ascii=False)) + "\n"
