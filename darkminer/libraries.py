"""Libraries that a host may lack or hold broken: imported where they are used.

One that cannot be imported costs a sentence where something needs it, and not the nodes that do
not.
"""

from __future__ import annotations

import importlib
from typing import Any

from .errors import DarkMinerError

_PACKAGES = {"peft": "peft", "open_clip": "open_clip_torch", "safetensors": "safetensors"}
_AT_START = ("peft",)  # what almost every node needs; the others are large and rarely used


def library(name: str) -> Any:
    """The module ``name``.

    Raises:
        DarkMinerError: if it cannot be imported; says why, and what to do.
    """
    try:
        return importlib.import_module(name)
    except Exception as error:  # what is half installed raises anything
        top = name.partition(".")[0]
        raise DarkMinerError(
            f"The library {_PACKAGES.get(top, top)} cannot be imported ({_reason(error)}): run pip "
            "install -U -r requirements.txt with this pack's file in ComfyUI's own environment, "
            "and restart."
        ) from error


def _reason(error: BaseException) -> str:
    """The first line of what began it: libraries report their own libraries' errors as theirs."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def broken() -> list[str]:
    """A sentence for each library that is tried at the start and cannot be imported."""
    sentences = []
    for name in _AT_START:
        try:
            library(name)
        except DarkMinerError as error:
            sentences.append(str(error))
    return sentences
