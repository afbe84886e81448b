"""Gradients inside the host: what has to be otherwise while a session trains, and is put back."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import comfy.model_management
import comfy.ops
import torch
import torch.utils.deterministic as _settings
from torch import Tensor
from torch.nn.attention import SDPBackend

# Kernels that some families call also while training; they know no gradient. Which ones there are,
# and who calls which, differs from host to host.
_FUSED = (
    "apply_rope",
    "apply_rope1",
    "apply_rope_split_half",
    "apply_rope_split_half1",
    "rms_rope",
    "rms_rope1",
    "rms_rope_split_half",
    "rms_rope_split_half1",
)
_RESHAPES = 8  # steps at the most between fused attention and its answer


@contextmanager
def training_mode() -> Iterator[None]:
    """Gradients allowed, the host's fused kernels off, and on a GPU sums in a fixed order; all as
    before afterwards.
    """
    before = comfy.model_management.in_training
    with torch.inference_mode(False), torch.enable_grad(), _plain_kernels(), _repeatable():
        comfy.model_management.in_training = True
        try:
            yield
        finally:
            comfy.model_management.in_training = before


@contextmanager
def _repeatable() -> Iterator[None]:
    """The same numbers from the same seed, bit for bit: on a GPU that has to be asked for."""
    if not torch.cuda.is_available():
        yield
        return
    strict = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn, fills = torch.backends.cudnn, _settings.fill_uninitialized_memory
    convolutions, timed = cudnn.deterministic, cudnn.benchmark
    backends: list[Any] = getattr(comfy.ops, "SDPA_BACKEND_PRIORITY", [])
    attention = list(backends)
    try:
        # No more than a warning: what has no such version runs as it is.
        torch.use_deterministic_algorithms(True, warn_only=True)
        _settings.fill_uninitialized_memory = False
        cudnn.deterministic, cudnn.benchmark = True, False
        backends[:] = [b for b in attention if b != SDPBackend.CUDNN_ATTENTION]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*[Dd]eterministic")
            yield
    finally:
        torch.use_deterministic_algorithms(strict, warn_only=warns)
        _settings.fill_uninitialized_memory = fills
        cudnn.deterministic, cudnn.benchmark = convolutions, timed
        backends[:] = attention


def repeatable_backward(answer: Tensor, operator: str) -> None:
    """Have an operator before ``answer`` sum its gradients in a fixed order.

    Fused attention does so only where no mere warning was asked for, and there many another
    operator refuses to run at all; so it is asked for while this one's gradients are computed.

    Args:
        answer: made by the operator, with nothing but reshaping in between.
        operator: how the operator's name in the graph begins.
    """
    node = answer.grad_fn
    for _ in range(_RESHAPES):
        if node is None or node.name().startswith(operator):
            break
        node = node.next_functions[0][0] if node.next_functions else None
    if node is not None and node.name().startswith(operator):
        node.register_prehook(lambda _: _strict(True))
        node.register_hook(lambda *_: _strict(False))


def _strict(on: bool) -> None:
    torch.use_deterministic_algorithms(True, warn_only=not on)


@contextmanager
def _plain_kernels() -> Iterator[None]:
    """The kernel library's own plain versions, which autograd can pass, instead of its fused ones.

    A host without the library has none of these kernels either.
    """
    try:
        kernels: Any = importlib.import_module("comfy_kitchen")
        plain: Any = importlib.import_module("comfy_kitchen.backends.eager.rope")
    except ImportError:
        yield
        return
    names = [n for n in _FUSED if hasattr(kernels, n) and hasattr(plain, n)]
    before = {n: getattr(kernels, n) for n in names}
    try:
        for name in names:
            setattr(kernels, name, getattr(plain, name))
        yield
    finally:
        for name, kernel in before.items():
            setattr(kernels, name, kernel)
