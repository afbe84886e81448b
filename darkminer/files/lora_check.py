"""One check of LoRA state dicts: before one is continued, combined, converted, applied or saved.

An erasure's file holds ``<stem>.lora_up.weight`` ``[out, r]``, ``<stem>.lora_down.weight``
``[r, in]`` and ``<stem>.alpha`` for each layer, all stems beginning with ``lora_unet_``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..errors import DarkMinerError
from ..finite import is_finite

SUFFIXES = (".lora_up.weight", ".lora_down.weight", ".alpha")
PREFIX = "lora_unet_"


@dataclass(frozen=True)
class LoraLayer:
    """One layer of a LoRA: it adds ``alpha / rank * up @ down`` to the layer's weight.

    Attributes:
        up: ``[out, rank]`` float32 CPU.
        down: ``[rank, in]`` float32 CPU.
        alpha: the file's, or the rank where the file has none.
    """

    up: Tensor
    down: Tensor
    alpha: float

    @property
    def rank(self) -> int:
        return len(self.down)

    @property
    def scale(self) -> float:
        """alpha / rank."""
        return self.alpha / self.rank


def check_numbers(tensors: Mapping[str, Tensor], name: str = "The LoRA") -> None:
    """Refuse a LoRA of any make whose values are not finite or whose alphas are no scale.

    Raises:
        DarkMinerError: names the key.
    """
    for key, tensor in tensors.items():
        if key.endswith(SUFFIXES[2]):
            alpha = float(tensor) if tensor.numel() == 1 else math.nan
            if not math.isfinite(alpha) or alpha <= 0:
                said = f"{alpha:g}" if tensor.numel() == 1 else f"{tensor.numel()} numbers"
                raise DarkMinerError(
                    f"{name} has at {key!r} {said} where one positive number belongs: connect a "
                    "LoRA that was made here."
                )
        elif not is_finite(tensor.detach().float()):
            raise DarkMinerError(
                f"{name} has values at {key!r} that are not finite numbers: its training failed, "
                "train again at a lower learning rate."
            )


def lora_layers(tensors: Any, name: str = "The LoRA") -> dict[str, LoraLayer]:
    """Key stem -> layer of a LoRA that may be handed on.

    Args:
        name: what the messages call it.

    Raises:
        DarkMinerError: if it is no LoRA, is empty, lacks a half, holds anything else than a LoRA of
            linear layers of a diffusion network, or a value that is not finite; names the key.
    """
    if not isinstance(tensors, Mapping) or not tensors:
        raise DarkMinerError(f"{name} is empty: connect the LoRA of an erasure.")
    halves: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        end = next((s for s in SUFFIXES if isinstance(key, str) and key.endswith(s)), None)
        if end is None or not isinstance(tensor, Tensor) or not key.startswith(PREFIX):
            raise DarkMinerError(
                f"{name} holds {key!r}, which no erasure has: connect a LoRA that was made here "
                "and saved with format kohya."
            )
        halves.setdefault(key.removesuffix(end), {})[end] = tensor
    check_numbers(tensors, name)
    return {stem: _layer(stem, parts, name) for stem, parts in halves.items()}


def _layer(stem: str, parts: Mapping[str, Tensor], name: str) -> LoraLayer:
    for end in SUFFIXES[:2]:
        if end not in parts:
            raise DarkMinerError(
                f"{name} lacks {stem + end!r}: the file is incomplete, save it again."
            )
    up, down = (parts[end].detach().float().cpu().clone() for end in SUFFIXES[:2])
    if up.ndim != 2 or down.ndim != 2 or up.shape[1] != down.shape[0] or not down.numel():
        raise DarkMinerError(
            f"{name} has at {stem!r} an up of {list(up.shape)} and a down of {list(down.shape)}, "
            "which do not make a linear layer: connect a LoRA that was made here."
        )
    alpha = parts.get(SUFFIXES[2])
    return LoraLayer(up, down, float(len(down) if alpha is None else alpha))
