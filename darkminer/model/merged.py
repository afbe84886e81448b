"""Adapters that do not move, added to the weights for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
from torch import nn

from ..libraries import library
from .adapter import put
from .interface import DiffusionModel

P = ParamSpec("P")
R = TypeVar("R")


def with_merged_adapters(
    stage: Callable[Concatenate[DiffusionModel, P], R],
) -> Callable[Concatenate[DiffusionModel, P], R]:
    """A stage that trains no adapter, run inside :func:`merged`."""

    @wraps(stage)
    def run(model: DiffusionModel, *args: P.args, **kwargs: P.kwargs) -> R:
        with merged(model.network):
            return stage(model, *args, **kwargs)

    return run


@contextmanager
def merged(network: nn.Module) -> Iterator[int]:
    """Inside, the network runs without adapter layers: what they add is in the weights.

    Saves every adapter's passes and its gradients where only something else is trained. Adapters
    that are switched off or only on some rows, and weights in less than float32 (small changes
    would be rounded away), are left as they are; no adapter gets a gradient either way. Afterwards
    weights, adapters and their gradients' flags are what they were, bit for bit, also after an
    error. Yields the number of layers that were merged.
    """
    kinds = library("peft.tuners.lora")
    adapters = {n: m for n, m in network.named_modules() if isinstance(m, kinds.LoraLayer)}
    parameters = [p for layer in adapters.values() for p in _trained(layer)]
    layers = {n: m for n, m in adapters.items() if type(m) is kinds.Linear and _fits(m)}
    weights = {n: _base(layer).weight.data for n, layer in layers.items()}
    try:
        for p in parameters:
            p.requires_grad_(False)
        for name, layer in layers.items():
            _merge(network, name, layer)
        yield len(layers)
    finally:
        for name, layer in layers.items():
            place = _base(layer).weight.device  # the host may have moved the network meanwhile
            _base(layer).weight.data = weights[name].to(place)
            put(network, name, layer.to(place))
        for p in parameters:
            p.requires_grad_(True)


def _trained(layer: nn.Module) -> list[nn.Parameter]:
    return [p for n, p in layer.named_parameters() if "lora_" in n and p.requires_grad]


def _base(layer: Any) -> Any:
    return layer.get_base_layer()


def _fits(layer: Any) -> bool:
    base = _base(layer)
    return (
        not layer.disable_adapters
        and not layer.merged
        and isinstance(base, nn.Linear)
        and base.weight.dtype == torch.float32
        # Fused layers have an up-projection of their own kind, on the value rows alone.
        and all(isinstance(layer.lora_B[a], nn.Linear) for a in layer.active_adapters)
    )


@torch.no_grad()
def _merge(network: nn.Module, name: str, layer: Any) -> None:
    base = _base(layer)
    for adapter in layer.active_adapters:
        base.weight.data = base.weight.data + layer.get_delta_weight(adapter)
    put(network, name, base)
