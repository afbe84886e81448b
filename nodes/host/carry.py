"""What a MODEL holds besides its network: carried into a training session, or refused by name.

In training and in pictures:
    weight patches (LoRA, LoHa, DoRA, ...), in the copy's weights, see :mod:`.copy`;
    sampling, latent format and plain values set on the model, set on the copy;
    a compute precision: what the copy computes in (on a CPU always float32);
    patches of attention and blocks, an attention function, wrappers of the network, if gradients
    pass them, which :func:`~.patches.try_out` finds out.
In pictures:
    guidance functions, wrappers of sampler and guider: they act on guided predictions, and what is
    trained is none; attachments and additional models, for what reads them.
Refused:
    replaced layers and functions, injections (Load LoRA (Bypass)), functions on weights, hooks, a
    function around the network, wrappers of whole predictions (compiling, caches), context windows,
    callbacks of loading and sampling.
Left alone, since no prediction depends on them:
    callbacks of cloning and unloading, clones for further GPUs.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.patcher_extension
import comfy.utils
from comfy.patcher_extension import CallbacksMP, WrappersMP
from torch import nn

from ...darkminer.errors import DarkMinerError

_NETWORK = WrappersMP.DIFFUSION_MODEL
_OF_SAMPLING = {
    WrappersMP.OUTER_SAMPLE, WrappersMP.PREPARE_SAMPLING, WrappersMP.SAMPLER_SAMPLE,
    WrappersMP.PREDICT_NOISE,
}  # fmt: skip
_HARMLESS_CALLBACKS = {
    getattr(CallbacksMP, name, name)
    for name in (
        "ON_CLONE", "ON_DEEPCLONE_MULTIGPU", "ON_MATCH_MULTIGPU_CLONES", "ON_DETACH", "ON_CLEANUP"
    )
}  # fmt: skip
_OBJECTS = ("model_sampling", "latent_format")
_PRECISION = "manual_cast_dtype"
_OTHER_GPUS = "multigpu"
_IN_A_PROMPT = {
    "control": "a ControlNet",
    "gligen": "GLIGEN boxes",
    "hooks": "hooks (a hook LoRA or a schedule)",
    "additional_models": "models of its own",
    "area": "an area",
    "mask": "a mask",
    "start_percent": "a range of steps",
    "end_percent": "a range of steps",
    "default": "a default for other prompts' areas",
}
_BEFORE = "connect the MODEL from before the node that adds it"


def check_carried(patcher: Any, name: str = "MODEL") -> None:
    """Refuse what a copy of the network cannot be given.

    Args:
        patcher: the host's ModelPatcher of a MODEL or a CLIP.
        name: what the user calls it.

    Raises:
        DarkMinerError: names the thing and what to do.
    """
    for thing, remedy in _refused(patcher):
        remedy = remedy.replace("MODEL", name)
        raise DarkMinerError(f"This {name} carries {thing}, which training cannot: {remedy}.")


def _refused(patcher: Any) -> Iterator[tuple[str, str]]:
    for name in _of(patcher, "injections"):
        if "bypass" in str(name):
            yield "a LoRA in bypass mode", "load it by Load LoRA, without bypass"
        yield f"the injection {name!r}", _BEFORE
    for name, value in patcher.object_patches.items():
        if name not in (*_OBJECTS, _PRECISION) and not _plain_value(value):
            yield f"a replacement of {name!r}", _BEFORE
    options = patcher.model_options
    if options.get("model_function_wrapper") is not None:
        yield "a function wrapped around its network (model_function_wrapper)", _BEFORE
    if options.get("context_handler") is not None:
        yield "context windows", _BEFORE
    for kind, key in _wrapped(patcher):
        if kind != _NETWORK and kind not in _OF_SAMPLING:
            yield f"the {kind} wrapper {key!r}", _BEFORE
    for kind, keyed in _of(patcher, "callbacks").items():
        for key, functions in keyed.items():
            if functions and kind not in _HARMLESS_CALLBACKS:
                yield f"the {kind} callback {key!r}", _BEFORE
    if any(_of(patcher, "weight_wrapper_patches").values()):
        yield "functions on its weights (weight wrappers)", _BEFORE
    if any(_of(patcher, "hook_patches").values()) or getattr(patcher, "forced_hooks", None):
        yield "hook LoRAs", "load them by Load LoRA"


def _of(patcher: Any, name: str) -> dict[Any, Any]:
    """A dictionary of the patcher's, which an older host may not have."""
    return getattr(patcher, name, None) or {}


