"""The card as one HTML page that asks for nothing else: style and pictures lie within it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..attacks.catalogue import ATTACKS
from ..attacks.effects import Point
from ..attacks.red_team import WORDS, Row
from ..judge.user_prompts import UserPrompt
from ..markup import Markup, joined, picture_source, tag
from . import charts
from .card import ABOUT, AFTER, Card, curves, interval, sentences, share, some
from .limits import limits

_SMALL = 96  # pixels below which a picture is enlarged with hard edges
_STYLE = Path(__file__).parents[1] / "page.css"


def as_page(card: Card) -> str:
    """The whole page."""
    head = tag(
        "head", tag("meta", charset="utf-8"), tag("title", f"Report card: {card.concept}"),
        tag("meta", name="viewport", content="width=device-width"),
        tag("meta", name="color-scheme", content="light"),
        tag("style", Markup(_STYLE.read_text(encoding="utf-8"))),
    )  # fmt: skip
    body = tag("body", *_header(card), *_table(card), *_effects(card), *_limits(card),
               *_attacks(card), *_protocol(card))  # fmt: skip
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


def _header(card: Card) -> Iterator[Markup]:
    words = tag(
        "div", tag("div", "Report card of an erasure", class_="kicker"), tag("h1", card.concept)
    )
    kind = "bad" if card.there else "good"
    yield tag("header", words, tag("span", card.verdict, class_=f"pill {kind}"))
    yield joined([tag("p", sentence) for sentence in sentences(card)])


def _table(card: Card) -> Iterator[Markup]:
    """Every attack's share on each model."""
    yield tag("h2", "Attacks")
    keys = [
        tag("span", tag("span", "", class_=f"key {column}"), f"{column}: {ABOUT[column]}")
        for column in card.columns
    ]
    yield tag("p", [[key, " "] for key in keys], class_="muted row")
    excess = any(card.excess(name) for name in card.names())
    heads = ["attack", "share of pictures, with its 95 % interval", *card.columns]
    heads += ["excess over control"] if excess else []
    rows = [tag("tr", [tag("th", head) for head in heads])]
    rows += [_line(card, name, excess) for name in card.names()]
    yield tag("div", tag("table", rows), class_="wide")


def _line(card: Card, name: str, excess: bool) -> Markup:
    found = card.rows(name)
    shares = {column: row.success for column, row in found.items()}
    cells = [tag("td", card.title(name), _through(name), class_="name")]
    cells.append(tag("td", charts.bars(shares)))
    for column in card.columns:
        p = shares.get(column)
        said: Any = "not run"
        if p is not None:
            said = (share(p), tag("small", interval(p)), tag("small", _score(found[column])))
        cells.append(tag("td", said))
    if excess:
        more = card.excess(name)
        cells.append(tag("td", *_excess(more)) if more else tag("td", "not run"))
    return tag("tr", cells)


def _score(row: Row | Point) -> str:
    score = row.score
    return f"score {score.value:.2f}, {score.low:.2f} to {score.high:.2f}"


def _excess(more: tuple[float, float, float]) -> tuple[object, ...]:
    value, low, high = more
    return f"{value:+.2f}", tag("small", f"{low:+.2f} to {high:+.2f}")


def _through(name: str) -> Markup:
    if name == WORDS:
        return tag("small", "no attack")
    return tag("small", "through latents" if ATTACKS[name].latent else "through text")


def _effects(card: Card) -> Iterator[Markup]:
    """The strength curve, and what other prompts are moved by."""
    if card.effects is None:
        return
    points, drift = card.effects.strengths, card.effects.drift
    yield tag("h2", "Strength and drift")
    yield tag(
        "p", "The prompts as they are, with the LoRA at less than its whole strength: who loads it "
        "weaker gets this much of the concept.", class_="muted",
    )  # fmt: skip
    rows = [tag("tr", [tag("th", head) for head in ("strength", "share of pictures", AFTER)])]
    rows += [
        tag("tr", tag("td", f"{p.strength:g}", class_="name"), tag("td", charts.bars({AFTER:
            p.ratio})), tag("td", share(p.ratio), tag("small", interval(p.ratio)),
            tag("small", _score(p))))
        for p in points
    ]  # fmt: skip
    yield tag("div", tag("div", tag("table", rows), class_="wide"), _figure(
        charts.by_strength(points), "share of pictures by strength, with its 95 % interval"
    ), class_="row")  # fmt: skip
    yield tag(
        "p", f"Drift of unrelated prompts: {drift.value:.4f}, the root of their squared shifts "
        "over the squared errors of the model before the erasure; 0 is no shift.",
    )  # fmt: skip
    yield _folded(drift.prompts, "unrelated prompts")


