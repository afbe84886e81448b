"""What a row takes, reckoned before it begins: passes through the network, seconds, bytes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any

import torch

from ..darkminer.attacks.red_team import settings_of
from ..darkminer.progress.attack_plans import red_team_plan
from ..darkminer.progress.plan import pool_plan
from ..darkminer.room import lora_bytes, run_bytes
from ..nodes.erase.erasing import run_plan
from .host import Family, seconds_per_row
from .row import Row

_TOKENS, _WIDTH = 77, 4096  # of a prompt's context, where the header does not say its width


@dataclass(frozen=True)
class Cost:
    """What a row takes.

    Attributes:
        passes: rows through the network; rounds without a limit count as one.
        pace: seconds that one takes on this machine, at a guess; None: unknown.
        disk: bytes of its folder; checkpoint: bytes of the checkpoint's file.
    """

    passes: float
    pace: float | None
    disk: int
    checkpoint: int

    @property
    def seconds(self) -> float | None:
        """Passes times pace."""
        return None if self.pace is None else self.passes * self.pace


def cost_of(row: Row, found: Family) -> Cost:
    """What a row takes, by the plans of its own stages."""
    config = row.config()
    sampling = config.sampling
    parts = [*pool_plan(row.pictures, sampling).parts]
    parts += run_plan(config, sampling, keep=[None] * len(row.keep)).parts  # type: ignore[list-item]
    if row.attacks:
        attacks = red_team_plan(settings_of(list(row.attacks), row.effort), row.prompts, sampling)
        parts += [*attacks.parts] * (2 if row.before else 1)
    passes = sum(p.cost for p in parts if p.unit != "prompt")
    disk = _run_bytes(row, found) + lora_bytes(found.network, config)
    disk += 2 * row.bake * found.size  # the host may save in float32 what was float16
    return Cost(passes, _pace(found, row.width, row.height), disk, found.size)


@cache
def _pace(found: Family, width: int, height: int) -> float | None:
    return seconds_per_row(found, width, height)


def _run_bytes(row: Row, found: Family) -> int:
    """Bytes of the folder that the row's run is kept in: tensors that are nowhere say how large."""
    channels, scale = found.latent
    shape = channels, row.height // scale, row.width // scale

    def size(*of: int, dtype: Any = torch.float32) -> Any:
        return torch.empty(*of, dtype=dtype, device="meta")

    model: Any = SimpleNamespace(network=found.network, latent_shape=shape)
    pool: Any = SimpleNamespace(
        images=size(row.pictures, row.height, row.width, 3, dtype=torch.uint8),
        latents=size(row.pictures, *shape),
    )
    return run_bytes(model, row.config(), pool, size(1, _TOKENS, found.width or _WIDTH))
