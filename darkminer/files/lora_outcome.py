"""What a run has come to, in the LoRA's metadata: erased, still there, or nothing at all.

A LoRA that changes nothing is marked so that it is not saved as an erasure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict

from torch import Tensor

from ..errors import DarkMinerError
from ..types import EmbeddingPool
from .lora_file import LoraDict
from .lora_metadata import with_newest

EMPTY, OUTCOME = "darkminer_empty", "darkminer_outcome"
_PARTS = (".lora_up.weight", ".lora_down.weight", ".alpha")


def with_outcome(
    lora: Mapping[str, Tensor], embeddings: EmbeddingPool, *, empty: bool, words: str
) -> LoraDict:
    """The LoRA with what came out in its metadata, the history of all verifications included.

    Args:
        empty, words: see :class:`~..method.outcome.Outcome`.
    """
    history = [asdict(r) for r in embeddings.history]
    about = getattr(lora, "metadata", {})
    return LoraDict(
        lora,
        {
            **with_newest(about, rounds=embeddings.round, history=history),
            "darkminer_rounds": str(embeddings.round),
            "darkminer_history": json.dumps(history),
            EMPTY: str(empty).lower(),
            OUTCOME: words,
        },
    )


def is_empty(lora: Mapping[str, Tensor]) -> bool:
    """Whether a LoRA adds nothing to any layer."""
    ups = {key for key in lora if key.endswith(_PARTS[0])}
    known = all(key.endswith(_PARTS) for key in lora)
    return known and not any(bool(lora[key].any()) for key in ups)


def require_work(lora: Mapping[str, Tensor]) -> None:
    """Refuse a LoRA that changes nothing.

    Raises:
        DarkMinerError: with what the run that made it has to say.
    """
    if is_empty(lora):
        said = getattr(lora, "metadata", {}).get(OUTCOME, "")
        said = said or "Nothing was trained, so that the model stays as it is."
        raise DarkMinerError(
            f"lora is empty and is not saved: {said[0].lower()}{said[1:].rstrip('.')} (or switch "
            "save_empty on to save it all the same)."
        )
