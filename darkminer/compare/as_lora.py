"""Edited weights as a LoRA: exact where its rank allows, else the nearest, and how near that is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import DarkMinerError
from ..model.adapter import AdapterState

EXACT = 1e-6
"""Relative error below which a LoRA counts as the edit itself, in float32."""


@dataclass(frozen=True)
class Fitted:
    """A LoRA made of edits.

    Attributes:
        state: the LoRA, alpha as large as its rank.
        error: ``|sum of what is missing| / |edit|`` in Frobenius norms over all layers.
        worst: the same of the layer where it is largest.
        needed: the rank that would make it exact.
    """

    state: AdapterState
    error: float
    worst: float
    needed: int

    @property
    def words(self) -> str:
        """What is to be told of it."""
        if self.error < EXACT:
            return f"rank {self.state.rank} holds the edit exactly"
        return (
            f"rank {self.state.rank} holds the edit but for {self.error:.1%} (worst layer "
            f"{self.worst:.1%}); rank {self.needed} would hold it all"
        )


def fitted(edits: Mapping[str, Tensor], rank: int) -> Fitted:
    """The LoRA of a rank nearest to some weights' changes (Eckart and Young, 1936: by SVD).

    Args:
        edits: module path -> what its weight changes by, ``[out, in]``.
        rank: at most; less where every edit has less.

    Raises:
        DarkMinerError: if there is no edit, or none changes anything.
    """
    parts = {path: _parts(edit) for path, edit in edits.items()}
    needed = max((len(s) for _, s, _ in parts.values()), default=0)
    if not needed:
        raise DarkMinerError(
            "The edit changes no weight, so that there is nothing to make a LoRA of: check that "
            "the concept's prompt and the anchor prompt differ."
        )
    rank = min(rank, needed)
    up, down = {}, {}
    missing, whole, worst = 0.0, 0.0, 0.0
    for path, (u, s, v) in parts.items():
        root = s[:rank].sqrt()
        up[path] = _padded((u[:, :rank] * root).float(), rank)
        down[path] = _padded((v[:rank] * root[:, None]).float().mT, rank).mT.contiguous()
        lost, size = float(s[rank:].square().sum()), float(s.square().sum())
        missing, whole = missing + lost, whole + size
        worst = max(worst, (lost / size) ** 0.5 if size else 0.0)
    state = AdapterState(rank, float(rank), up, down)
    return Fitted(state, (missing / whole) ** 0.5, worst, needed)


def _parts(edit: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Singular vectors and values that are more than rounding."""
    u, s, v = torch.linalg.svd(edit.detach().double().cpu(), full_matrices=False)
    real = int((s > 1e-9 * s[:1].clamp(min=1e-30)).sum()) if float(s[:1].sum()) > 0 else 0
    return u[:, :real], s[:real], v[:real]


def _padded(columns: Tensor, rank: int) -> Tensor:
    return torch.nn.functional.pad(columns, (0, rank - columns.shape[1]))
