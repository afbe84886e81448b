"""The report as one HTML page that asks for nothing else: style and pictures lie within it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..markup import Markup, tag
from ..progress.words import duration, fallen
from . import charts
from .told import Look, Told, parsed

_STYLES = Path(__file__).parents[1] / "page.css", Path(__file__).with_name("report.css")
_PILLS = {"still there": "bad", "gone": "good"}


def as_page(
    metadata: Mapping[str, str], told: Told | None, file: str, picture: str | None = None
) -> str:
    """The whole page.

    Args:
        metadata, told, file: as of :func:`~.told.as_json`.
        picture: the address of one that was saved beside the file.
    """
    about = parsed(metadata)
    concept = about.get("concept") or "the concept"
    head = tag(
        "head", tag("meta", charset="utf-8"), tag("title", f"Erasure of {concept}"),
        tag("meta", name="viewport", content="width=device-width"),
        tag("meta", name="color-scheme", content="light"),
        *(tag("style", Markup(path.read_text(encoding="utf-8"))) for path in _STYLES),
    )  # fmt: skip
    body = tag(
        "body", *_header(concept, about, told), *_shown(told), *_rounds(told), *_curves(told),
        *_pictures(told, picture), *_use(file, metadata, about), *_kept(about, told),
        *_settings(about),
    )  # fmt: skip
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


def _header(concept: str, about: Mapping[str, Any], told: Told | None) -> Iterator[Markup]:
    words = tag("div", tag("div", "Report of an erasure", class_="kicker"), tag("h1", concept))
    pill = told.verdict if told is not None else ""
    shown = tag("span", pill, class_=f"pill {_PILLS.get(pill, 'neither')}") if pill else ""
    yield tag("header", words, shown)
    if about.get("outcome"):
        yield tag("p", about["outcome"])
    if told is None:
        yield tag(
            "p", "Pictures and curves of the run are not known here: the LoRA was not handed on by "
            "the node that trained it in one piece.", class_="muted",
        )  # fmt: skip
        return
    seconds = told.figures["seconds"]
    spent = ", ".join(f"{name} {duration(took)}" for name, took in seconds.items())
    rounds = f"{len(told.figures['rounds'])} verifications"
    took = f" · {duration(sum(seconds.values()))} in all ({spent})" if seconds else ""
    yield tag("p", f"{rounds}{took}", class_="muted")
    if told.figures["notes"]:
        yield tag("ul", [tag("li", note) for note in told.figures["notes"]])


def _shown(told: Told | None) -> Iterator[Markup]:
    """The concept's prompt and the anchor, before and after."""
    if told is None or not told.shown:
        return
    yield tag("h2", "Before and after")
    yield tag(
        "p", "From the same noise: the model before the erasure (left), and with it (right).",
        class_="muted",
    )  # fmt: skip
    for prompt, pairs in told.shown:
        drawn = [
            tag("div", _image(before, f"before: {prompt}"), _image(after, f"after: {prompt}"),
                class_="pair")
            for before, after in pairs
        ]  # fmt: skip
        yield tag("div", tag("div", tag("h3", prompt), class_="about"), drawn, class_="row look")


def _rounds(told: Told | None) -> Iterator[Markup]:
    """Scores against the threshold, and what was found round by round."""
    if told is None or not told.looks:
        return
    yield tag("h2", "Rounds")
    yield tag(
        "p", "A score says how much of the concept mining still gets out of the model; above the "
        "threshold it is still there.", class_="muted",
    )  # fmt: skip
    yield tag("div", charts.scores(told.looks), class_="wide")
    yield tag(
        "p", "From the same noise: what the reference prompt shows (left), and what mining has "
        "found (right).", class_="muted",
    )  # fmt: skip
    for look in told.looks:
        if look.pairs:
            yield _look(look)


def _look(look: Look) -> Markup:
    said = "still there" if look.there else "not found any more"
    kind = "bad" if look.there else "good"
    words = tag(
        "div", tag("h3", look.name[0].upper() + look.name[1:]), tag("p", said, class_=kind),
        tag("p", f"score {look.score:.2f}, threshold {look.threshold:.2f}", class_="muted"),
        class_="about",
    )  # fmt: skip
    pairs = [
        tag("figure", tag("div", _image(reference, f"{look.name}: the reference prompt"),
                          _image(mined, f"{look.name}: what mining found"), class_="pair"),
            tag("figcaption", f"{score:.2f}"))
        for score, reference, mined in look.pairs
    ]  # fmt: skip
    return tag("div", words, pairs, class_="row look")


