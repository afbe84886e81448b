"""Gradients inside the host: what has to be otherwise while a session trains, and is put back."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import comfy.model_management
import torch

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


@contextmanager
def training_mode() -> Iterator[None]:
    """Gradients allowed and the host's fused kernels off; both as before afterwards."""
    before = comfy.model_management.in_training
    with torch.inference_mode(False), torch.enable_grad(), _plain_kernels():
        comfy.model_management.in_training = True
        try:
            yield
        finally:
            comfy.model_management.in_training = before


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
