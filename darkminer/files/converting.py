"""Values as JSON and tensors, and back, bit for bit.

What a value is made of is read from the type hints of its dataclass, so that one converter serves
the values of the method, the state of adapters and settings of every stage: dataclasses, ``int``,
``float``, ``str``, ``bool``, None, literals and unions of these, tuples and lists of one kind,
dictionaries with text as keys, tensors, and ``Any`` for free JSON. A tensor stands in the JSON as
``{"tensor": name}``, its name being its place. A long list of floats becomes a tensor of float64,
too: it keeps every bit and takes no space in the JSON.
"""

from __future__ import annotations

import operator
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from typing import Any, Literal, SupportsIndex, Union, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

from ..errors import DarkMinerError
from ..finite import is_finite
from .bounds import MAX_DEPTH, MAX_DIGITS, Damaged
from .tensor_file import DTYPES
from .value_checks import fault

_TENSOR = "tensor"
_LONG = 64
"""Floats that stay in the JSON, where people can read them."""

_SEQUENCES = {tuple: tuple, list: list, Sequence: tuple}


def called(hint: Any) -> str:
    """A kind of value by name, e.g. ``"ImagePool"`` or ``"tuple[Verdict, ...]"``."""
    if hint is Ellipsis:
        return "..."
    if get_origin(hint) is Literal:
        return " or ".join(map(repr, get_args(hint)))
    if get_origin(hint) in (Union, types.UnionType):
        return " | ".join(map(called, get_args(hint)))
    if get_origin(hint) is not None:
        return f"{get_origin(hint).__name__}[{', '.join(map(called, get_args(hint)))}]"
    return "None" if hint is type(None) else getattr(hint, "__name__", str(hint))


def taken_apart(value: Any, hint: Any) -> tuple[Any, dict[str, Tensor]]:
    """A value as JSON and the tensors that belong to it, on the CPU.

    Args:
        hint: its kind: a dataclass, or any other type hint.

    Raises:
        Damaged: names the place that holds something else than its type hint says, NaN or infinity.
    """
    tensors: dict[str, Tensor] = {}
    return _Writer(tensors).write(value, hint, ""), tensors


