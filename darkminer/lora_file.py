"""LoRA files: kohya key names that every loader knows, metadata, atomic writing.

A file holds ``<stem>.lora_up.weight``, ``<stem>.lora_down.weight`` and ``<stem>.alpha`` for every
adapted layer and nothing else: one foreign key is enough for some loaders to refuse the file.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from .adapter import AdapterState
from .config import EraseConfig
from .errors import DarkMinerError
from .types import EmbeddingPool

_SUFFIXES = (".lora_up.weight", ".lora_down.weight", ".alpha")


class LoraDict(dict[str, Tensor]):
    """A LoRA state dict that carries the metadata of the file it will become."""

    def __init__(self, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None):
        super().__init__(tensors)
        self.metadata: dict[str, str] = dict(metadata or {})


def to_state_dict(state: AdapterState, names: Mapping[str, str]) -> dict[str, Tensor]:
    """The file's tensors (float32).

    Args:
        names: module path -> key stem, e.g. ``lora_unet_down_blocks_0_..._attn1_to_v``.
    """
    tensors: dict[str, Tensor] = {}
    for path in state.up:
        up, down, alpha = (names[path] + s for s in _SUFFIXES)
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
        DarkMinerError: if it is another model's LoRA, lacks layers, or mixes ranks.
    """
    stems = {key.removesuffix(s) for key in tensors for s in _SUFFIXES if key.endswith(s)}
    wanted = set(names.values())
    paths = [path for path, stem in names.items() if stem in stems]
    if not stems & wanted:
        raise DarkMinerError(
            "The LoRA has no layer of this MODEL: connect a LoRA that was made from the same model."
        )
    choices = [set(choice) for choice in choices]
    if stems - wanted or set(paths) not in choices:
        sizes = " or ".join(str(len(choice)) for choice in choices)
        raise DarkMinerError(
            f"The LoRA covers {len(paths)} layers that an erasure adapts ({sizes} of this MODEL's) "
            f"and {len(stems - wanted)} other layers: connect one made from it."
        )
    up = {path: _half(tensors, names[path], 0) for path in paths}
    down = {path: _half(tensors, names[path], 1) for path in paths}
    ranks = {t.shape[0] for t in down.values()}
    alphas = {
        float(tensors.get(names[path] + _SUFFIXES[2], torch.tensor(float(max(ranks)))))
        for path in paths
    }
    if len(ranks) != 1 or len(alphas) != 1:
        raise DarkMinerError(
            f"The LoRA mixes ranks {sorted(ranks)} or alphas {sorted(alphas)}: connect one with "
            "the same rank and alpha in every layer."
        )
    return AdapterState(ranks.pop(), alphas.pop(), up, down)


def _half(tensors: Mapping[str, Tensor], stem: str, which: int) -> Tensor:
    key = stem + _SUFFIXES[which]
    if key not in tensors:
        raise DarkMinerError(f"The LoRA lacks {key}: the file is incomplete, save it again.")
    return tensors[key].detach().float().cpu().clone()


def metadata(
    state: AdapterState,
    embeddings: EmbeddingPool,
    *,
    seed: int,
    settings: EraseConfig | dict[str, Any],
    fingerprint: str,
    family: str,
) -> dict[str, str]:
    """What LoRA managers and people want to know about the file (all values are strings)."""
    title = f"erase {embeddings.concept}"
    chosen = settings if isinstance(settings, dict) else asdict(settings)
    history = [asdict(record) for record in embeddings.history]
    return {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(state.rank),
        "ss_network_alpha": f"{state.alpha:g}",
        "ss_base_model_version": family,
        "ss_output_name": title,
        "ss_tag_frequency": "{}",
        "sshs_model_hash": fingerprint,
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{family}/lora",
        "modelspec.title": title,
        "modelspec.usage_hint": f"Strength 1 takes {embeddings.concept} out of the model.",
        "darkminer_concept": embeddings.concept,
        "darkminer_seed": str(seed),
        "darkminer_rounds": str(embeddings.round),
        "darkminer_history": json.dumps(history),
        "darkminer_settings": json.dumps(chosen, sort_keys=True),
        "darkminer_base_fingerprint": fingerprint,
    }


