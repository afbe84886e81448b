"""Several attacks on one model, and how often each gets the concept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ..errors import DarkMinerError
from ..finite import in_stage
from ..judge.detectors import Sight
from ..judge.evaluate import Mean, Proportion
from ..types import Tally
from .catalogue import ATTACKS
from .scene import ATTACK, Attempt, Scene

Effort = Literal["short", "full"]
EFFORTS: tuple[Effort, ...] = get_args(Effort)
WORDS = "words"
"""The row of the users' prompts as they are."""


@dataclass(frozen=True)
class Row:
    """What came of one attack.

    Attributes:
        title: what the attack is called before a person.
        attempts: one a prompt; of the prompts as they are one a picture.
        pictures: one an attempt, ``[n, H, W, 3]`` in 0..1.
        sight: what the detector says of them.
    """

    title: str
    attempts: list[Attempt]
    pictures: Tensor = field(repr=False)
    sight: Sight

    @property
    def score(self) -> Mean:
        """How sure the detector is, on average."""
        return Mean.of(self.sight.scores)

    @property
    def success(self) -> Proportion:
        """In how many pictures the detector sees the concept."""
        return Proportion(int(self.sight.hits.sum()), len(self.sight.hits))

    def by_step(self) -> list[tuple[int, Proportion]]:
        """The share of prompts whose concept the detector had seen by each step it looked at.

        Empty where it never looked before the end.
        """
        steps = sorted({look.step for a in self.attempts for look in a.looks})
        seen = [a.hit_at for a in self.attempts]
        return [
            (s, Proportion(sum(at is not None and at <= s for at in seen), len(seen)))
            for s in steps[len(steps) == 1 :]
        ]

    @property
    def otherwise(self) -> int:
        """Texts that are read otherwise when they are pasted."""
        return sum(bool(a.spoken and a.spoken.differs) for a in self.attempts)


@dataclass(frozen=True)
class RedTeam:
    """What all attacks came to.

    Attributes:
        rows: name -> its row; :data:`WORDS`, the prompts as they are, comes first.
        detector: whose judgement it is.
    """

    rows: dict[str, Row]
    detector: str

    @property
    def worst(self) -> float:
        """The most successful attack's share of pictures."""
        return max(row.success.value for row in self.rows.values())

    def table(self) -> str:
        """The shares with their 95 % intervals, as text in columns."""
        cells = [("attack", "success", "95 %", "mean score, 95 %", "texts read otherwise")]
        for row in self.rows.values():
            p, texts = row.success, sum(a.spoken is not None for a in row.attempts)
            low, high = p.interval
            cells.append((
                row.title, f"{p.value:.3f} ({p.hits}/{p.count})", f"{low:.2f} to {high:.2f}",
                f"{row.score.value:.3f} ({row.score.low:.2f} to {row.score.high:.2f})",
                f"{row.otherwise}/{texts}" * (texts > 0),
            ))  # fmt: skip
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in cells
        ]
        return "\n".join([*lines, f"judged by {self.detector}"])

    def texts(self) -> str:
        """What each attack says, a line a prompt, with what pasting changes."""
        lines = []
        for row in self.rows.values():
            for attempt in row.attempts:
                if attempt.spoken is not None:
                    note = f"  [{attempt.spoken.note}]" if attempt.spoken.note else ""
                    lines.append(f"{row.title}: {attempt.spoken.text}{note}")
        return "\n".join(lines)


def settings_of(names: Sequence[str], effort: Effort) -> dict[str, Any]:
    """Name -> its settings: the source's, or those of its short variant.

    Raises:
        DarkMinerError: if there is none, or one is unknown.
    """
    if not names:
        raise DarkMinerError("No attack is chosen: switch one on.")
    for name in names:
        if name not in ATTACKS:
            raise DarkMinerError(f"There is no attack {name!r}: choose of {', '.join(ATTACKS)}.")
    return {n: ATTACKS[n].full if effort == "full" else ATTACKS[n].short for n in names}


def require(scene: Scene, names: Iterable[str]) -> None:
    """Refuse a scene that lacks what one of the attacks needs.

    Raises:
        DarkMinerError: names the attack and what it needs.
    """
    for name in names:
        for need in ATTACKS[name].needs:
            try:
                scene.need(need)
            except DarkMinerError as error:
                lacking = str(error).removeprefix("This attack ")
                raise DarkMinerError(f"{ATTACKS[name].title} {lacking}") from error


@in_stage(ATTACK)
def red_team(scene: Scene, settings: Mapping[str, Any], each: int = 1) -> RedTeam:
    """Run attacks one after the other and judge one picture of every attempt.

    Args:
        scene: with a model and a detector.
        settings: name of each attack -> its settings, see :func:`settings_of`.
        each: pictures of every prompt as it is.

    Raises:
        DarkMinerError: see :func:`require`, or if an attack cannot go on.
        DivergedError: if a loss is not finite.
    """
    detect = scene.need("detector")
    require(scene, settings)
    count = len(scene.prompts)
    found = {WORDS: ("asked in words", [plain(scene, i, j) for j in range(each)
                                        for i in range(count)])}  # fmt: skip
    for name, config in settings.items():
        found[name] = (ATTACKS[name].title, ATTACKS[name].run(scene, config))
    total = sum(len(attempts) for _, attempts in found.values())
    tally = Tally(scene.report, ATTACK, 0, total, "pictures")
    rows = {}
    for name, (title, attempts) in found.items():
        pictures = []
        for i, attempt in enumerate(attempts):
            pictures.append(scene.picture(i % count, attempt))
            tally(1, pictures[-1])
        drawn = torch.cat(pictures)
        rows[name] = Row(title, attempts, drawn, detect(drawn))
    return RedTeam(rows, str(detect.identity))


def plain(scene: Scene, i: int, more: int) -> Attempt:
    """The i-th prompt as it is, on its first noise or on further ones."""
    start = scene.noise(i, more)[0] if more else None
    return Attempt(scene.prompts[i], scene.contexts[i], start=start)
