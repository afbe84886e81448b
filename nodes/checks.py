"""What comes into a node is looked at before anything runs: sockets, values, and how they agree.

The host checks the types of links, not what runs through them, and an API client can put anything
into any input. Every node's ``execute`` therefore begins here, with what its schema declares.
"""

from __future__ import annotations

import functools
import inspect
import math
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..darkminer.attacks.examined import Examined
from ..darkminer.config import EraseConfig
from ..darkminer.errors import DarkMinerError
from ..darkminer.files.lora_file import LoraDict
from ..darkminer.types import EmbeddingPool, ImagePool, RetainSet
from .agreement import check_agreement, check_queued, check_settings
from .fields import named
from .host.panel import broken
from .prompts import check_prompt

_ASKED = {
    "MODEL": ("model.diffusion_model", "get_model_object", "model_options", "patches"),
    "CLIP": ("tokenize", "encode_from_tokens_scheduled", "cond_stage_model", "patcher"),
    "VAE": ("encode", "decode", "spacial_compression_encode"),
    "CLIP_VISION": ("encode_image",),
    "DARKMINER_ROUND": ("lora", "embeddings", "done", "trains"),
}
"""What the pack asks of the host's objects, which other packs may wrap."""

_OWN = {
    "DARKMINER_POOL": ImagePool,
    "DARKMINER_EMBEDDINGS": EmbeddingPool,
    "DARKMINER_BANK": RetainSet,
    "DARKMINER_SETTINGS": EraseConfig,
    "DARKMINER_RED_TEAM": Examined,
}

_CONNECT = {
    "MODEL": "a diffusion model, as Load Checkpoint gives it",
    "CLIP": "a text encoder; of a checkpoint that holds none, by Load CLIP",
    "VAE": "a VAE; of a checkpoint that holds none, by Load VAE",
    "CLIP_VISION": "an image encoder, as Load CLIP Vision gives it",
    "CONDITIONING": "a prompt, as CLIPTextEncode gives it",
    "IMAGE": "pictures, as Load Image gives them",
    "LORA_MODEL": "the LoRA of an erasure",
    "DARKMINER_POOL": "the pool of ImagePoolBuilder",
    "DARKMINER_EMBEDDINGS": "the embeddings of a node of this pack",
    "DARKMINER_BANK": "the vocabulary bank of DarkMinerVocabularyBank",
    "DARKMINER_ROUND": "the round of DarkMinerRoundOpen",
    "DARKMINER_SETTINGS": "the settings of DarkMinerSettings",
    "DARKMINER_RED_TEAM": "the findings of RedTeam",
}

_LISTED = 400
"""Letters of a list of choices in a sentence."""

_MAY_BE_NONE = ("LORA_MODEL", "DARKMINER_EMBEDDINGS")
"""What Round: Open hands on before there is any."""

_NO_TEXT = re.compile(r"None|True|False|\[\]|\{\}|\[['\"\[{].*\]|\{['\"].*\}", re.S)
"""How the host writes a null, a truth value, a list or a table of the API as text."""


def guard(node: type[io.ComfyNode]) -> None:
    """Have a node look at its inputs first, and say what is wrong with them in one sentence."""
    schema = node.define_schema()
    declared = {field.id: field for field in schema.inputs}
    run: Callable[..., io.NodeOutput] = node.__dict__["execute"].__func__

    @functools.wraps(run)
    def execute(cls: type[io.ComfyNode], **given: Any) -> io.NodeOutput:
        try:
            return run(cls, **good(given))
        except BaseException as error:  # the host's stop button is no Exception
            broken(schema.node_id, error)
            raise

    def good(given: dict[str, Any]) -> dict[str, Any]:
        # Asked anew: what can be chosen from may be files that were not there before.
        declared = {field.id: field for field in node.define_schema().inputs}
        with named(schema.node_id):
            if getattr(schema, "is_input_list", False):
                for name, values in given.items():
                    given[name] = [checked(declared[name], value) for value in values]
                for one in each(given) if given.get("settings") else ():
                    check_settings(schema.node_id, one, declared)
            else:
                given = {name: checked(declared[name], value) for name, value in given.items()}
                check_agreement(schema.node_id, given, declared)
        return given

    node.execute = classmethod(execute)  # type: ignore[assignment]
    if "settings" in declared:
        _guard_queue(node, declared)
    asks = node.__dict__.get("check_lazy_status")
    if asks is not None:
        _guard_lazy(node, asks.__func__, declared, schema.node_id)