def _plain_value(value: Any) -> bool:
    return isinstance(value, (str, int, float, bool, type(None)))


def _wrapped(patcher: Any) -> Iterator[tuple[str, Any]]:
    """Kind and key of every wrapper, on the patcher and in its options."""
    inside = patcher.model_options.get("transformer_options", {}).get("wrappers", {})
    for wrappers in (_of(patcher, "wrappers"), inside):
        for kind, keyed in wrappers.items():
            yield from ((kind, key) for key, functions in keyed.items() if functions)


def check_prompt(conditioning: Any, field: str) -> None:
    """Refuse a CONDITIONING that holds more than a text and the numbers that go with it.

    Raises:
        DarkMinerError: names the thing, the input and what to do.
    """
    for _, extra in conditioning:
        for key, thing in _IN_A_PROMPT.items():
            if extra.get(key) is not None:
                raise DarkMinerError(
                    f"{field} carries {thing} ({key}), which training cannot: connect it straight "
                    "from the text encoder."
                )


def settle(patcher: Any, network: nn.Module) -> None:
    """Bring the network that a patcher shares with its clones back to what its loader made.

    A clone that is loaded may have replaced layers of it, or put functions before them, and those
    are not the patcher's own.

    Raises:
        DarkMinerError: if something stays on it even when no clone is loaded.
    """
    replaced = any(
        name not in _OBJECTS and not _plain_value(own)
        for name, own in patcher.object_patches_backup.items()
        if name != _PRECISION
    )
    if replaced or list(_touched(network)):
        comfy.model_management.unload_all_models()
    for path in _touched(network):
        raise DarkMinerError(
            f"Another node has left a function on the network, at {path!r}: reload the model "
            "(restart the server), and connect it from before that node."
        )


def _touched(network: nn.Module) -> Iterator[str]:
    """Paths of modules that carry somebody's hook or function."""
    for path, module in network.named_modules():
        forward = vars(module).get("forward")
        own = forward is None or (
            getattr(forward, "__self__", None) is module
            and getattr(forward, "__func__", None) is type(module).forward
        )
        if not own or module._forward_hooks or module._forward_pre_hooks:
            yield path


def carry(model: Any, patcher: Any) -> None:
    """Put on a training copy's patcher what the MODEL's has on its own.

    Args:
        patcher: around the copy that :func:`~.copy.training_copy` made.
    """
    patcher.model_options = comfy.model_patcher.create_model_options_clone(model.model_options)
    patcher.model_options.setdefault("transformer_options", {})
    copied = comfy.patcher_extension.copy_nested_dicts
    patcher.wrappers = copied(_of(model, "wrappers"))
    patcher.attachments = dict(_of(model, "attachments"))
    patcher.additional_models = {
        key: [each.clone() for each in models]
        for key, models in _of(model, "additional_models").items()
        if key != _OTHER_GPUS
    }


def set_objects(model: Any, base: Any) -> None:
    """Give a training copy the MODEL's own sampling, latent format and plain values.

    The host's module shows those of whichever clone is loaded.
    """
    for name, child in base._modules.items():
        if name != "diffusion_model" and isinstance(child, nn.Module):
            base._modules[name] = _own(child)  # the host notes on them what it has loaded
    names = {*_OBJECTS, *model.object_patches_backup, *model.object_patches} - {_PRECISION}
    for name in sorted(names):
        value = model.get_model_object(name)
        if isinstance(value, nn.Module):
            value = _own(value)
        comfy.utils.set_attr(base, name, value)


def _own(module: nn.Module) -> nn.Module:
    """A deep copy in tensors that are no inference tensors."""
    memo: dict[int, Any] = {id(t): t.detach().clone() for t in module.buffers()}
    for parameter in module.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach().clone(), requires_grad=False)
    return copy.deepcopy(module, memo)