def _image(source: str, words: str) -> Markup:
    kind = "small" if source.startswith("data:image/png") else None
    return tag("img", src=source, alt=words, title=words, class_=kind)


def _curves(told: Told | None) -> Iterator[Markup]:
    drawn = [
        tag("figure", charts.losses(name, values), tag("figcaption", tag("b", name), " · ",
                                                       fallen(values)))
        for name, values in (told.losses.items() if told is not None else ())
        if len(values) > 1
    ]  # fmt: skip
    if drawn:
        yield tag("h2", "Losses")
        yield tag("div", drawn, class_="row")


def _pictures(told: Told | None, picture: str | None) -> Iterator[Markup]:
    concept = told.concept if told is not None else ()
    if not concept and picture is None:
        return
    yield tag("h2", "Pictures")
    shown = [
        _image(source, "the concept, by the original model or collected") for source in concept
    ]
    if shown:
        yield tag("p", "What was erased: the pool's pictures of the concept.", class_="muted")
        yield tag("div", shown, class_="pool")
    if picture is not None:
        yield tag("p", "Saved with the file:", class_="muted")
        yield tag("img", src=picture, alt="the picture that was saved with the file", class_="own")


def _use(file: str, metadata: Mapping[str, str], about: Mapping[str, Any]) -> Iterator[Markup]:
    """How to use the file, for a person who was handed it."""
    family = metadata.get("ss_base_model_version") or "not named"
    yield tag("h2", "How to use the file")
    yield tag("ol", [
        tag("li", "Put ", tag("code", file), " among the LoRAs of ComfyUI (", tag(
            "code", "models/loras"), " or ", tag("code", "output/loras"), ") and press R."),
        tag("li", "Load it with ", tag("b", "Load LoRA"), " at strength 1, before or after other "
            "LoRAs. Other interfaces load it as any LoRA."),
        tag("li", "In diffusers: ", tag("code", f'pipe.load_lora_weights("{file}")'), "."),
        tag("li", f"It was made for one model of the family {family}, whose fingerprint is ",
            tag("code", about.get("base_fingerprint") or "not known"), "; on others it was never "
            "looked at."),
        tag("li", "Whoever holds the model can leave the LoRA out: merge it into weights that you "
            "host."),
    ])  # fmt: skip


def _kept(about: Mapping[str, Any], told: Told | None) -> Iterator[Markup]:
    """What the run was told to show instead and to keep."""
    runs = about.get("runs") or []
    drift = told.figures.get("drift") if told is not None else None
    yield tag("h2", "What it was made from")
    for run in runs if isinstance(runs, list) else ():
        rows = [
            ("concept", run.get("concept")), ("shown instead (anchor)", _said(run.get("anchor"))),
            ("negative prompt", _said(run.get("negative")) or "none"),
            ("keep prompts", f"{len(run.get('keep') or ())} connected"),
            ("vocabulary bank", f"{run.get('bank') or 0} prompts"),
            ("words left out", ", ".join(run.get("exclude") or ()) or "none"),
            ("seed", run.get("seed")), ("rounds", run.get("rounds")),
            ("rank, alpha", f"{run.get('rank')}, {run.get('alpha')}"),
            ("node, version", f"{run.get('node')}, {run.get('version')}"),
            ("image pool", _said(run.get("pool"))), ("image encoder", _said(run.get("encoder"))),
            ("sampling", _said(run.get("sampling"))), ("run folder", run.get("run_folder")),
            ("drift of what is kept", _said(drift)),
        ]  # fmt: skip
        lines = [tag("tr", tag("td", k), tag("td", v)) for k, v in rows if v not in (None, "")]
        yield tag("table", lines, class_="facts")


def _said(value: Any) -> str:
    """A field of the metadata in a line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_said(v)}" for key, v in value.items())
    return "" if value is None else str(value)


def _settings(about: Mapping[str, Any]) -> Iterator[Markup]:
    settings = about.get("settings")
    if settings:
        yield tag("h2", "Settings")
        text = json.dumps(settings, indent=1, sort_keys=True, ensure_ascii=False)
        yield tag("details", tag("summary", "All settings of the newest run"), tag("pre", text))
