"""What the shapes of values must be, for values that come from files.

A stage makes its values right and never asks; a file may hold anything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ..model.adapter import AdapterState
from ..standing import StageState
from ..types import EmbeddingPool, ImagePool, MinedEmbedding, RetainSet, RoundRecord, Verdict

Faults = Iterator[str]


def fault(value: Any) -> str:
    """What is wrong with a value's shapes, in words, or ""."""
    check = _CHECKS.get(type(value))
    return next(check(value), "") if check is not None else ""


def _shaped(name: str, x: Tensor | None, dtype: torch.dtype, *shape: int | None) -> Faults:
    """``shape`` has None where a length is free."""
    if x is None:
        return
    fits = x.ndim == len(shape) and all(
        want in (None, have) for want, have in zip(shape, x.shape, strict=True)
    )
    if x.dtype != dtype or not fits:
        wanted = ["any" if length is None else length for length in shape]
        yield f"its {name} are {list(x.shape)} of {x.dtype}, not {wanted} of {dtype}"


def _counted(name: str, *numbers: int) -> Faults:
    if any(number < 0 for number in numbers):
        yield f"its {name} is negative"


def _pool(pool: ImagePool) -> Faults:
    yield from _shaped("latents", pool.latents, torch.float32, None, None, None, None)
    yield from _shaped("images", pool.images, torch.uint8, len(pool.latents), None, None, 3)


def _embedding(one: MinedEmbedding) -> Faults:
    yield from _shaped("context", one.context, torch.float32, None, None)
    width = one.context.shape[-1]
    yield from _shaped("anchor", one.anchor, torch.float32, None, width)
    yield from _shaped("latents", one.latents, torch.float32, None, None, None, None)
    yield from _counted("round or an index", one.round, *one.indices)
    if not one.context.numel() or (one.latents is not None and not len(one.latents)):
        yield "its context or its latents are empty"


def _embeddings(pool: EmbeddingPool) -> Faults:
    yield from _counted("round", pool.round)


def _record(record: RoundRecord) -> Faults:
    yield from _counted("round", record.round)


def _retain(retain: RetainSet) -> Faults:
    count = len(retain.contexts)
    for context in retain.contexts:
        yield from _shaped("contexts", context, torch.float32, None, None)
    yield from _shaped("latents", retain.latents, torch.float32, count, None, None, None, None)
    if len(retain.prompts) != count:
        yield f"it has {count} contexts and {len(retain.prompts)} prompts"
    if not all(context.numel() for context in retain.contexts):
        yield "a context is empty"


def _adapters(state: AdapterState) -> Faults:
    if state.rank < 1 or not (math.isfinite(state.alpha) and state.alpha > 0):
        yield f"rank {state.rank} and alpha {state.alpha:g} are none"
    if state.up.keys() != state.down.keys():
        yield "its halves are of different layers"
    for up, down in zip(state.up.values(), state.down.values(), strict=True):
        yield from _shaped("ups", up, torch.float32, None, state.rank)
        yield from _shaped("downs", down, torch.float32, state.rank, None)


def _verdict(verdict: Verdict) -> Faults:
    if not verdict.scores:
        yield "it has no score"
    for name, images in (("target", verdict.target), ("reference", verdict.reference)):
        yield from _shaped(name, images, torch.float32, None, None, None, 3)


def _stage(stage: StageState) -> Faults:
    yield from _counted("round or step", stage.round, stage.step)


_CHECKS: Mapping[type, Callable[[Any], Faults]] = {
    ImagePool: _pool,
    MinedEmbedding: _embedding,
    EmbeddingPool: _embeddings,
    RoundRecord: _record,
    RetainSet: _retain,
    AdapterState: _adapters,
    Verdict: _verdict,
    StageState: _stage,
}
