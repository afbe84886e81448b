"""The fleet's door to the host: its detection, its loaders, its way to save a checkpoint."""

from __future__ import annotations

import copy
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_detection
import folder_paths
import torch
from comfy_extras.nodes_model_merging import CheckpointSave
from torch import nn

import nodes as host_nodes

from ..darkminer.errors import DarkMinerError
from ..darkminer.model.layers import adapted_layers
from ..nodes.demo_models import DarkMinerDemoModels
from .places import header
from .row import GALLERY

_HALF = {"F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64, "I64": torch.int64,
         "I32": torch.int32, "U8": torch.uint8, "I8": torch.int8}  # fmt: skip
_TEXT = ("cond_stage_model.", "conditioner.", "text_encoders.")
_VAE = ("first_stage_model.", "vae.")
_MEASURED = 0.2  # seconds of multiplying, by which a machine's speed is told
_REACHED = 0.5  # share of that speed which a network reaches, at a guess


@dataclass(frozen=True)
class Family:
    """What a checkpoint's header tells.

    Attributes:
        name: the host's name of it.
        network: its network without any weights, on the device "meta".
        side: of the pictures that it was made for, in pixels.
        latent: channels of a latent, and pixels that one of its numbers stands for.
        width: of the text context; 0 where the header does not say.
        size: of the file, in bytes.
        wide: of the pooled vector, 0 where there is none.
    """

    name: str
    network: nn.Module
    side: int
    latent: tuple[int, int]
    width: int
    size: int
    wide: int = 0


def family(place: str) -> Family:
    """The family of a checkpoint, found by the host's own detection from the header alone.

    Raises:
        DarkMinerError: if the file cannot be read, is of no family that can be erased from, or
            lacks a text encoder or a VAE.
    """
    if place == GALLERY:
        model = DarkMinerDemoModels.execute().args[0]
        network = copy.deepcopy(model.model.diffusion_model).to("meta")  # only its shape counts
        return Family("gallery", network, 32, (8, 4), 128, 0)
    if place.endswith((".ckpt", ".pt", ".pth", ".bin")):
        raise DarkMinerError(f"{place} is a pickle, which can run code: convert it to safetensors.")
    tensors, size = header(place)
    weights = {
        k: torch.empty(shape, dtype=_HALF.get(kind, torch.float32), device="meta")
        for k, (kind, shape) in tensors.items()
    }
    config, network = _detected(weights, place)
    for what, prefixes in (("text encoder", _TEXT), ("VAE", _VAE)):
        if not any(name.startswith(prefixes) for name in weights):
            raise DarkMinerError(
                f"{place} holds no {what}: name a whole checkpoint, network, text encoders and VAE "
                "in one file."
            )
    known = config.unet_config
    wide = int(known.get("adm_in_channels") or 0)
    latent = config.latent_format
    return Family(
        type(config).__name__, network, 1024 if wide >= 2048 else 512,
        (latent.latent_channels, getattr(latent, "spacial_downscale_ratio", 8)),
        int(known.get("context_dim") or 0), size, wide,
    )  # fmt: skip


def _detected(weights: dict[str, torch.Tensor], place: str) -> tuple[Any, nn.Module]:
    prefix = comfy.model_detection.unet_prefix_from_state_dict(weights)
    try:
        config = comfy.model_detection.model_config_from_unet(weights, prefix)
        if config is None:
            raise ValueError("none that it knows")
        config.set_inference_dtype(torch.float32, None)
        network = config.get_model(weights, prefix, device="meta").diffusion_model
        if not adapted_layers(network, "values"):
            raise ValueError("one without value projections")
    except Exception as error:  # the host's detection fails in many ways on what it does not know
        said = " ".join(str(error).split())
        raise DarkMinerError(
            f"{place} is of an unknown family (the host finds {said}): name a checkpoint of one "
            "that docs/models.md lists."
        ) from error
    return config, network


def load(place: str, clip_vision: str) -> tuple[Any, Any, Any, Any]:
    """MODEL, CLIP, VAE and CLIP_VISION, by the host's own loaders.

    Args:
        place: the checkpoint's file, or :data:`~.row.GALLERY`.
        clip_vision: a file; empty: none, but for the gallery's own.
    """
    vision = None
    if clip_vision:
        vision = host_nodes.CLIPVisionLoader().load_clip(_listed("clip_vision", clip_vision))[0]
    if place == GALLERY:
        model, clip, vae, own = DarkMinerDemoModels.execute().args
        return model, clip, vae, vision or own
    name = _listed("checkpoints", place)
    model, clip, vae = host_nodes.CheckpointLoaderSimple().load_checkpoint(name)[:3]
    return model, clip, vae, vision


def _listed(kind: str, place: str) -> str:
    """A file's name for the host's loaders, with its folder first among those of the kind."""
    folder, name = os.path.split(os.path.abspath(place))
    folder_paths.add_model_folder_path(kind, folder, is_default=True)
    return name


def use_output(folder: Path) -> None:
    """Let the host write below a folder."""
    folder_paths.set_output_directory(str(folder))


def save_baked(models: tuple[Any, Any, Any], lora: Path, target: Path) -> None:
    """Save a checkpoint with an erasure merged into it, by the nodes of the template.

    Args:
        models: MODEL, CLIP and VAE; lora: the erasure's file; target: the file that is written.
    """
    model, clip, vae = models
    name = _listed("loras", str(lora))
    erased = host_nodes.LoraLoaderModelOnly().load_lora_model_only(model, name, 1.0)[0]
    use_output(target.parent)
    for left in target.parent.glob(f".{target.stem}-*.safetensors"):  # by a save that was killed
        left.unlink()
    prefix = f".{target.stem}-{os.getpid()}"
    CheckpointSave().save(erased, clip, vae, prefix)
    (part,) = target.parent.glob(f"{prefix}_*_.safetensors")
    os.replace(part, target)


def seconds_per_row(found: Family, width: int, height: int) -> float | None:
    """What a row through a network takes on this machine, at a guess: its multiplications are
    counted without any weights, and a large product is timed. None where that cannot be done.
    """
    from torch.utils.flop_counter import FlopCounterMode

    channels, scale = found.latent
    network, device = found.network, "meta"
    x = torch.zeros(1, channels, height // scale, width // scale, device=device)
    given: dict[str, Any] = {"transformer_options": {"optimized_attention_override": _attention}}
    if found.wide:
        given["y"] = torch.zeros(1, found.wide, device=device)
    try:
        with FlopCounterMode(display=False) as counted, torch.no_grad():
            network(
                x, torch.zeros(1, device=device),
                context=torch.zeros(1, 77, found.width, device=device), **given,
            )  # fmt: skip
    except Exception:  # a family may want more than this: then nothing is said of time
        return None
    return counted.get_total_flops() / (_speed() * _REACHED)


def _attention(_: Any, q: Any, k: Any, v: Any, heads: int, *rest: Any, **more: Any) -> Any:
    """The plain attention: the host's own asks for free memory, of which "meta" has none."""
    from comfy.ldm.modules.attention import attention_pytorch

    return attention_pytorch(q, k, v, heads, *rest, **more)


def _speed() -> float:
    """Multiplications and additions a second."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    one = torch.ones(1024, 1024, device=device)
    float((one @ one)[0, 0])
    begun, times = time.perf_counter(), 0
    while time.perf_counter() - begun < _MEASURED:
        float((one @ one)[0, 0])
        times += 1
    return times * 2 * 1024**3 / (time.perf_counter() - begun)
