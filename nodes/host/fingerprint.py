"""What names a MODEL: its weights, what is on them, and the kind of its latents."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .copy import PREFIX, original_weight, plain

_SAMPLE = 256  # values that are looked at of each tensor
_DEPTH = 24  # how deep objects on a MODEL are looked into


def fingerprint(model: Any) -> str:
    """Twelve hex digits that name the MODEL's weights (names, shapes, a sample of values).

    Where LoRAs or other patches are on the weights, a plus sign and twelve more name those: the
    first part stays what it is without them.
    """
    return _of_weights(model, model.model.diffusion_model, PREFIX)


def text_fingerprint(clip: Any) -> str:
    """The same of a CLIP, and the layer that it is asked for."""
    return f"{_of_weights(clip.patcher, clip.patcher.model)} layer {clip.layer_idx}"


def vae_fingerprint(vae: Any) -> str:
    """The same of a VAE; the name of its kind, where another pack's has no weights to look at."""
    patcher = getattr(vae, "patcher", None)
    return type(vae).__qualname__ if patcher is None else _of_weights(patcher, patcher.model)


def options_fingerprint(model: Any) -> str:
    """Names what else is on a MODEL: options, wrappers and replaced objects; empty for nothing.

    Of a function count its name, its defaults and what it has closed over, of an object its kind
    and its values.
    """
    on = [{k: v for k, v in model.model_options.items() if v}, model.object_patches]
    if not any(on):
        return ""
    digest = hashlib.sha256()
    for part in _told(on, _DEPTH, {}):
        digest.update(part)
    return digest.hexdigest()[:12]


def _of_weights(patcher: Any, network: nn.Module, prefix: str = "") -> str:
    """Of the weights of a part of ``patcher.model``, and of what is patched onto them."""
    digest = hashlib.sha256()
    for name, _ in sorted(network.named_parameters()):
        weight = plain(original_weight(patcher, prefix + name)).detach()
        digest.update(f"{name}{tuple(weight.shape)}".encode() + _sampled(weight))
    base = digest.hexdigest()[:12]
    patches = {k: v for k, v in sorted(patcher.patches.items()) if k.startswith(prefix) and v}
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


def _told(value: Any, depth: int, seen: dict[int, Any]) -> Iterator[bytes]:
    """What an object on a MODEL consists of, in bytes that are the same in every process.

    Args:
        seen: objects by their ids, held so that no other one gets an id of theirs.
    """
    if isinstance(value, (Tensor, str, int, float, bool, type(None), torch.dtype)):
        yield from _parts(value)
        return
    kinds = " ".join(kind.__qualname__ for kind in type(value).__mro__)
    yield getattr(value, "__qualname__", kinds).encode()
    if depth == 0 or id(value) in seen:
        return
    seen[id(value)] = value
    if isinstance(value, nn.Module):
        inner: Any = value.state_dict()
    elif callable(value) and hasattr(value, "__code__"):
        inner = (value.__defaults__, [c.cell_contents for c in value.__closure__ or ()])
    elif hasattr(value, "__func__"):
        inner = (value.__func__, value.__self__)
    else:
        inner = value if isinstance(value, (dict, list, tuple)) else getattr(value, "__dict__", ())
    for one in inner.items() if isinstance(inner, dict) else inner:
        for part in one if isinstance(one, tuple) else (one,):
            yield from _told(part, depth - 1, seen)
