"""What a training was given, as the file's metadata has it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ...darkminer.files.lora_metadata import Origin
from ...darkminer.model.sampling import SamplingConfig
from ...darkminer.types import ImagePool, RetainSet

_SAMPLE = 256  # values that are looked at of each weight


def stage_origin(
    node: str,
    pool: ImagePool,
    *,
    anchor: Sequence[Any],
    negative: Sequence[Any] | None,
    sampling: SamplingConfig,
    bank: RetainSet | None,
    keep: Iterable[Tensor],
    lora: Any,
    exclude: Sequence[str] = (),
) -> Origin:
    """Of a node whose prompts come as CONDITIONING; of these only digests are known."""
    return Origin(
        node=node, concept=pool.concept, anchor=prompt_record(anchor),
        negative=prompt_record(negative), sampling=sampling, pool=pool_record(pool),
        exclude=tuple(exclude), keep=digests(keep), bank=None if bank is None else len(bank),
        before=getattr(lora, "metadata", {}),
    )  # fmt: skip


def prompt_record(conditioning: Sequence[Any] | None) -> dict[str, str] | None:
    """The digest of a CONDITIONING's contexts."""
    if conditioning is None:
        return None
    return {"context": digest(entry[0] for entry in conditioning)}


def pool_record(pool: ImagePool) -> dict[str, Any]:
    """Number, size, prompt, seed, model and digest of a pool's pictures."""
    _, height, width, _ = pool.images.shape
    return {
        "pictures": len(pool), "width": width, "height": height, "prompt": pool.prompt,
        "seed": pool.seed, "fingerprint": pool.fingerprint, "digest": digest([pool.images]),
    }  # fmt: skip


def encoder_record(clip_vision: Any, open_clip_model: str, open_clip_weights: str) -> dict:
    """The image encoder that a node's three inputs choose."""
    if clip_vision is None:
        return {"open_clip_model": open_clip_model, "open_clip_weights": open_clip_weights}
    weights = (weight.reshape(-1) for _, weight in sorted(clip_vision.model.state_dict().items()))
    return {"clip_vision": digest(w[:: max(1, w.numel() // _SAMPLE)].float() for w in weights)}


def digests(contexts: Iterable[Tensor]) -> tuple[str, ...]:
    """Of every context."""
    return tuple(digest([context]) for context in contexts)


def digest(tensors: Iterable[Tensor]) -> str:
    """Twelve hex digits of shapes and values."""
    found = hashlib.sha256()
    for tensor in tensors:
        plain = tensor.detach().cpu().contiguous()
        found.update(f"{tuple(plain.shape)}{plain.dtype}".encode())
        found.update(plain.reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()[:12]
