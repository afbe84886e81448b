"""LoRA files: kohya key names that every loader knows, metadata, atomic writing.

A file holds ``<stem>.lora_up.weight``, ``<stem>.lora_down.weight`` and ``<stem>.alpha`` for every
adapted layer and nothing else: one foreign key is enough for some loaders to refuse the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import DarkMinerError
from ..model.adapter import AdapterState
from .atomic import write_whole
from .bounds import Damaged
from .lora_check import SUFFIXES, LoraLayer, lora_layers
from .lora_hash import hashes
from .lora_metadata import joint_metadata
from .tensor_file import tensor_parts


class LoraDict(dict[str, Tensor]):
    """A LoRA state dict that carries the metadata of the file it will become.

    Attributes:
        told: what the run that made it leaves for a report; None where nobody knows.
    """

    def __init__(self, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None):
        super().__init__(tensors)
        self.metadata: dict[str, str] = dict(metadata or {})
        self.told: Any = None


def to_state_dict(state: AdapterState, names: Mapping[str, str]) -> dict[str, Tensor]:
    """The file's tensors (float32).

    Args:
        names: module path -> key stem, e.g. ``lora_unet_down_blocks_0_..._attn1_to_v``.
    """
    tensors: dict[str, Tensor] = {}
    for path in state.up:
        up, down, alpha = (names[path] + s for s in SUFFIXES)
        tensors[up] = state.up[path].contiguous()
        tensors[down] = state.down[path].contiguous()
        tensors[alpha] = torch.tensor(float(state.alpha))
    return tensors


def from_state_dict(
    tensors: Mapping[str, Tensor], names: Mapping[str, str], choices: Iterable[Iterable[str]]
) -> AdapterState:
    """Read a state back, for continuing an erasure.

    Args:
        names: module path -> key stem of every layer that may be adapted.
        choices: the sets of module paths an erasure may cover.

    Raises:
        DarkMinerError: if it is no sound LoRA (:func:`~.lora_check.lora_layers`), another model's,
            lacks layers, or mixes ranks.
    """
    layers = lora_layers(tensors)
    wanted = set(names.values())
    paths = [path for path, stem in names.items() if stem in layers]
    if not paths:
        raise DarkMinerError(
            "The LoRA has no layer of this MODEL: connect a LoRA that was made from the same model."
        )
    choices = [set(choice) for choice in choices]
    if layers.keys() - wanted or set(paths) not in choices:
        sizes = " or ".join(str(len(choice)) for choice in choices)
        raise DarkMinerError(
            f"The LoRA covers {len(paths)} layers that an erasure adapts ({sizes} of this MODEL's) "
            f"and {len(layers.keys() - wanted)} other layers: connect one made from it."
        )
    ranks = {layer.rank for layer in layers.values()}
    alphas = {layer.alpha for layer in layers.values()}
    if len(ranks) != 1 or len(alphas) != 1:
        raise DarkMinerError(
            f"The LoRA mixes ranks {sorted(ranks)} or alphas {sorted(alphas)}: connect one with "
            "the same rank and alpha in every layer."
        )
    up = {path: layers[names[path]].up for path in paths}
    down = {path: layers[names[path]].down for path in paths}
    return AdapterState(ranks.pop(), alphas.pop(), up, down)


def combine(loras: Sequence[Mapping[str, Tensor]], called: Sequence[str] | None = None) -> LoraDict:
    """One LoRA that adds what all of them add, by rank concatenation.

    Each one's alpha / rank goes into its up, so that the sum's own is 1; a layer that one of them
    leaves alone has zeros in that one's place.

    Args:
        called: what messages call each of them.

    Raises:
        DarkMinerError: if fewer than two are given, one is no sound LoRA
            (:func:`~.lora_check.lora_layers`), or they are of different kinds of model.
    """
    if len(loras) < 2:
        raise DarkMinerError("One LoRA is nothing to combine: connect two or more.")
    called = called or [f"LoRA {i + 1}" for i in range(len(loras))]
    parts = [lora_layers(t, name) for t, name in zip(loras, called, strict=True)]
    _check_kin(loras, parts)
    ranks = [max(layer.rank for layer in part.values()) for part in parts]
    joint: dict[str, Tensor] = {}
    for stem in sorted(set[str]().union(*parts)):
        pairs = _pairs(parts, ranks, stem)
        if len({(up.shape[0], down.shape[1]) for up, down in pairs}) > 1:
            raise DarkMinerError(
                f"The LoRAs' shapes differ at {stem!r}: combine LoRAs that were made from the same "
                "kind of model."
            )
        up, down, alpha = (stem + s for s in SUFFIXES)
        joint[up] = torch.cat([u for u, _ in pairs], dim=1)
        joint[down] = torch.cat([d for _, d in pairs])
        joint[alpha] = torch.tensor(float(len(joint[down])))
    rank = len(next(t for k, t in joint.items() if k.endswith(SUFFIXES[1])))
    return LoraDict(joint, joint_metadata([getattr(t, "metadata", {}) for t in loras], rank))


def _check_kin(loras: Sequence[Any], parts: Sequence[Mapping[str, LoraLayer]]) -> None:
    """Refuse LoRAs of different kinds of model, by what their files say and by their layers."""
    families = [getattr(t, "metadata", {}).get("ss_base_model_version", "") for t in loras]
    families = list(dict.fromkeys(family for family in families if family))
    if len(families) > 1:
        raise DarkMinerError(
            f"The LoRAs are of {' and '.join(map(repr, families))}: combine LoRAs that were made "
            "from the same kind of model."
        )
    if not set.intersection(*map(set, parts)):
        raise DarkMinerError(
            f"The LoRAs adapt {', '.join(str(len(p)) for p in parts)} layers and none in common: "
            "combine LoRAs that were made from the same kind of model."
        )


def _pairs(
    parts: Sequence[Mapping[str, LoraLayer]], ranks: Sequence[int], stem: str
) -> list[tuple[Tensor, Tensor]]:
    """Up, with alpha / rank in it, and down of one layer in each LoRA."""
    has = next(part[stem] for part in parts if stem in part)
    return [
        (part[stem].up * part[stem].scale, part[stem].down)
        if stem in part
        else (has.up.new_zeros(len(has.up), rank), has.down.new_zeros(rank, has.down.shape[1]))
        for part, rank in zip(parts, ranks, strict=True)
    ]


_MMDIT = re.compile(
    r"lora_unet_joint_blocks_(\d+)_(x|context)_block_(attn2?_qkv|attn2?_proj|mlp_fc[12])$"
)
_MMDIT_LAYERS = {
    ("x", "attn_qkv"): "attn.to_v",
    ("x", "attn_proj"): "attn.to_out.0",
    ("x", "attn2_qkv"): "attn2.to_v",
    ("x", "attn2_proj"): "attn2.to_out.0",
    ("x", "mlp_fc1"): "ff.net.0.proj",
    ("x", "mlp_fc2"): "ff.net.2",
    ("context", "attn_qkv"): "attn.add_v_proj",
    ("context", "attn_proj"): "attn.to_add_out",
    ("context", "mlp_fc1"): "ff_context.net.0.proj",
    ("context", "mlp_fc2"): "ff_context.net.2",
}


def for_diffusers(lora: Mapping[str, Tensor]) -> LoraDict:
    """The same LoRA under the names that diffusers reads.

    It reads kohya names of UNets and of Flux, so those stay as they are. Of a Stable Diffusion 3
    file it only knows its own names and separate projections: the value rows become ``to_v`` and
    ``add_v_proj``, with alpha / rank in the upper half, since a key of its own for alpha makes it
    refuse the file.
    """
    about = getattr(lora, "metadata", {})
    layers = lora_layers(lora)
    if not all(_MMDIT.match(stem) for stem in layers):
        return LoraDict(lora, about)
    tensors: dict[str, Tensor] = {}
    for stem, own in layers.items():
        found = _MMDIT.match(stem)
        assert found is not None
        block, side, layer = found.groups()
        name = f"transformer.transformer_blocks.{block}.{_MMDIT_LAYERS[side, layer]}"
        # Rows of query, key and value: the last third is what an erasure changes.
        up = own.up.chunk(3)[2] if layer.endswith("qkv") else own.up
        tensors[f"{name}.lora_B.weight"] = up * own.scale
        tensors[f"{name}.lora_A.weight"] = own.down
    return LoraDict(tensors, about)


def save_lora(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file, readable as other new files are; it is there whole or not at all.

    Its metadata get the hashes of its tensors, see :func:`~.lora_hash.hashes`.

    Raises:
        DarkMinerError: if it cannot be written.
    """
    try:
        about = {**metadata, **hashes(tensors, metadata)}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, tensor_parts(tensors, about))
    except Damaged as error:
        raise DarkMinerError(
            f"The file {path.name!r} cannot be written ({error}): connect a LoRA that was made "
            "here."
        ) from error
    except OSError as error:
        raise DarkMinerError(
            f"The file {path.name!r} cannot be written ({error}): make room and check who may "
            "write to its folder."
        ) from error
