"""Settings that know their own rules: each field carries its meaning, its range and its kind.

A stage's settings are a frozen dataclass derived from :class:`Settings`, written beside the stage.
What a field may be is said once, where it is declared; errors, the Settings node and the command
lines of the benchmarks read it from there.
"""

from __future__ import annotations

import functools
import json
import math
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from .errors import SettingError

S = TypeVar("S", bound="Settings")
NONE = "none"
"""How a text says an empty list, or no limit."""
UNBOUND = "set"
"""What a rule says of a value that may be anything."""


@dataclass(frozen=True)
class Rule:
    """What a setting means and may be.

    Attributes:
        about: one sentence, with the unit.
        low, high: bounds that are allowed themselves; above: one that is not.
        choices: the values there are, of a word or of each item of a list.
    """

    about: str
    low: float | None = None
    high: float | None = None
    above: float | None = None
    choices: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """What a value must be, in words."""
        if self.choices:
            return " or ".join(f'"{c}"' for c in self.choices)
        if self.high is not None:
            return f"between {self.low:g} and {self.high:g}"
        if self.above is not None:
            return f"above {self.above:g}"
        return f"at least {self.low:g}" if self.low is not None else UNBOUND

    def allows(self, value: Any) -> bool:
        """Whether a single value is within bounds and choices."""
        if self.choices:
            return value in self.choices
        if isinstance(value, (bool, str)) or value is None:
            return True
        return (
            math.isfinite(value)
            and (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
            and (self.above is None or value > self.above)
        )


def setting(
    default: Any,
    about: str,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """A field of a :class:`Settings` dataclass with its :class:`Rule`."""
    rule = Rule(about, low, high, above, choices)
    return field(default=default, metadata={"rule": rule})


def stage(kind: type[Settings], about: str) -> Any:
    """A field that holds the settings of a stage."""
    return field(default_factory=kind, metadata={"stage": about})


@dataclass(frozen=True)
class Settings:
    """Checks every field when made.

    Raises:
        SettingError: names the dataclass and the field, and says what it must be.

    A whole number becomes a float where the field is one, and a list, as JSON has it, a tuple.
    """

    def __post_init__(self) -> None:
        kind = type(self)
        hints = _hints(kind)
        for name, rule in rules(kind).items():
            value = getattr(self, name)
            try:
                fitted = _fitted(hints[name], value)
            except (TypeError, OverflowError):
                raise SettingError(f"{kind.__name__}.{name}", value, asked(kind, name)) from None
            items = fitted if isinstance(fitted, tuple) else (fitted,)
            if not all(rule.allows(item) for item in items):
                raise SettingError(f"{kind.__name__}.{name}", value, _said(rule, value))
            object.__setattr__(self, name, fitted)
        for name in stages(kind):
            wanted = hints[name]
            self.require(type(getattr(self, name)) is wanted, name, f"a {wanted.__name__}")

    def require(self, ok: bool, name: str, rule: str) -> None:
        """Refuse a field that does not go with another one."""
        if not ok:
            raise SettingError(f"{type(self).__name__}.{name}", getattr(self, name), rule)


def _fitted(hint: Any, value: Any) -> Any:
    """The value as a ``hint``.

    Raises:
        TypeError: if it is none; OverflowError: if no float can hold it.
    """
    for option in _options(hint):
        if get_origin(option) is tuple and isinstance(value, (tuple, list)):
            return tuple(_fitted(get_args(option)[0], item) for item in value)
        if get_origin(option) is Literal and isinstance(value, str) and value in get_args(option):
            return value
        if option is float and isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
        if option is str and isinstance(value, str):
            return value.strip()
        if option in (int, bool, type(None)) and type(value) is option:
            return value
    raise TypeError(f"{value!r} is no {hint}")


def _said(rule: Rule, value: Any) -> str:
    finite = not isinstance(value, float) or math.isfinite(value)
    return rule.words if finite else f"finite and {rule.words}"


def rules(kind: type[Settings]) -> dict[str, Rule]:
    """Name of each field -> its rule; stages are left out."""
    return {f.name: f.metadata["rule"] for f in fields(kind) if "rule" in f.metadata}


def stages(kind: type[Settings]) -> dict[str, str]:
    """Name of each stage -> what it is."""
    return {f.name: f.metadata["stage"] for f in fields(kind) if "stage" in f.metadata}


def places(kind: type[Settings]) -> dict[str, tuple[type[Settings], str]]:
    """Where every setting stands, in the order of the fields: ``"max_rounds"``, ``"mine.lr"``.

    Returns:
        place -> the dataclass that holds the setting, and its name there.
    """
    hints = _hints(kind)
    found: dict[str, tuple[type[Settings], str]] = {name: (kind, name) for name in rules(kind)}
    for owner in stages(kind):
        part = hints[owner]
        found |= {f"{owner}.{name}": (part, name) for name in rules(part)}
    return found


def changed(settings: S, place: str, text: str) -> S:
    """Settings with one of them read from a text.

    Args:
        place: its name, after its stage's and a dot where it has one, e.g. ``"chase.eta"``.
        text: the value, e.g. ``"2.5"``, ``"adam"``, ``"on"``, ``"1, 4, 16"`` or ``"none"``.

    Raises:
        SettingError: named by the place, if there is no such setting or it cannot be that.
    """
    return changed_by(settings, {place: text})


def changed_by(settings: S, texts: Mapping[str, str]) -> S:
    """Settings with several of them read from texts, held against each other only together.

    Args:
        texts: place -> value, both as of :func:`changed`.

    Raises:
        SettingError: named by the place, if there is no such setting, it cannot be that, or does
            not go with another one.
    """
    values: dict[str, dict[str, Any]] = {}
    for place, text in texts.items():
        owner, _, name = place.rpartition(".")
        part = getattr(settings, owner, None) if owner else settings
        if not isinstance(part, Settings) or name not in rules(type(part)):
            raise SettingError(place, text, "a setting there is, such as chase.eta")
        with _placed(owner):
            values.setdefault(owner, {})[name] = _read(type(part), name, text.strip())
    own = values.pop("", {})
    for owner, changes in values.items():
        with _placed(owner):
            own[owner] = replace(getattr(settings, owner), **changes)
    with _placed(""):
        return replace(settings, **own)


@contextmanager
def _placed(owner: str) -> Iterator[None]:
    """Name settings by their place rather than by dataclass: two stages may be of one kind."""
    try:
        yield
    except SettingError as error:
        name = error.setting.rpartition(".")[2]
        place = f"{owner}.{name}" if owner else name
        raise SettingError(place, error.value, error.rule) from None


def written(value: Any) -> str:
    """A value as :func:`changed` reads it, with as many digits as tell it from all others."""
    if isinstance(value, tuple):
        return ", ".join(map(written, value)) or NONE
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else repr(value)
    return NONE if value is None else str(value)


@functools.cache
def _hints(kind: type[Settings]) -> dict[str, Any]:
    return get_type_hints(kind)


def asked(kind: type[Settings], name: str) -> str:
    """What is to be written for a setting, and its range, in words."""
    return ", or ".join(
        _called(option, rules(kind)[name]) for option in _options(_hints(kind)[name])
    )


def _read(kind: type[Settings], name: str, text: str) -> Any:
    for option in _options(_hints(kind)[name]):
        try:
            return _as(option, text)
        except (ValueError, OverflowError, RecursionError):  # the last two: of a number, in JSON
            continue
    raise SettingError(f"{kind.__name__}.{name}", text, asked(kind, name))


def _options(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _as(hint: Any, text: str) -> Any:
    """Raises ValueError where ``text`` is no ``hint``."""
    if hint is type(None):
        return _chosen(text, {NONE: None})
    if hint is bool:
        return _chosen(text, {"on": True, "off": False, "true": True, "false": False})
    if get_origin(hint) is Literal:
        return _chosen(text, {choice: choice for choice in get_args(hint)})
    if get_origin(hint) is tuple:
        items = [t.strip(" \"'") for t in text.strip("[]()").split(",")]
        items = [t for t in items if t and t.lower() != NONE]
        return tuple(_as(get_args(hint)[0], item) for item in items)
    if hint is str:
        return text
    number = json.loads(text)
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        raise ValueError(text)
    if hint is int and number != int(number):
        raise ValueError(text)
    return hint(number)


def _chosen(text: str, choices: dict[str, Any]) -> Any:
    if text.lower() not in {c.lower() for c in choices}:
        raise ValueError(text)
    return next(value for choice, value in choices.items() if choice.lower() == text.lower())


def _called(hint: Any, rule: Rule) -> str:
    if get_origin(hint) is tuple:
        return f'a list, each {_called(get_args(hint)[0], rule)}, or "{NONE}"'
    if get_origin(hint) is Literal:
        return " or ".join(f'"{c}"' for c in get_args(hint))
    if hint in (int, float):
        kind = "a whole number" if hint is int else "a number"
        return kind if rule.words == UNBOUND else f"{kind}, {rule.words}"
    return {type(None): f'"{NONE}"', bool: '"on" or "off"'}.get(hint, "a text")
