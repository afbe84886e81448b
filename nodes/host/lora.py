"""LoRA on the host's side: key names for a MODEL's layers, and applying one as the host does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import comfy.sd
import comfy.supported_models
import comfy.utils
from torch import Tensor

from ...darkminer.files.lora_check import check_numbers
from ...darkminer.files.lora_file import from_state_dict
from ...darkminer.model.adapter import AdapterState
from ...darkminer.model.layers import LAYERS, adapted_layers


def key_stems(unet_config: Mapping[str, Any], paths: Iterable[str]) -> dict[str, str]:
    """Module path -> key stem in a LoRA file.

    UNets get diffusers names (``lora_unet_down_blocks_0_...``), which every loader knows; a layer
    that has none gets its own path, which the host knows.
    """
    to_ldm = comfy.utils.unet_to_diffusers(dict(unet_config))
    to_diffusers = {v.removesuffix(".weight"): k.removesuffix(".weight") for k, v in to_ldm.items()}
    return {p: "lora_unet_" + to_diffusers.get(p, p).replace(".", "_") for p in paths}


def model_family(model_config: Any) -> str:
    """What LoRA metadata calls the family."""
    known = {"SD15": "sd_v1", "SD20": "sd_v2", "SDXL": "sdxl_base_v1-0"}
    name = type(model_config).__name__
    return known.get(name, name.lower())


def apply_lora(model: Any, lora: Mapping[str, Tensor], strength: float = 1.0) -> Any:
    """A clone of the MODEL with the LoRA on it, as the host's own loader does it.

    Raises:
        DarkMinerError: if its values are no finite numbers.
    """
    check_numbers(lora)
    return comfy.sd.load_lora_for_models(model, None, dict(lora), strength, 0)[0]


def names_of(model: Any) -> dict[str, str]:
    """Module path -> key stem of every layer of a MODEL that an erasure may adapt."""
    return names_at(model, adapted_layers(model.model.diffusion_model, "blocks"))


def names_at(model: Any, paths: Iterable[str]) -> dict[str, str]:
    """Module path -> key stem of some layers of a MODEL.

    For SDXL and its relatives the trainers' convention is the module paths, not diffusers names.
    """
    config = model.model.model_config
    sdxl = (comfy.supported_models.SDXL, comfy.supported_models.SDXLRefiner)
    return key_stems({} if isinstance(config, sdxl) else config.unet_config, paths)


def state_of(lora: Mapping[str, Tensor], model: Any) -> AdapterState:
    """The adapters of an erasure made from this MODEL, to continue them.

    Raises:
        DarkMinerError: if it is no sound LoRA, another model's, lacks layers, or mixes ranks.
    """
    network = model.model.diffusion_model
    choices = [adapted_layers(network, layers) for layers in LAYERS]
    return from_state_dict(lora, names_of(model), choices)
