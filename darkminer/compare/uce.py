"""UCE: Unified Concept Editing in Diffusion Models (Gandikota et al., WACV 2024, arXiv 2308.14761).

Keys and values of cross-attention are linear in the prompt's tokens, so that the weights that lead
the concept's tokens c_i to v_i, here to what the anchor's tokens a_i led to, and leave the kept
tokens p_j where they are, have a closed form (equation 7):

    W = (sum_i W0 a_i c_i^T + l sum_j W0 p_j p_j^T + m W0) M^-1
    M = sum_i c_i c_i^T + l sum_j p_j p_j^T + m I
    W - W0 = W0 (sum_i (a_i - c_i) c_i^T) M^-1

The last line is what is computed, in float64: it is the same, and of no higher rank than there are
tokens c_i.

What differs from the authors' code: tokens of concept and anchor are paired by their places in the
prompts rather than from the last word of the subject on, since only contexts come in here; the
change becomes a LoRA, by SVD where its rank is too low, with the error told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import DarkMinerError
from ..model.interface import DiffusionModel
from ..settings import Settings, setting
from .layers import layers_of_part


@dataclass(frozen=True)
class UCEConfig(Settings):
    """Settings of UCE."""

    erase_scale: float = setting(1.0, "weight of the concept's tokens", above=0)
    preserve_scale: float = setting(0.1, "weight of the kept tokens (l)", low=0)
    lamb: float = setting(0.5, "weight of the old weights themselves (m)", above=0)


def uce(
    model: DiffusionModel,
    concepts: Sequence[Tensor],
    anchors: Sequence[Tensor],
    kept: Sequence[Tensor],
    config: UCEConfig,
) -> dict[str, Tensor]:
    """What each key and value projection of the cross-attention changes by, ``[out, in]`` float64.

    Args:
        concepts, anchors: contexts ``[L, D]``, one anchor for each concept.
        kept: contexts ``[L, D]`` of prompts that stay.

    Raises:
        DarkMinerError: if a concept and its anchor differ in length, or no attention of the MODEL
            reads the prompt itself.
    """
    right = moved(concepts, anchors, kept, config)
    edits: dict[str, Tensor] = {}
    for path in layers_of_part(model, "kv"):
        weight: Tensor = model.network.get_submodule(path).weight  # type: ignore[assignment]
        edits[path] = weight.detach().double().cpu() @ right
    return edits


def moved(
    concepts: Sequence[Tensor],
    anchors: Sequence[Tensor],
    kept: Sequence[Tensor],
    config: UCEConfig,
) -> Tensor:
    """What every weight is multiplied by to give its change, ``[D, D]`` float64."""
    for concept, anchor in zip(concepts, anchors, strict=True):
        if concept.shape != anchor.shape:
            raise DarkMinerError(
                f"A prompt of the concept has {len(concept)} tokens and its anchor {len(anchor)}, "
                "and they are paired by their places: use prompts of the same number of chunks."
            )
    c = torch.cat([x.double().cpu() for x in concepts])
    a = torch.cat([x.double().cpu() for x in anchors])
    width = c.shape[1]
    seen = config.erase_scale * c.mT @ c + config.lamb * torch.eye(width, dtype=torch.float64)
    if kept:
        p = torch.cat([x.double().cpu() for x in kept])
        seen = seen + config.preserve_scale * p.mT @ p
    towards = config.erase_scale * (a - c).mT @ c
    return torch.linalg.solve(seen, towards.mT).mT
