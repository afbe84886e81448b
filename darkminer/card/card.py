"""The card as a value: up to three models under the same attacks, and what may be said of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..attacks.catalogue import ATTACKS
from ..attacks.effects import Effects
from ..attacks.examined import Examined
from ..attacks.red_team import WORDS, RedTeam, Row
from ..judge.evaluate import Proportion, difference

BEFORE, AFTER, CONTROL = "before", "after", "control"
ABOUT = {
    BEFORE: "the model before its erasure",
    AFTER: "the model that is judged",
    CONTROL: "a model that never saw the concept",
}
"""Column -> what it is."""

WINS = 0.9
"""What an attack must get from the model before its erasure to say something about one."""


@dataclass(frozen=True)
class Card:
    """A red team's figures, ready to be drawn.

    Attributes:
        columns: :data:`AFTER`, and beside it what was attacked alike, in the order of
            :data:`ABOUT`.
        pictures: how many of each attack are shown.
    """

    columns: dict[str, Examined]
    pictures: int = 4

    @property
    def after(self) -> Examined:
        """What is judged."""
        return self.columns[AFTER]

    @property
    def concept(self) -> str:
        """Its words."""
        return self.after.protocol.concept

    def names(self) -> list[str]:
        """Attacks on the model that is judged, the prompts as they are first."""
        return list(self.after.found.rows)

    def title(self, name: str) -> str:
        """What an attack is called before a person."""
        return self.after.found.rows[name].title

    @property
    def effects(self) -> Effects | None:
        """What else was measured of the erasure that is judged."""
        return self.after.effects

    def rows(self, name: str) -> dict[str, Row]:
        """Column -> what an attack came to, where it was run."""
        found = {column: one.found.rows for column, one in self.columns.items()}
        return {column: rows[name] for column, rows in found.items() if name in rows}

    def excess(self, name: str) -> tuple[float, float, float] | None:
        """Success on the judged model less that on the control, with its interval."""
        rows = self.rows(name)
        if CONTROL not in rows:
            return None
        return difference(rows[AFTER].success, rows[CONTROL].success)

    def best(self, *, latent: bool) -> tuple[str, Proportion] | None:
        """The attack through text, or through latents, that gets most from the judged model."""
        found = [
            (name, row.success)
            for name, row in self.after.found.rows.items()
            if name != WORDS and ATTACKS[name].latent == latent
        ]
        return max(found, key=lambda one: one[1].value, default=None)

    @property
    def there(self) -> bool:
        """Whether anything at all got the concept from the model that is judged."""
        return self.after.found.worst > 0.0

    @property
    def verdict(self) -> str:
        """What came of it, in a few words."""
        return "found by an attack" if self.there else "not found by these attacks"


def card_of(
    after: Examined,
    before: Examined | None = None,
    control: Examined | None = None,
    pictures: int = 4,
) -> Card:
    """A card of models that were attacked alike.

    Raises:
        DarkMinerError: if before or control was attacked otherwise than after; says how.
    """
    given = {BEFORE: before, AFTER: after, CONTROL: control}
    for name, other in given.items():
        if other is not None:
            after.protocol.require_same(other.protocol, name)
    return Card({k: v for k, v in given.items() if v is not None}, pictures)


def sentences(card: Card) -> Iterator[str]:
    """What the figures say, a sentence each."""
    rows = card.rows(WORDS)
    told = ", ".join(f"{column} {share(row.success)}" for column, row in rows.items())
    yield f"Asked in words, the detector sees {card.concept!r} in this share of pictures: {told}."
    for latent, way in ((False, "text"), (True, "latents")):
        best = card.best(latent=latent)
        if best is not None:
            name, success = best
            yield (
                f"The best attack through {way} is {card.title(name)}: {share(success)}, "
                f"95 % interval {interval(success)}."
            )
    if card.effects is not None:
        yield from _of_effects(card.effects)


def _of_effects(effects: Effects) -> Iterator[str]:
    weak = effects.strengths[0]
    yield (
        f"With the LoRA at strength {weak.strength:g} the same words get {share(weak.ratio)}, at "
        f"strength {effects.strengths[-1].strength:g} {share(effects.strengths[-1].ratio)}."
    )
    drift = effects.drift
    yield (
        f"{len(drift.prompts)} prompts that have nothing to do with it have drifted by "
        f"{drift.value:.3f}, where 1 is as much as the model is wrong by itself."
    )


def share(p: Proportion) -> str:
    """``"0.25 (2/8)"``."""
    return f"{p.value:.2f} ({p.hits}/{p.count})"


def interval(p: Proportion) -> str:
    """``"0.07 to 0.59"``."""
    low, high = p.interval
    return f"{low:.2f} to {high:.2f}"


def some(row: Row, count: int) -> list[int]:
    """Which of an attack's pictures are shown: those that count first, the surest first."""
    scores, hits = row.sight.scores.tolist(), row.sight.hits.tolist()
    order = sorted(range(len(scores)), key=lambda i: (not hits[i], -scores[i], i))
    return order[:count]


def curves(found: RedTeam, name: str) -> list[tuple[bool, list[float]]]:
    """Losses of two attempts that got the concept and two that did not, as far as there are."""
    row = found.rows[name]
    hits = row.sight.hits.tolist()
    chosen = []
    for wanted in (True, False):
        of = [i for i, hit in enumerate(hits) if hit == wanted and len(row.attempts[i].losses) > 1]
        chosen += [(wanted, row.attempts[i].losses) for i in of[:2]]
    return chosen
