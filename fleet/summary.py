"""The summary page: every row of a plan, what fails first on top."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..darkminer import markup
from ..darkminer.attacks.catalogue import ATTACKS
from ..darkminer.markup import Markup, tag
from ..darkminer.progress.words import duration
from .checks import Checked

PAGE = "index.html"
_STYLE = Path(markup.__file__).with_name("page.css")
_FILES = {"lora": "LoRA", "report": "report", "card": "report card", "checkpoint": "checkpoint"}
_PILLS = {"failed": "bad", "still there": "bad", "gone": "good"}


def as_page(rows: Sequence[Checked], results: Mapping[str, Mapping[str, Any]]) -> str:
    """The whole page; it asks for nothing else.

    Args:
        results: by the rows' digests.
    """
    head = tag(
        "head", tag("meta", charset="utf-8"), tag("title", "Erasures"),
        tag("meta", name="viewport", content="width=device-width"),
        tag("meta", name="color-scheme", content="light"),
        tag("style", Markup(_STYLE.read_text(encoding="utf-8"))),
    )  # fmt: skip
    body = tag("body", *_header(rows, results), _table(rows, results))
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


def order(one: Checked, result: Mapping[str, Any] | None) -> tuple[Any, ...]:
    """Failed rows, then those whose concept is still there, then by the best attack's share and the
    score, the worst first; at last what has not run."""
    if result is None:
        return 3, 0.0, 0.0, one.row.name
    if result["status"] != "done":
        return 0, 0.0, 0.0, one.row.name
    gone = result["verdict"] == "gone"
    score = result.get("score")
    return 1 + gone, -result.get("worst", 0.0), -(score if score is not None else 0), one.row.name


def _header(rows: Sequence[Checked], results: Mapping[str, Any]) -> Iterator[Markup]:
    words = tag("div", tag("div", "Erasures", class_="kicker"), tag("h1", _counts(rows, results)))
    yield tag("header", words)
    spent = sum(r.get("seconds", 0) for r in results.values())
    yield tag("p", f"{duration(spent)} of work. What fails stands first.", class_="muted")


def _counts(rows: Sequence[Checked], results: Mapping[str, Any]) -> str:
    states = [_state(results.get(one.digest)) for one in rows]
    known = ", ".join(f"{states.count(s)} {s}" for s in dict.fromkeys(sorted(states)))
    return f"{len(rows)} rows: {known}"


def _state(result: Mapping[str, Any] | None) -> str:
    if result is None:
        return "not run yet"
    return result["verdict"] if result["status"] == "done" else "failed"


def _table(rows: Iterable[Checked], results: Mapping[str, Mapping[str, Any]]) -> Markup:
    heads = ("row", "what came of it", "score", "attacks", "took", "files")
    lines = [tag("tr", [tag("th", head) for head in heads])]
    for one in sorted(rows, key=lambda one: order(one, results.get(one.digest))):
        lines.append(_line(one, results.get(one.digest)))
    return tag("div", tag("table", lines), class_="wide")


def _line(one: Checked, result: Mapping[str, Any] | None) -> Markup:
    row, state = one.row, _state(result)
    told = result or {}
    pill = tag("span", state, class_=f"pill {_PILLS.get(state, 'neither')}")
    said = tag("small", told.get("why") or told.get("words", ""))
    score = told.get("score")
    cells = [
        tag("td", row.name, tag("small", f"{row.concept}, from {row.checkpoint}"), class_="name"),
        tag("td", pill, said),
        tag("td", "" if score is None else f"{score:.2f}"),
        tag("td", [tag("small", text) for text in _attacks(told)]),
        tag("td", duration(told["seconds"]) if "seconds" in told else "",
            tag("small", f"begun {told['attempts']} times" if told.get("attempts", 1) > 1 else "")),
        tag("td", [[_link(told, kind), " "] for kind in _FILES if kind in told.get("files", {})]),
    ]  # fmt: skip
    return tag("tr", cells)


def _attacks(result: Mapping[str, Any]) -> Iterator[str]:
    for name, found in result.get("attacks", {}).items():
        title = ATTACKS[name].title if name in ATTACKS else "asked in words"
        yield f"{title} {found['share']:.2f} ({found['hits']}/{found['count']})"


def _link(result: Mapping[str, Any], kind: str) -> Markup:
    return tag("a", _FILES[kind], href=f"{result['folder']}/{result['files'][kind]}")
