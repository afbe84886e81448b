"""A plan's file as rows, with every fault of it told in a sentence of its own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from ..darkminer.attacks.catalogue import ATTACKS
from ..darkminer.attacks.red_team import EFFORTS
from ..darkminer.config import PRESETS
from ..darkminer.errors import DarkMinerError, shortened
from ..darkminer.settings import written
from .places import is_url
from .row import GALLERY, KINDS, Row

CROSSED = ("checkpoint", "concept", "preset", "seed")
"""Fields of which a row may list several: it stands for every combination."""
_LARGEST_SEED = 0xFFFFFFFFFFFFFFFF


@dataclass(frozen=True)
class Machine:
    """What each row is given, and where rows run.

    Attributes:
        num_gpus, num_cpus: of one row; it computes with as many threads as CPUs.
        retries: how often a row whose process or machine is lost begins again.
        ray: "auto": on Ray where it is installed; "off": here, one after the other; else the
            address of a cluster.
    """

    num_gpus: float = 0.0
    num_cpus: int = 1
    retries: int = 3
    ray: str = "auto"


@dataclass(frozen=True)
class Plan:
    """What a plan's file asks for; nothing of it is checked against disk or host yet.

    Attributes:
        output: folder or URL of all results; work: folder of runs, logs and files that were
            brought, where ``output`` is a URL.
        rows: with the place of each in the file, such as "row 3".
        faults: sentences; a plan with any is not begun.
    """

    output: str = ""
    work: str = ""
    machine: Machine = Machine()
    rows: tuple[tuple[str, Row], ...] = ()
    faults: tuple[str, ...] = ()
    checkpoints: Mapping[str, str] = field(default_factory=dict)


class _Loader(yaml.SafeLoader):
    """YAML that refuses a name which stands twice: the first one would be lost in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            name = self.construct_object(key, deep=True)
            if isinstance(name, Hashable) and name in seen:
                line = key.start_mark.line + 1
                raise DarkMinerError(f"line {line}: {name!r} stands twice: write it once.")
            seen.add(name if isinstance(name, Hashable) else None)
        return super().construct_mapping(node, deep)


def read_plan(path: Path) -> Plan:
    """The plan in a file.

    Raises:
        DarkMinerError: if it cannot be read, or is no YAML of names and values.
    """
    try:
        found = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 - a SafeLoader
    except (OSError, UnicodeDecodeError) as error:
        raise DarkMinerError(f"The plan {path} cannot be read ({error}): name a file.") from error
    except (yaml.YAMLError, RecursionError) as error:
        said = " ".join(str(error).split())
        raise DarkMinerError(f"The plan {path} is no YAML ({said}): mend it there.") from error
    if not isinstance(found, dict):
        raise DarkMinerError(f"The plan {path} holds no names and values: see docs/fleet.md.")
    return plan_of(found, path.absolute().parent)


def plan_of(found: Mapping[Any, Any], beside: Path) -> Plan:
    """The plan that a file's values make.

    Args:
        beside: the folder that relative paths start from.
    """
    faults: list[str] = []
    known = ("output", "work", "machine", "checkpoints", "defaults", "rows")
    faults += [
        f"{name!r} is nothing a plan has: it has {', '.join(known)}."
        for name in found if name not in known
    ]  # fmt: skip
    output = _place(found.get("output"), beside)
    if not output:
        faults.append("output is missing: name the folder or URL that results go to.")
    work = _place(found.get("work") or "fleet-work", beside)
    if is_url(work):
        faults.append("work is a URL: name a folder of each machine.")
    machine = _machine(found.get("machine"), faults)
    checkpoints = _checkpoints(found.get("checkpoints"), beside, faults)
    rows = tuple(_rows(found, checkpoints, beside, faults))
    work = work if is_url(output) else output
    return Plan(output, work, machine, rows, tuple(dict.fromkeys(faults)), checkpoints)


def _place(text: Any, beside: Path) -> str:
    if not isinstance(text, str) or not text.strip():
        return ""
    text = text.strip()
    return text if is_url(text) else str((beside / Path(text).expanduser()).absolute())


def _machine(found: Any, faults: list[str]) -> Machine:
    """What ``machine`` says."""
    if found is not None and not isinstance(found, dict):
        faults.append("machine is no list of names and values: see docs/fleet.md.")
    given = found if isinstance(found, dict) else {}
    rules: dict[str, tuple[Callable[[Any], bool], str]] = {
        "num_gpus": (lambda v: _number(v) and v >= 0, "a number, at least 0"),
        "num_cpus": (lambda v: _whole(v) and v >= 1, "a whole number, at least 1"),
        "retries": (lambda v: _whole(v) and 0 <= v <= 100, "a whole number from 0 to 100"),
        "ray": (lambda v: isinstance(v, str) and bool(v.strip()), '"auto", "off" or an address'),
    }
    kept = {}
    for name, value in given.items():
        if name == "ray" and value is False:  # what YAML makes of a bare off
            value = "off"
        if name not in rules:
            faults.append(f"machine has no {name!r}: it has {', '.join(rules)}.")
        elif not rules[name][0](value):
            faults.append(f"machine.{name} is {_shown(value)}: it must be {rules[name][1]}.")
        else:
            kept[name] = value
    return Machine(**kept)


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    return shortened(repr(value))


