"""What names a MODEL: its weights, what is on them, and the kind of its latents."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from .copy import PREFIX, original_weight, plain

_SAMPLE = 256  # values that are looked at of each tensor


def fingerprint(model: Any) -> str:
    """Twelve hex digits that name the MODEL's weights (names, shapes, a sample of values).

    Where LoRAs or other patches are on the weights, a plus sign and twelve more name those: the
    first part stays what it is without them.
    """
    digest = hashlib.sha256()
    for name, _ in sorted(model.model.diffusion_model.named_parameters()):
        weight = plain(original_weight(model, PREFIX + name)).detach()
        digest.update(f"{name}{tuple(weight.shape)}".encode() + _sampled(weight))
    base = digest.hexdigest()[:12]
    patches = {k: v for k, v in sorted(model.patches.items()) if k.startswith(PREFIX) and v}
    if not patches:
        return base
    digest = hashlib.sha256()
    for part in _parts(patches):
        digest.update(part)
    return f"{base}+{digest.hexdigest()[:12]}"


def latent_format(model: Any) -> str:
    """The host's name of the MODEL's latents."""
    return type(model.get_model_object("latent_format")).__name__


def _sampled(tensor: Tensor) -> bytes:
    flat = tensor.detach().reshape(-1)
    some = flat[:: max(1, flat.numel() // _SAMPLE)]
    return some.float().cpu().contiguous().numpy().tobytes()


def _parts(value: Any) -> Iterator[bytes]:
    """What a patch consists of, in bytes that are the same in every process."""
    if isinstance(value, Tensor):
        yield str(tuple(value.shape)).encode() + _sampled(plain(value))
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _parts((key, inner))
    elif isinstance(value, (list, tuple)):
        yield b"("
        for inner in value:
            yield from _parts(inner)
    elif isinstance(value, (str, int, float, bool, type(None), torch.dtype)):
        yield repr(value).encode()
    else:  # the host's adapter classes keep what they were loaded from; of a function the name
        yield getattr(value, "__qualname__", type(value).__qualname__).encode()
        yield from _parts(getattr(value, "weights", None))