def each(given: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """The values of list inputs run by run, as the host maps lists: the last one is repeated."""
    for i in range(max(map(len, given.values()))):
        yield {name: values[min(i, len(values) - 1)] for name, values in given.items()}


def _guard_queue(node: type[io.ComfyNode], declared: dict[str, Any]) -> None:
    """Look at a workflow's values when it is queued: each by itself, and how they agree.

    The host leaves inputs that ``validate_inputs`` names to it altogether.
    """
    schema = node.define_schema()
    own = node.__dict__.get("validate_inputs")
    names = inspect.signature(own.__func__).parameters if own is not None else ()

    def validate_inputs(cls: type[io.ComfyNode], **given: Any) -> bool:
        known = {name: value for name, value in given.items() if name in declared}
        lists = getattr(schema, "is_input_list", False)
        answers: list[bool | str] = [
            accepted(node, one, lambda one=one: check_queued(schema.node_id, one, declared))
            for one in (each(known) if lists else [known])
        ]
        if own is not None and all(said is True for said in answers):
            answers.append(own.__func__(cls, **{k: v for k, v in given.items() if k in names}))
        for said in answers:
            if said is not True:
                # The host would write a returned sentence once for each input.
                raise DarkMinerError(str(said))
        return True

    node.validate_inputs = classmethod(validate_inputs)  # type: ignore[assignment]


def _guard_lazy(
    node: type[io.ComfyNode], ask: Callable[..., Any], declared: dict[str, Any], name: str
) -> None:
    """The same for what a node reads to say which of its lazy inputs it needs."""

    @functools.wraps(ask)
    def check_lazy_status(cls: type[io.ComfyNode], **given: Any) -> Any:
        with named(name):
            for field, value in given.items():
                checked(declared[field], value)
        return ask(cls, **given)

    node.check_lazy_status = classmethod(check_lazy_status)  # type: ignore[assignment]


def accepted(
    node: type[io.ComfyNode], given: Mapping[str, Any], check: Callable[[], object]
) -> bool | str:
    """What ``validate_inputs`` answers: True, or the sentence that a value is refused with.

    Args:
        given: values by name, None for what a link will bring.
        check: what is to be said of all of them together.
    """
    schema = node.define_schema()
    declared = {field.id: field for field in schema.inputs}
    try:
        with named(schema.node_id):
            for name, value in given.items():
                if value is not None:
                    checked(declared[name], value)
            check()
    except DarkMinerError as error:
        return str(error)
    return True


def checked(field: Any, value: Any) -> Any:
    """A value as the node may use it: pictures as RGB, everything else as it is.

    Args:
        field: the input as the schema declares it.

    Raises:
        DarkMinerError: if it is not what the input takes.
    """
    kind = field.io_type
    if kind in _WIDGETS:
        _WIDGETS[kind](field, value)
        return value
    if value is None and ((field.optional and kind in _MAY_BE_NONE) or field.lazy):
        return None
    if value is None:
        raise DarkMinerError(f"{field.id} got nothing (None): connect {_CONNECT[kind]}.")
    if kind == "IMAGE":
        return _rgb(field.id, value)
    if kind == "CONDITIONING":
        check_prompt(field.id, value)
    elif kind == "LORA_MODEL":
        _check_lora(field.id, value)
    elif kind in _OWN and not isinstance(value, _OWN[kind]):
        raise _foreign(field.id, value, kind)
    elif kind in _ASKED and not all(_has(value, path) for path in _ASKED[kind]):
        raise _foreign(field.id, value, kind)
    return value


def _has(value: Any, path: str) -> bool:
    for name in path.split("."):
        if not hasattr(value, name):
            return False
        value = getattr(value, name)
    return True


def _foreign(name: str, value: Any, kind: str) -> DarkMinerError:
    return DarkMinerError(f"{name} is {described(value)}: connect {_CONNECT[kind]}.")


def described(value: Any) -> str:
    """A value in a few words, for a sentence."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {list(value.shape)}"
    if isinstance(value, (str, int, float)):
        text = repr(value)
        return text if len(text) <= 60 else f"{text[:60]}..."
    return f"a {type(value).__name__}"


def _rgb(name: str, value: Any) -> Tensor:
    """Pictures ``[N, H, W, 3]``: grey ones with three equal channels, others without alpha."""
    if not isinstance(value, Tensor):
        raise _foreign(name, value, "IMAGE")
    good = value.ndim == 4 and min(value.shape) >= 1 and value.shape[-1] in (1, 3, 4)
    if not (good and value.is_floating_point()):
        raise DarkMinerError(
            f"{name} is a tensor of shape {list(value.shape)} and pictures are [N, H, W, 3], with "
            f"numbers from 0 to 1: connect {_CONNECT['IMAGE']}."
        )
    return value.expand(*value.shape[:3], 3) if value.shape[-1] == 1 else value[..., :3]


def _check_lora(name: str, value: Any) -> None:
    if not isinstance(value, Mapping):
        raise _foreign(name, value, "LORA_MODEL")
    if not value and isinstance(value, LoraDict):
        return  # of an erasure that found nothing: what takes it says what that means
    if not value:
        raise DarkMinerError(f"{name} is empty: connect {_CONNECT['LORA_MODEL']}.")
    tensors = all(isinstance(k, str) and torch.is_tensor(v) for k, v in value.items())
    if not tensors or not any(k.endswith(".lora_down.weight") for k in value):
        raise DarkMinerError(
            f"{name} is no LoRA (tensors named lora_up, lora_down and alpha): connect "
            f"{_CONNECT['LORA_MODEL']}."
        )


def _check_number(field: Any, value: Any, kind: type, rule: str) -> None:
    number = isinstance(value, kind) and not isinstance(value, bool)
    low, high = (-math.inf, math.inf) if field.min is None else (field.min, field.max)
    if not number or not math.isfinite(value) or not low <= value <= high:
        limits = "" if field.min is None else f" from {low} to {high}"
        raise DarkMinerError(f"{field.id} is {described(value)}: it must be {rule}{limits}.")


def _check_whole(field: Any, value: Any) -> None:
    _check_number(field, value, Integral, "a whole number")


def _check_real(field: Any, value: Any) -> None:
    _check_number(field, value, Real, "a number")


def _check_text(field: Any, value: Any) -> None:
    check_text(field.id, value)


def check_text(name: str, value: Any) -> None:
    """Refuse what is no text, also where the host has made one of it.

    Raises:
        DarkMinerError: if so.
    """
    if not isinstance(value, str):
        raise DarkMinerError(f'{name} is {described(value)}: write a text, or "" for none.')
    if _NO_TEXT.fullmatch(value):
        raise DarkMinerError(
            f"{name} is {described(value)}, which is how a null, a list or a table of the API "
            'arrives: write a text, or "" for none.'
        )


def _check_truth(field: Any, value: Any) -> None:
    if not isinstance(value, bool):
        raise DarkMinerError(f"{field.id} is {described(value)}: it must be true or false.")


def _check_choice(field: Any, value: Any) -> None:
    if value not in field.options:
        raise DarkMinerError(
            f"{field.id} is {described(value)}: choose one of "
            f"{textwrap.shorten(', '.join(field.options), _LISTED, placeholder=' …') or 'none'}."
        )


_WIDGETS: dict[str, Callable[[Any, Any], None]] = {
    "INT": _check_whole,
    "FLOAT": _check_real,
    "STRING": _check_text,
    "BOOLEAN": _check_truth,
    "COMBO": _check_choice,
}