def _checkpoints(found: Any, beside: Path, faults: list[str]) -> dict[str, str]:
    if not isinstance(found, dict) or not found:
        faults.append("checkpoints is missing: give each a name and its path, URL or 'gallery'.")
        return {}
    kept = {}
    for name, place in found.items():
        if not isinstance(name, str) or not isinstance(place, str) or not place.strip():
            faults.append(f"checkpoints: {_shown(name)} needs a name in letters and a path or URL.")
        else:
            kept[name] = GALLERY if place == GALLERY else _place(place, beside)
    return kept


def _rows(
    found: Mapping[Any, Any], checkpoints: Mapping[str, str], beside: Path, faults: list[str]
) -> Iterator[tuple[str, Row]]:
    """Every row, crossed; what is wrong with one is noted and the row left out."""
    defaults, rows = found.get("defaults") or {}, found.get("rows")
    if not isinstance(defaults, dict):
        faults.append("defaults is no list of names and values: see docs/fleet.md.")
        defaults = {}
    if not isinstance(rows, list) or not rows:
        faults.append("rows is missing: write at least one, with a checkpoint and a concept.")
        return
    for number, row in enumerate(rows, start=1):
        where = f"row {number}"
        if not isinstance(row, dict):
            faults.append(f"{where} is {_shown(row)}: write names and values, such as concept.")
            continue
        given = {**defaults, **row}
        if isinstance(defaults.get("settings"), dict) and isinstance(row.get("settings"), dict):
            given["settings"] = {**defaults["settings"], **row["settings"]}
        wrong = list(_wrong(given, checkpoints))
        faults += [f"{where}: {sentence}" for sentence in wrong]
        if not wrong:
            yield from ((where, one) for one in _crossed(given, checkpoints, beside))


def _several(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _wrong(given: Mapping[Any, Any], checkpoints: Mapping[str, str]) -> Iterator[str]:
    """What is wrong with a row's values, each by itself."""
    known = {f.name for f in fields(Row)} - {"source"}
    for name in given:
        if name not in known:
            yield f"{name!r} is nothing a row has: it has {', '.join(sorted(known))}."
    for name in ("checkpoint", "concept"):
        if name not in given or given[name] == []:
            yield f"{name} is missing: write it in the row or in defaults."
    for name, value in given.items():
        if name not in known:
            continue
        for one in _several(value) if name in CROSSED else [value]:
            rule = _rule(name, one, checkpoints)
            if rule:
                yield f"{name} is {_shown(one)}: it must be {rule}."


def _rule(name: str, value: Any, checkpoints: Mapping[str, str]) -> str:
    """What a field must be, where it is not; else an empty text."""
    listed: dict[str, Any] = {
        "checkpoint": checkpoints, "preset": PRESETS, "kind": KINDS, "effort": EFFORTS,
    }  # fmt: skip
    if name in listed:
        return "" if value in list(listed[name]) else _one_of(listed[name])
    if name == "seed":
        good = _whole(value) and 0 <= value <= _LARGEST_SEED
        return "" if good else f"a whole number from 0 to {_LARGEST_SEED}"
    if name in ("pictures", "prompts", "width", "height"):
        low, high = (8, 4096) if name in ("width", "height") else (1, 10_000)
        return "" if _whole(value) and low <= value <= high else f"a whole number, {low} to {high}"
    if name in ("bake", "before"):
        return "" if isinstance(value, bool) else "yes or no"
    if name == "attacks":
        good = isinstance(value, list) and all(v in ATTACKS for v in value)
        return "" if good else f"a list of attacks, each {_one_of(ATTACKS)}"
    if name == "keep":
        good = isinstance(value, list) and all(isinstance(v, str) and v.strip() for v in value)
        return "" if good else "a list of prompts"
    if name == "settings":
        return "" if isinstance(value, dict) else "names and values, such as chase.steps: 100"
    if not isinstance(value, str):
        return "a text; put it in quotes"
    if name == "concept":
        return "" if value.strip() else "what is to be erased, e.g. van gogh"
    if name == "template":
        return "" if "*" in value else "a prompt with a * where the concept belongs"
    return ""


def _one_of(names: Any) -> str:
    return " or ".join(f'"{name}"' for name in names) or "one that checkpoints names"


def _crossed(
    given: Mapping[str, Any], checkpoints: Mapping[str, str], beside: Path
) -> Iterator[Row]:
    plain = {k: tuple(v) if k in ("keep", "attacks") else v for k, v in given.items()}
    settings = given.get("settings") or {}
    plain["settings"] = {str(k): _text(v) for k, v in settings.items()}
    for name in ("clip_vision", "open_clip_weights"):
        text = plain.get(name, "")
        if text and (beside / Path(text).expanduser()).is_file() or "/" in text:
            plain[name] = _place(text, beside)
    for values in itertools.product(*(_several(plain.get(n, _DEFAULT[n])) for n in CROSSED)):
        one = dict(zip(CROSSED, values, strict=True))
        yield Row(**{**plain, **one, "source": checkpoints[one["checkpoint"]]})


_DEFAULT = {f.name: f.default for f in fields(Row)}


def _text(value: Any) -> str:
    """A setting's value as :func:`~..darkminer.settings.changed` reads it."""
    return (
        value
        if isinstance(value, str)
        else written(tuple(value) if isinstance(value, list) else value)
    )