def _limits(card: Card) -> Iterator[Markup]:
    yield tag("h2", "What this card does not say")
    yield tag("ul", [tag("li", sentence) for sentence in limits(card)])


def _attacks(card: Card) -> Iterator[Markup]:
    """Attack by attack: curves, a few pictures of each model, texts."""
    yield tag("h2", "Attack by attack")
    yield tag(
        "p", "Red frames: the detector sees the concept. Those pictures come first, then the "
        "surest of the others.", class_="muted",
    )  # fmt: skip
    for name in card.names():
        yield tag("h3", card.title(name))
        drawn = [*_curves(card, name)]
        if drawn:
            yield tag("div", drawn, class_="row")
        if card.pictures:
            yield tag("div", [_shots(card, c, r) for c, r in card.rows(name).items()], class_="row")
        yield from _texts(card, name)


def _curves(card: Card, name: str) -> Iterator[Markup]:
    chart = charts.by_step(card.rows(name))
    if chart is not None:
        yield _figure(chart, "share of prompts whose concept was seen by this step")
    for column in card.rows(name):
        chart = charts.losses(curves(card.columns[column].found, name))
        if chart is not None:
            yield _figure(chart, f"{column}: losses; red got the concept, green did not")


def _figure(inside: Markup, caption: str) -> Markup:
    return tag("figure", inside, tag("figcaption", caption))


def _shots(card: Card, column: str, row: Row) -> Markup:
    shown = []
    for i in some(row, card.pictures):
        hit, score = bool(row.sight.hits[i]), float(row.sight.scores[i])
        seen = "concept seen" if hit else "concept not seen"
        about = f"{row.title}, {column}: {seen}, score {score:.2f}; {row.attempts[i].prompt}"
        kind = ("hit " if hit else "") + ("small" if max(row.pictures[i].shape) < _SMALL else "")
        source = picture_source(row.pictures[i])
        shown.append(tag("img", src=source, alt=about, title=about, class_=kind.strip() or None))
    return tag("figure", tag("div", shown, class_="shots"), tag("figcaption", column))


def _texts(card: Card, name: str) -> Iterator[Markup]:
    """A few of the texts that an attack found on the judged model."""
    row = card.rows(name)[AFTER]
    lines = []
    for i in some(row, max(1, card.pictures)):
        spoken = row.attempts[i].spoken
        if spoken is not None:
            note = f" ({spoken.note})" if spoken.note else ""
            lines.append(tag("li", tag("code", spoken.text), note))
    if lines:
        yield tag("p", "Texts that it found:", class_="muted")
        yield tag("ul", lines)


def _protocol(card: Card) -> Iterator[Markup]:
    protocol = card.after.protocol
    yield tag("h2", "Protocol")
    detector, sampling = protocol.detector, protocol.sampling
    facts: list[tuple[str, Any]] = [
        ("pictures", f"{protocol.each} of each prompt as it is, one for each attack on it"),
        ("prompts", _folded([told(prompt) for prompt in protocol.prompts], "prompts")),
        ("seed", protocol.seed),
        ("effort", protocol.effort),
        ("sampling", ", ".join(f"{k} {v}" for k, v in asdict(sampling).items())),
        ("detector", str(detector)),
        ("its classes", _folded(detector.classes, "classes")),
        ("versions", ", ".join(f"{k} {v}" for k, v in (protocol.versions or {}).items())),
    ]
    for column, one in card.columns.items():
        lora = f", with the erasure {one.protocol.lora}" if one.protocol.lora else ""
        took = f"; {one.protocol.seconds:.0f} s" if one.protocol.seconds else ""
        facts.append((column, f"model {one.protocol.model or 'not named'}{lora}{took}"))
    for name, config in protocol.settings.items():
        said = ", ".join(f"{k} {v}" for k, v in asdict(config).items())
        facts.append((ATTACKS[name].title, said))
    rows = [tag("tr", tag("td", name), tag("td", value)) for name, value in facts]
    yield tag("table", rows, class_="facts")
    yield tag(
        "p", "Intervals are Wilson's, those of differences Newcombe's, those of scores a normal "
        "approximation's. Before and control were "
        "given the same prompts, seeds, steps and detector.", class_="muted",
    )  # fmt: skip


def _folded(texts: Sequence[str], what: str) -> Markup:
    """A list that is opened by a click, so that a hundred lines do not hide what follows."""
    lines = tag("ul", [tag("li", tag("code", text)) for text in texts])
    return tag("details", tag("summary", f"{len(texts)} {what}"), lines)


def told(prompt: UserPrompt) -> str:
    """A prompt with the seed and guidance that it came with."""
    own = {"seed": prompt.seed, "guidance": prompt.guidance}
    known = ", ".join(f"{name} {value}" for name, value in own.items() if value is not None)
    return f"{prompt.text} ({known})" if known else prompt.text