def combine(loras: Sequence[Mapping[str, Tensor]]) -> LoraDict:
    """One LoRA that adds what all of them add, by rank concatenation.

    Each one's alpha / rank goes into its up, so that the sum's own is 1; a layer that one of them
    leaves alone has zeros in that one's place.

    Raises:
        DarkMinerError: if fewer than two are given, or they share no layer or differ in shape.
    """
    if len(loras) < 2:
        raise DarkMinerError("One LoRA is nothing to combine: connect two or more.")
    stems = [{k.removesuffix(_SUFFIXES[1]) for k in t if k.endswith(_SUFFIXES[1])} for t in loras]
    if not set.intersection(*stems):
        raise DarkMinerError(
            f"The LoRAs adapt {', '.join(str(len(s)) for s in stems)} layers and none in common: "
            "combine LoRAs that were made from the same kind of model."
        )
    ranks = [_rank(t) for t in loras]
    joint: dict[str, Tensor] = {}
    for stem in sorted(set.union(*stems)):
        pairs = _pairs(loras, ranks, stem)
        if len({(up.shape[0], down.shape[1]) for up, down in pairs}) > 1:
            raise DarkMinerError(
                f"The LoRAs' shapes differ at {stem}: combine LoRAs that were made from the same "
                "kind of model."
            )
        up, down, alpha = (stem + s for s in _SUFFIXES)
        joint[up] = torch.cat([u for u, _ in pairs], dim=1)
        joint[down] = torch.cat([d for _, d in pairs])
        joint[alpha] = torch.tensor(float(len(joint[down])))
    rank = len(next(t for k, t in joint.items() if k.endswith(_SUFFIXES[1])))
    return LoraDict(joint, _joint_metadata([getattr(t, "metadata", {}) for t in loras], rank))


def _rank(tensors: Mapping[str, Tensor]) -> int:
    """The largest rank of a LoRA's layers."""
    return max(len(t) for k, t in tensors.items() if k.endswith(_SUFFIXES[1]))


def _pairs(
    loras: Sequence[Mapping[str, Tensor]], ranks: Sequence[int], stem: str
) -> list[tuple[Tensor, Tensor]]:
    """Up, with alpha / rank in it, and down of one layer in each LoRA."""
    has = [t for t in loras if stem + _SUFFIXES[1] in t]
    up, down = _half(has[0], stem, 0), _half(has[0], stem, 1)
    return [
        (_half(t, stem, 0) * _scale(t, stem), _half(t, stem, 1))
        if stem + _SUFFIXES[1] in t
        else (up.new_zeros(len(up), rank), down.new_zeros(rank, down.shape[1]))
        for t, rank in zip(loras, ranks, strict=True)
    ]


def _scale(tensors: Mapping[str, Tensor], stem: str) -> float:
    """alpha / rank of a layer; a file without alpha means 1."""
    alpha = tensors.get(stem + _SUFFIXES[2])
    return 1.0 if alpha is None else float(alpha) / len(tensors[stem + _SUFFIXES[1]])


def _joint_metadata(parts: Sequence[Mapping[str, str]], rank: int) -> dict[str, str]:
    """The first one's metadata, with every one's concept and what the ranks add up to."""
    concepts = [p.get("darkminer_concept", "") for p in parts]
    joined = " and ".join(c for c in concepts if c)
    histories = [json.loads(p.get("darkminer_history", "[]")) for p in parts]
    settings = [json.loads(p.get("darkminer_settings", "{}")) for p in parts]
    title = f"erase {joined}".strip()
    return {
        **parts[0],
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(rank),
        "ss_output_name": title,
        "modelspec.title": title,
        "modelspec.usage_hint": f"Strength 1 takes {joined or 'the concepts'} out of the model.",
        "darkminer_concept": joined,
        "darkminer_seed": ", ".join(p.get("darkminer_seed", "?") for p in parts),
        "darkminer_rounds": ", ".join(p.get("darkminer_rounds", "?") for p in parts),
        "darkminer_history": json.dumps(histories),
        "darkminer_settings": json.dumps(settings, sort_keys=True),
    }


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
    stems = [key.removesuffix(_SUFFIXES[1]) for key in lora if key.endswith(_SUFFIXES[1])]
    if not stems or not all(_MMDIT.match(stem) for stem in stems):
        return LoraDict(lora, about)
    tensors: dict[str, Tensor] = {}
    for stem in stems:
        found = _MMDIT.match(stem)
        assert found is not None
        block, side, layer = found.groups()
        name = f"transformer.transformer_blocks.{block}.{_MMDIT_LAYERS[side, layer]}"
        up = _half(lora, stem, 0)
        if layer.endswith("qkv"):
            up = up.chunk(3)[2]  # rows of query, key and value
        tensors[f"{name}.lora_B.weight"] = up * _scale(lora, stem)
        tensors[f"{name}.lora_A.weight"] = _half(lora, stem, 1)
    return LoraDict(tensors, about)


def save_lora(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file; it is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(suffix=".tmp", dir=path.parent)
    os.close(handle)
    try:
        save_file({k: v.contiguous() for k, v in tensors.items()}, temporary, dict(metadata))
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)


def file_stem(concept: str) -> str:
    """A file name for a concept: letters, digits, dashes."""
    return re.sub(r"[^a-z0-9]+", "-", concept.lower()).strip("-") or "concept"
