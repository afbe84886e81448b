"""CONDITIONING that comes in: is it one, and does it say what the method can keep to?

Training asks about whole pictures at all levels of noise under one prompt. What the host's nodes
add to a prompt for a part of the picture or of the sampling has no place there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..darkminer.errors import DarkMinerError
from ..darkminer.finite import is_finite

MINED = "mined"
"""The input that takes mined embeddings, many in one CONDITIONING; all others take prompts."""

_ENTRIES = ("negative", "keep_1", "keep_2", "keep_3", "keep_4", MINED)
"""Inputs that take several prompts: the sampler mixes those of negative, each keep counts alone."""

_PARTS = {
    "area": "an area",
    "mask": "a mask",
    "hooks": "hooks",
    "control": "a ControlNet",
    "gligen": "GLIGEN boxes",
}


def check_prompt(name: str, value: Any) -> None:
    """Refuse what is no CONDITIONING, or one whose extras would be dropped.

    Args:
        name: the input as it is called on the node.

    Raises:
        DarkMinerError: if so.
    """
    if not isinstance(value, (list, tuple)) or not all(_is_entry(entry) for entry in value):
        raise DarkMinerError(
            f"{name} is no CONDITIONING (pairs of a tensor [B, L, D] and its extras): connect a "
            "prompt, as CLIPTextEncode gives it."
        )
    if not value:
        raise DarkMinerError(f"{name} is an empty CONDITIONING: connect a CLIPTextEncode.")
    if len(value) > 1 and name not in _ENTRIES:
        raise DarkMinerError(
            f"{name} holds {len(value)} prompts and one is needed: connect a single CLIPTextEncode."
        )
    for context, extra in value:
        if not is_finite(context):
            raise DarkMinerError(
                f"{name} holds values that are no numbers (NaN): load its text encoder in float32."
            )
        if name != MINED:
            _check_plain(name, context, extra)


def _is_entry(entry: Any) -> bool:
    """Whether this is a context ``[B, L, D]`` with a table of extras."""
    if not isinstance(entry, (list, tuple)) or len(entry) != 2:
        return False
    context, extra = entry
    return (
        isinstance(context, Tensor)
        and context.ndim == 3
        and min(context.shape) >= 1
        and context.is_floating_point()
        and isinstance(extra, Mapping)
    )


def _check_plain(name: str, context: Tensor, extra: Mapping[str, Any]) -> None:
    """One prompt, for the whole picture and the whole sampling."""
    if len(context) != 1:
        raise DarkMinerError(
            f"{name} holds a batch of {len(context)} contexts and one is needed: connect a single "
            "CLIPTextEncode."
        )
    found = [words for key, words in _PARTS.items() if extra.get(key) is not None]
    if extra.get("strength", 1.0) != 1.0:
        found.append("a strength")
    if (extra.get("start_percent", 0.0), extra.get("end_percent", 1.0)) != (0.0, 1.0):
        found.append("a range of timesteps")
    if found:
        raise DarkMinerError(
            f"{name} carries {' and '.join(found)}, which training has no place for: connect the "
            "prompt without it."
        )
