"""Copies of the host's networks in tensors that can take part in training."""

from __future__ import annotations

import copy
from typing import Any

import comfy.lora
import comfy.model_management
import comfy.model_patcher
import comfy.utils
import torch
from torch import Tensor, nn

from ...darkminer.errors import DarkMinerError
from .carry import set_objects

PREFIX = "diffusion_model."
# What the host's loaders keep on a network and its layers while a MODEL is loaded: how to cast,
# patch and fetch the original's weights, some of it memory that is freed with its owner.
_LOADER_NOTES = (
    "_pin_state", "_pins", "_prefetch", "_v", "_v_bias", "_v_signature", "_v_weight",
    "bias_function", "bias_lowvram_function", "comfy_cast_weights", "comfy_force_cast_weights",
    "comfy_patched_weights", "dynamic_patchers", "dynamic_pins", "dynamic_vbars",
    "prev_comfy_cast_weights", "weight_function", "weight_lowvram_function",
)  # fmt: skip


def training_copy(model: Any) -> Any:
    """The BaseModel around a deep copy of its diffusion network: plain, patched, frozen tensors."""
    dtype = compute_dtype(model)
    trained = plain_copy(model, model.model.diffusion_model, PREFIX, dtype)
    if hasattr(trained, "dtype"):
        trained.dtype = dtype
    _keep_inputs(trained)
    base = copy.copy(model.model)
    for name, own in vars(base).items():
        if isinstance(own, dict):  # of modules, buffers, hooks: the original keeps its own
            setattr(base, name, copy.copy(own))
    base.diffusion_model = trained
    set_objects(model, base)
    base.manual_cast_dtype = None
    # The host keeps its book of what is loaded on the module: the copy starts a new page.
    base.device = comfy.model_management.unet_offload_device()
    base.model_loaded_weight_memory = 0
    base.lowvram_patch_counter = 0
    base.model_lowvram = False
    base.current_weight_patches_uuid = None
    base.current_patcher = None
    return base


class WholePatcher(comfy.model_patcher.ModelPatcher):
    """Around a training copy: it is on the device that computes, all of it, or not at all.

    Layers that the host fetches only for their turn would lend autograd weights that the next
    layer's overwrite, and adapters are not among what it knows to fetch.
    """

    def partially_load(
        self, device_to: Any, extra_memory: float = 0, force_patch_weights: bool = False
    ) -> Any:
        return super().partially_load(device_to, 1e32, force_patch_weights)

    def partially_unload(
        self, device_to: Any, memory_to_free: float = 0, force_patch_weights: bool = False
    ) -> int:
        """Nothing is freed by parts: the host then takes the whole away."""
        return 0


def plain_copy(
    patcher: Any, network: nn.Module, prefix: str = "", dtype: torch.dtype | None = None
) -> Any:
    """A deep copy of a network: plain, patched, frozen tensors, on the CPU or the host's own store.

    Args:
        patcher: the host's ModelPatcher around it; whether it is loaded, and how, does not matter.
        network: the part of ``patcher.model`` to copy.
        prefix: the part's place there, as patches name it: "" or ending in a dot.
        dtype: of the copy; None keeps each weight's own.
    """
    memo: dict[int, Any] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        weight = plain(original_weight(patcher, prefix + name)).detach()
        own = weight.dtype
        weight = weight.to(comfy.model_management.unet_offload_device(), copy=True)
        patches = patcher.patches.get(prefix + name)
        if patches:
            if not weight.is_floating_point():
                raise DarkMinerError(
                    f"The weights at {prefix + name} are packed ({_kind(parameter)}) and a LoRA in "
                    "front cannot be added to a copy of them: take the LoRA out (Load LoRA), or "
                    "load the model in fp16 or fp8."
                )
            weight = comfy.lora.calculate_weight(patches, weight.float(), prefix + name)
        if weight.is_floating_point():
            weight = weight.to(dtype or own)
        memo[id(parameter)] = nn.Parameter(weight.clone(), requires_grad=False)
    for buffer in network.buffers():
        memo[id(buffer)] = buffer.detach().clone()
    for module in network.modules():
        notes = (vars(module).get(name) for name in _LOADER_NOTES)
        memo |= {id(note): note for note in notes if note is not None}
    copied = copy.deepcopy(network, memo)
    for module in copied.modules():
        for name in _LOADER_NOTES:
            vars(module).pop(name, None)
    return copied


def _keep_inputs(network: nn.Module) -> None:
    """Let modulated norms read a copy of their input.

    Transformer blocks add to the stream in place, which autograd refuses where a norm still needs
    the stream for its gradient. Norms with weights of their own sit in networks that do not.
    """

    def copied(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0].clone(), *args[1:])

    for module in network.modules():
        if isinstance(module, nn.LayerNorm) and not module.elementwise_affine:
            module.register_forward_pre_hook(copied)


def _kind(weight: Tensor) -> str:
    kinds = (type(weight).__name__, str(weight.dtype).removeprefix("torch."))
    return " ".join(kinds)


def original_weight(model: Any, key: str) -> Tensor:
    """A weight without any patch, also while some clone of the MODEL is loaded with its patches."""
    if key in getattr(model, "hook_backup", ()):
        return model.hook_backup[key][0]
    if key in model.backup:
        return model.backup[key].weight
    return comfy.utils.get_attr(model.model, key)


def plain(weight: Any) -> Tensor:
    """A weight as plain numbers; the host keeps some files' weights quantised, with a scale."""
    return weight.dequantize() if hasattr(weight, "_layout_cls") else weight


def compute_dtype(model: Any) -> torch.dtype:
    """What a session computes in: float32 on a CPU, elsewhere what the host infers in."""
    if comfy.model_management.is_device_cpu(model.load_device):
        return torch.float32
    dtype = model.get_model_object("manual_cast_dtype") or model.model.get_dtype()
    return dtype if dtype in (torch.float16, torch.bfloat16) else torch.float32
