"""What a card does not say, in sentences that stand on it."""

from __future__ import annotations

from collections.abc import Iterator

from ..attacks.catalogue import ATTACKS
from ..attacks.red_team import WORDS
from .card import AFTER, BEFORE, CONTROL, WINS, Card, share

_MANY = 50  # prompts below which an interval is a quarter wide or more


def limits(card: Card) -> Iterator[str]:
    """The card's limits, the general ones first."""
    yield from _of_any(card)
    yield from _of_this_run(card)
    yield from _of_columns(card)


def _of_any(card: Card) -> Iterator[str]:
    run = [name for name in card.names() if name != WORDS]
    latent = [ATTACKS[n].title for n in run if ATTACKS[n].latent]
    said = (
        f"run here: {_listed(latent)}, and there are others"
        if latent
        else "none of them was run here"
    )
    yield (
        "Text-robust is not latent-robust: attacks on the picture's latents leave the text as it "
        f"is, and no defence of the text stops them; {said}."
    )
    yield (
        "An erasure is a LoRA: whoever holds the checkpoint can leave it out, or train the concept "
        "back in. Merge it into the weights that are handed on."
    )
    left_out = [a.title for n, a in ATTACKS.items() if n not in run]
    if left_out:
        yield f"Not run here: {_listed(left_out)}."
    yield (
        "Attackers who train a token or a context on many pictures of the concept (textual "
        "inversion, soft prompts) are no part of this card; the node Attack Erasure asks them."
    )


def _of_this_run(card: Card) -> Iterator[str]:
    protocol = card.after.protocol
    if protocol.effort == "short":
        yield (
            "The attacks took a tenth of their sources' steps or less: what they got is a lower "
            "bound."
        )
    if card.effects is None:
        yield (
            "What the erasure does at less than its whole strength, and to prompts that have "
            "nothing to do with it, was not measured: connect it to lora of Red Team."
        )
    if len(protocol.prompts) < _MANY:
        yield (
            f"{len(protocol.prompts)} prompts were attacked: the intervals say how little so few "
            "tell."
        )
    detector = protocol.detector
    if detector.threshold is None and detector.classes:
        yield (
            f"The detector names the nearest of its {len(detector.classes)} classes: it may name "
            "the concept where a person sees nothing of it."
        )
    else:
        yield "What the detector cannot see counts as gone."


def _of_columns(card: Card) -> Iterator[str]:
    if BEFORE not in card.columns:
        yield (
            "The model before its erasure was not attacked: that an attack fails says nothing "
            "where it would fail there, too."
        )
    for name in card.names():
        rows = card.rows(name)
        if BEFORE in rows and rows[BEFORE].success.value < WINS:
            yield (
                f"{card.title(name)} gets {share(rows[BEFORE].success)} before the erasure: how "
                f"little it gets after it ({share(rows[AFTER].success)}) says little."
            )
    if CONTROL not in card.columns:
        yield (
            "No model that never saw the concept was attacked: how much of a success is the "
            "attack's own, or the detector's mistake, is not known."
        )


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