def put_together(
    plain: Any, tensors: Mapping[str, Tensor], hint: Any
) -> tuple[Any, tuple[str, ...]]:
    """The value, and the places of settings and fields that were not written and have their
    defaults.

    Raises:
        Damaged: names the place that holds something else than its type hint says.
    """
    reader = _Reader(tensors)
    value = reader.read(plain, hint, "")
    left = tensors.keys() - reader.used
    if left:
        raise Damaged(f"it has a tensor {min(left)!r} that belongs nowhere")
    return value, tuple(reader.assumed)


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _options(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _without_none(hint: Any) -> Any:
    """The one kind that there may be besides None; the hint itself, where there are several."""
    options = [option for option in _options(hint) if option is not type(None)]
    return options[0] if len(options) == 1 else hint


def _at(place: str, name: object) -> str:
    return f"{place}.{name}" if place else str(name)


def _wrong(place: str, value: Any, hint: Any) -> Damaged:
    said = repr(value) if isinstance(value, (bool, int, float, str)) else type(value).__name__
    said = said if len(said) <= 40 else f"{said[:40]}..."
    return Damaged(f"at {place or 'its top'} there is {said} where {called(hint)} belongs")


def _scalar(value: Any, hint: Any, place: str) -> Any:
    """A value of a kind that JSON has, exactly as it is."""
    if len(_options(hint)) > 1:
        return _any_scalar(value, hint, place)
    if get_origin(hint) is Literal:
        good = any(value == v and type(value) is type(v) for v in get_args(hint))
    elif hint is bool or hint is str:
        good = isinstance(value, hint)
    elif hint is int:
        good = not isinstance(value, bool) and isinstance(value, SupportsIndex)
        value = operator.index(value) if isinstance(value, SupportsIndex) else value
        good = good and abs(value) < 10 ** (MAX_DIGITS - 1)
    elif hint is float:
        good = isinstance(value, (int, float)) and not isinstance(value, bool)
        good = good and abs(value) < 1 << 1023 and float(value) == value
        value = float(value) if good else value
    else:
        raise TypeError(f"{place} is of a kind that is not converted: {called(hint)}")
    if not good:
        raise _wrong(place, value, hint)
    return value


def _any_scalar(value: Any, hint: Any, place: str) -> Any:
    """A value of one of several kinds."""
    for option in (option for option in _options(hint) if option is not type(None)):
        try:
            return _scalar(value, option, place)
        except Damaged:
            continue
    raise _wrong(place, value, hint)


def _free(value: Any, place: str, depth: int = 0) -> Any:
    """Free JSON: what is no JSON is refused."""
    if depth > MAX_DEPTH:
        raise Damaged(f"at {place[:80]} it is nested more than {MAX_DEPTH} deep")
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {k: _free(v, _at(place, k), depth + 1) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_free(v, _at(place, i), depth + 1) for i, v in enumerate(value)]
    if value is None or isinstance(value, (bool, str)):
        return value
    return _scalar(value, float if isinstance(value, float) else int, place)


def _check_tensor(tensor: Any, place: str) -> None:
    if not isinstance(tensor, Tensor) or tensor.dtype not in DTYPES.values():
        raise _wrong(place, tensor, Tensor)
    narrow = tensor.is_floating_point() and tensor.element_size() == 1  # isfinite lacks these
    if tensor.is_floating_point() and not is_finite(tensor.float() if narrow else tensor):
        raise Damaged(f"at {place} there are values that are not finite (NaN or infinity)")


def _check_value(value: Any, place: str) -> None:
    wrong = fault(value)
    if wrong:
        raise Damaged(f"at {place or 'its top'} {type(value).__name__} is unsound: {wrong}")


class _Writer:
    def __init__(self, tensors: dict[str, Tensor]):
        self._tensors = tensors

    def write(self, value: Any, hint: Any, place: str) -> Any:
        if hint is Any:
            return _free(value, place)
        if type(None) in _options(hint):
            if value is None:
                return None
            hint = _without_none(hint)
        if hint is Tensor:
            return self._tensor(value, place)
        if is_dataclass(hint):
            return self._dataclass(value, hint, place)
        origin = get_origin(hint)
        if origin is dict:
            return self._dict(value, hint, place)
        if origin in _SEQUENCES:
            return self._sequence(value, hint, place)
        return _scalar(value, hint, place)

    def _tensor(self, value: Any, place: str) -> dict[str, str]:
        _check_tensor(value, place)
        name = place or "value"
        if name in self._tensors:
            raise Damaged(f"two tensors have the place {name}")
        self._tensors[name] = value.detach().cpu()
        return {_TENSOR: name}

    def _dataclass(self, value: Any, kind: Any, place: str) -> dict[str, Any]:
        if type(value) is not kind:
            raise _wrong(place, value, kind)
        _check_value(value, place)
        hints = _hints(kind)
        return {
            f.name: self.write(getattr(value, f.name), hints[f.name], _at(place, f.name))
            for f in fields(kind)
        }

    def _dict(self, value: Any, hint: Any, place: str) -> dict[str, Any]:
        _, item = get_args(hint)
        if not isinstance(value, Mapping):
            raise _wrong(place, value, hint)
        return {_scalar(k, str, place): self.write(v, item, _at(place, k))
                for k, v in value.items()}  # fmt: skip

    def _sequence(self, value: Any, hint: Any, place: str) -> Any:
        item = get_args(hint)[0]
        if isinstance(value, (str, Mapping)) or not hasattr(value, "__len__"):
            raise _wrong(place, value, hint)
        written = [self.write(v, item, _at(place, i)) for i, v in enumerate(value)]
        if item is float and len(written) > _LONG:
            return self._tensor(torch.tensor(written, dtype=torch.float64), place)
        return written


class _Reader:
    def __init__(self, tensors: Mapping[str, Tensor]):
        self._tensors = tensors
        self.used: set[str] = set()
        self.assumed: list[str] = []

    def read(self, plain: Any, hint: Any, place: str) -> Any:
        if hint is Any:
            return _free(plain, place)
        if type(None) in _options(hint):
            if plain is None:
                return None
            hint = _without_none(hint)
        if hint is Tensor:
            return self._tensor(plain, place)
        if is_dataclass(hint):
            return self._dataclass(plain, hint, place)
        origin = get_origin(hint)
        if origin is dict:
            return self._dict(plain, hint, place)
        if origin in _SEQUENCES:
            return self._sequence(plain, hint, place)
        return _scalar(plain, hint, place)

    def _tensor(self, plain: Any, place: str) -> Tensor:
        name = place or "value"
        if plain != {_TENSOR: name} or name not in self._tensors:
            raise _wrong(place, plain, Tensor)
        tensor = self._tensors[name]
        _check_tensor(tensor, place)
        self.used.add(name)
        return tensor

    def _dataclass(self, plain: Any, kind: Any, place: str) -> Any:
        known = {f.name: f for f in fields(kind)}
        if not isinstance(plain, dict) or not plain.keys() <= known.keys():
            raise _wrong(place, plain, kind)
        hints = _hints(kind)
        values = {}
        for name, described in known.items():
            if name in plain:
                values[name] = self.read(plain[name], hints[name], _at(place, name))
            elif _has_default(described):
                self.assumed.append(_at(place, name))
            else:
                raise Damaged(f"at {place or 'its top'} {called(kind)} lacks {name}")
        try:
            value = kind(**values)
        except DarkMinerError as error:
            raise Damaged(f"at {place or 'its top'}: {str(error).rstrip('.')}") from error
        _check_value(value, place)
        return value

    def _dict(self, plain: Any, hint: Any, place: str) -> dict[str, Any]:
        _, item = get_args(hint)
        if not isinstance(plain, dict):
            raise _wrong(place, plain, hint)
        return {k: self.read(v, item, _at(place, k))
                for k, v in plain.items()}  # fmt: skip

    def _sequence(self, plain: Any, hint: Any, place: str) -> Any:
        item, make = get_args(hint)[0], _SEQUENCES[get_origin(hint)]
        if item is float and isinstance(plain, dict):
            numbers = self._tensor(plain, place)
            if numbers.dtype != torch.float64 or numbers.ndim != 1:
                raise _wrong(place, numbers, hint)
            return make(numbers.tolist())
        if not isinstance(plain, list):
            raise _wrong(place, plain, hint)
        return make(self.read(v, item, _at(place, i)) for i, v in enumerate(plain))


def _has_default(described: Field[Any]) -> bool:
    return described.default is not MISSING or described.default_factory is not MISSING
