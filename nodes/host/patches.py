"""Patches of a MODEL's attention and blocks, and wrappers of its network, where gradients pass.

They were written for inference: their tensors are inference tensors, they write to what they have
just read. In passes with gradients each is called in a guard that makes up for that; in passes
without, as the host calls it. Whether a guarded pass still says what the plain one says, and has a
gradient, is tried out before a session begins.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import comfy.patcher_extension
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from ...darkminer.errors import DarkMinerError
from ...darkminer.model.interface import DiffusionModel
from ...darkminer.model.memory import out_of_memory
from ...darkminer.model.schedule import Schedule
from ...darkminer.rng import generator, normal

_ATTENTION = "optimized_attention_override"
_PATCHES = ("patches", "patches_replace")
_NETWORK = WrappersMP.DIFFUSION_MODEL
_NEAR = 0.02  # share of its size by which a guarded answer may differ, for rounding in 16 bits
_SAME = 1e-3  # and by which two answers to the same question may


class _Guard(TorchFunctionMode):
    """Inside, gradients pass what was written for inference.

    Inference tensors go into operators as copies, other modules' parameters without their gradient,
    and a slice is a copy, so that writing to where it came from leaves it as the gradient needs it.

    Args:
        trained: ids of the parameters that a session trains.
    """

    def __init__(self, trained: set[int]):
        super().__init__()
        self._trained = trained

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = tree_map(self._own, (args, kwargs or {}))
        answer = func(*args, **kwargs)
        if func is Tensor.__getitem__ and answer.requires_grad:
            return answer.clone()
        return answer

    def _own(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if value.is_inference():
            return value.detach().clone()
        if isinstance(value, nn.Parameter) and id(value) not in self._trained:
            return value.detach()
        return value


class NetworkOptions:
    """What a session's own passes hand to the network besides its inputs.

    Args:
        patcher: around the training copy, with what the MODEL carries on it.
        levels: the MODEL's noise levels.
        attention: what computes attention where the MODEL names nothing.
    """

    def __init__(self, patcher: Any, levels: Schedule, attention: Callable[..., Any]):
        self._patcher = patcher
        self._options = patcher.model_options["transformer_options"]
        self._theirs = self._options.get(_ATTENTION)
        self._options.setdefault(_ATTENTION, attention)
        self._times = levels.timesteps
        self._sigmas = levels.noise if levels.prediction == "flow" else levels.noise / levels.signal
        #: What else than plain values there is, by the names the host has for it.
        self.carried: list[str] = [k for kind in _PATCHES for k in self._options.get(kind, {})]
        self.carried += [str(key) for key in self._wrappers()]
        self.carried += [_ATTENTION] * (self._theirs is not None)

    def _wrappers(self) -> dict[Any, list[Any]]:
        inside = self._options.get("wrappers", {})
        both = comfy.patcher_extension.merge_nested_dicts(
            comfy.patcher_extension.copy_nested_dicts(inside),
            getattr(self._patcher, "wrappers", {}),
        )
        return both.get(_NETWORK, {})

    def __call__(self, timestep: Tensor) -> dict[str, Any]:
        """The options of one pass at ``timestep`` ``[B]``."""
        plain = {k: v for k, v in self._options.items() if k not in (*_PATCHES, "wrappers")}
        if not self.carried:
            return plain
        theirs = {k: self._options[k] for k in _PATCHES if k in self._options}
        theirs = comfy.patcher_extension.copy_nested_dicts(theirs)
        wrappers = self._wrappers()
        if torch.is_grad_enabled():
            network = self._patcher.model.diffusion_model
            trained = {id(p) for p in network.parameters() if p.requires_grad}
            theirs = _each(theirs, lambda f: _guarded(f, trained))
            wrappers = _each(wrappers, _with_gradient)
            if self._theirs is not None:
                plain[_ATTENTION] = _with_gradient(self._theirs)
        # As the host's sampler tells them: where the pass is, and that it is the prompt's.
        about = {"sigmas": self._sigma(timestep), "cond_or_uncond": [0], "uuids": [uuid.uuid4()]}
        return {**plain, **theirs, **about, "wrappers": {_NETWORK: wrappers}}

    def _sigma(self, timestep: Tensor) -> Tensor:
        distance = self._times[None] - timestep.detach().float().cpu()[:, None]
        return self._sigmas[distance.abs().argmin(dim=1)].to(timestep.device)


def _each(value: Any, change: Callable[[Any], Any]) -> Any:
    """The same containers with every function in them changed."""
    if isinstance(value, dict):
        return {k: _each(v, change) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_each(v, change) for v in value)
    return change(value) if callable(value) and not isinstance(value, type) else value


def _guarded(function: Callable[..., Any], trained: set[int]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        with _Guard(trained):
            return function(*args, **kwargs)

    return _with_gradient(call)


def _with_gradient(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, refused where it answers without the gradient it was asked with."""

    def call(*args: Any, **kwargs: Any) -> Any:
        answer = function(*args, **kwargs)
        said = list(_numbers(answer))
        if (
            said
            and torch.is_grad_enabled()
            and any(t.requires_grad for t in _numbers((args, kwargs)))
        ):
            if not any(t.requires_grad for t in said):
                raise RuntimeError("it answers without a gradient")
        return answer

    return call


def _numbers(value: Any) -> Iterator[Tensor]:
    for leaf in tree_leaves(value):
        if isinstance(leaf, Tensor) and leaf.is_floating_point():
            yield leaf


def try_out(model: DiffusionModel, options: NetworkOptions, context: Tensor) -> None:
    """One pass on one sample with gradients and one without, where the MODEL carries something.

    Args:
        context: a prompt's, ``[1, L, D]``.

    Raises:
        DarkMinerError: if what it carries lets no gradient pass, or answers otherwise each time.
    """
    if not options.carried:
        return
    x = normal((1, *model.latent_shape), generator(0, 0, "try out"), context.to(model.device))
    middle = torch.tensor([len(model.schedule) // 2])
    timestep = model.schedule.timestep(middle, x)
    context = context.detach().to(model.device).clone().requires_grad_(True)

    def passed() -> Tensor:
        said = model.denoise(x, timestep, context)
        torch.autograd.grad(said.square().sum(), context)
        return said.detach()

    try:
        with torch.no_grad():
            plain, again = (model.denoise(x, timestep, context) for _ in range(2))
        said = model.memory.attempt(passed)
    except Exception as error:  # a patch is anybody's code
        if out_of_memory(error) or isinstance(error, DarkMinerError):
            raise
        raise _untrainable(options, f"cannot be trained through ({error})") from error
    if _off(plain, again) > _SAME:
        raise _untrainable(options, "answers otherwise each time it is asked")
    if _off(plain, said) > _NEAR:
        raise _untrainable(options, "answers otherwise where gradients are asked for")


def _off(plain: Tensor, other: Tensor) -> float:
    return float((other - plain).norm() / plain.norm().clamp_min(1e-12))


def _untrainable(options: NetworkOptions, what: str) -> DarkMinerError:
    return DarkMinerError(
        f"What is on this MODEL ({', '.join(options.carried)}) {what}: connect the MODEL from "
        "before the node that adds it."
    )
