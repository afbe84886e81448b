"""An erasure's file, read back with what it says of its run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import DarkMinerError
from ..types import EmbeddingPool, RoundRecord
from .bounds import Damaged
from .converting import put_together
from .lora_check import lora_layers
from .lora_file import LoraDict
from .lora_metadata import runs_of
from .run_files import opened
from .tensor_file import read_tensors


def read_lora(path: Path) -> LoraDict:
    """A LoRA file with its metadata, read within the bounds of :mod:`~.bounds`.

    Raises:
        DarkMinerError: if it cannot be read, is no safetensors file or holds no LoRA.
    """
    try:
        file, size = opened(Path(os.path.realpath(path)))
        with file:
            found = read_tensors(file, size)
    except Damaged as error:
        raise DarkMinerError(
            f"The file {path.name!r} is no sound safetensors file ({error}): choose another one, "
            "or bring back a copy of it."
        ) from error
    except OSError as error:
        raise DarkMinerError(
            f"The file {path.name!r} cannot be read ({error}): check who may read it."
        ) from error
    lora = LoraDict(found.tensors, found.metadata)
    lora_layers(lora, f"The file {path.name!r}")
    return lora


def run_folder_told(about: Mapping[str, str]) -> str:
    """The folder that kept the newest run, as a file's metadata have it; empty for none."""
    runs = runs_of(about)
    folder = runs[-1].get("run_folder") if runs else None
    return folder if isinstance(folder, str) else ""


def rounds_told(about: Mapping[str, str]) -> EmbeddingPool:
    """Rounds and scores of the newest run, as a file's metadata have them; no embedding is there.

    Raises:
        DarkMinerError: if the metadata are not of an erasure of one concept.
    """
    runs = runs_of(about)
    concept = runs[-1].get("concept") if runs else None
    if not isinstance(concept, str) or len({run.get("concept") for run in runs}) > 1:
        raise DarkMinerError(
            "The file does not say which one concept it erases: choose the erasure of one concept, "
            "saved by Save Erasure LoRA."
        )
    return EmbeddingPool(
        round=_checked(runs[-1].get("rounds"), int),
        history=_checked(runs[-1].get("history"), tuple[RoundRecord, ...]), concept=concept,
    )  # fmt: skip


def _checked(value: Any, kind: Any) -> Any:
    try:
        return put_together(value, {}, kind)[0]
    except Damaged as error:
        raise DarkMinerError(
            f"The file's record of its rounds is damaged ({error}): choose another copy of it."
        ) from error
