"""What is wrong with a plan's rows before anything runs: settings, files, names, disk."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ..darkminer.errors import DarkMinerError, SettingError
from ..darkminer.files.names import checked_prefix
from ..darkminer.method.image_pool import concept_prompt
from ..darkminer.method.text_start import without_concept
from ..darkminer.room import size_text
from ..nodes.attack import detectors
from ..nodes.fields import rule_of, shown
from ..nodes.host.run import SAMPLERS, SCHEDULERS
from .estimate import Cost, cost_of
from .host import Family, family
from .places import check_writable, free_bytes, is_url, stamp
from .reading import Plan
from .row import GALLERY, Row


@dataclass(frozen=True)
class Checked:
    """A row that can be run.

    Attributes:
        row: with all that goes without saying.
        digest: names all that its result depends on.
        cost: what it takes.
    """

    row: Row
    digest: str
    cost: Cost


def check(plan: Plan) -> tuple[list[Checked], list[str]]:
    """All rows that could be run, and a sentence for every fault."""
    faults, kept = list(plan.faults), []
    families = _families(plan, faults)
    for where, row in plan.rows:
        found = families.get(row.checkpoint)
        if found is None:
            continue
        whole = row.whole(found[0].side)
        wrong = list(_wrong(whole))
        faults += [f"{where}: {sentence}" for sentence in wrong]
        if not wrong:
            cost = cost_of(whole, found[0])
            kept.append((where, Checked(whole, whole.digest(found[1]), cost)))
    faults += _names(kept)
    rows = [one for _, one in kept]
    faults += _disk(plan, rows)
    return rows, list(dict.fromkeys(faults))


def _families(plan: Plan, faults: list[str]) -> dict[str, tuple[Family, str]]:
    """Family and contents of every checkpoint; unused ones are looked at as well."""
    found = {}
    for name, place in plan.checkpoints.items():
        try:
            found[name] = family(place), GALLERY if place == GALLERY else stamp(place)
        except DarkMinerError as error:
            faults.append(f"checkpoint {name}: {error}")
    return found


def _wrong(row: Row) -> Iterator[str]:
    """What is wrong with a row, one sentence each."""
    for test in (_settings, _prompts, _name, _encoder, _detector):
        try:
            test(row)
        except SettingError as error:
            yield f"{error.setting} is {shown(error.value)}: it must be {rule_of(error)}."
        except DarkMinerError as error:
            yield str(error)
    if row.bake and row.source == GALLERY:
        yield "bake is on and the gallery is no checkpoint file: turn it off."
    if row.width % 8 or row.height % 8:
        yield f"width and height are {row.width} and {row.height}: make both multiples of 8."


def _settings(row: Row) -> None:
    config = row.config()
    if row.pictures < config.mine.k:
        raise DarkMinerError(
            f"pictures is {row.pictures} and mining needs {config.mine.k}: ask for more."
        )
    for name, value, known in (
        ("sampler", config.sampling.sampler, SAMPLERS),
        ("scheduler", config.sampling.scheduler, SCHEDULERS),
    ):
        if value not in known:
            raise DarkMinerError(
                f"sampling.{name} is {value!r}: it must be one that this ComfyUI has."
            )


def _prompts(row: Row) -> None:
    concept_prompt(row.concept, row.template)
    if row.concept.strip().lower() in row.anchor.lower():
        raise DarkMinerError(
            f"anchor {row.anchor!r} names the concept {row.concept!r}: write what the model shows "
            f"instead, such as {without_concept(row.template)!r}."
        )


def _name(row: Row) -> None:
    checked_prefix(row.name, "name")
    if "/" in row.name:
        raise DarkMinerError(f"name {row.name!r} has a /: write one name.")


def _encoder(row: Row) -> None:
    if row.clip_vision and not Path(row.clip_vision).is_file():
        raise DarkMinerError(f"clip_vision {row.clip_vision} is no file: name one, or none.")
    if row.source != GALLERY and not row.clip_vision:
        _known_open_clip(row.open_clip, row.open_clip_weights)


@cache
def _known_open_clip(name: str, weights: str) -> None:
    import open_clip

    plain = name.removesuffix("-quickgelu").removesuffix("-gelu").replace("/", "-")
    if plain not in open_clip.list_models() and ":" not in name:
        raise DarkMinerError(f"open_clip {name!r} is no architecture that open_clip knows.")
    tags = open_clip.list_pretrained_tags_by_model(name.replace("/", "-"))
    if weights not in tags and not Path(weights).is_file() and ":" not in name:
        raise DarkMinerError(
            f"open_clip_weights {weights!r} is neither a file nor a tag of {name}: name either."
        )


def _detector(row: Row) -> None:
    if row.detector not in detectors.CHOICES:
        raise DarkMinerError(
            f"detector is {row.detector!r}: it must be {' or '.join(detectors.CHOICES)}."
        )
    if not row.attacks:
        return
    if row.detector.startswith("gallery"):
        detectors.detector(detectors.GALLERY, row.concept, None, "", "")
    if row.detector == detectors.NUDITY and importlib.util.find_spec("nudenet") is None:
        raise DarkMinerError("detector is NudeNet, which is not installed: pip install nudenet.")


def _names(rows: Iterable[tuple[str, Checked]]) -> Iterator[str]:
    """Rows that ask for the same, and those whose names are one on some disks."""
    digests: dict[str, str] = {}
    names: dict[str, str] = {}
    for where, one in rows:
        name = one.row.name.casefold()
        if one.digest in digests:
            yield f"{where} asks for the same as {digests[one.digest]} ({name}): leave one out."
        elif name in names:
            yield (
                f"{where} and {names[name]} would both be called {one.row.name!r}: give one of "
                "them a name of its own."
            )
        digests.setdefault(one.digest, where)
        names.setdefault(name, where)


def _disk(plan: Plan, rows: list[Checked]) -> Iterator[str]:
    """Where results cannot be written, or have no room."""
    if is_url(plan.output):
        try:
            check_writable(plan.output)
        except DarkMinerError as error:
            yield f"output {error}"
    if not plan.work or is_url(plan.work):
        return
    folder = Path(plan.work)
    there = next(p for p in (folder, *folder.parents) if p.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        yield f"The folder {folder} cannot be written to: name another one."
        return
    need, free = room_needed(rows), free_bytes(folder)
    if need > free:
        yield (
            f"The plan takes about {size_text(need)} and {size_text(free)} are free in {folder}: "
            "make room, or leave rows out."
        )


def room_needed(rows: Iterable[Checked]) -> int:
    """Bytes of all rows' folders, and of checkpoints that are brought from a URL."""
    rows = list(rows)
    brought = {one.row.source: one.cost.checkpoint for one in rows if is_url(one.row.source)}
    return sum(one.cost.disk for one in rows) + sum(brought.values())
