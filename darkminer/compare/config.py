"""What the compared methods that descend have in common."""

from __future__ import annotations

from dataclasses import dataclass

from ..method.optim import (
    CLIP,
    LR,
    LR_DROP,
    LR_LATE,
    OPTIMIZER,
    OPTIMIZERS,
    STEPS,
    Optimizer,
    TrainingConfig,
)
from ..settings import setting


@dataclass(frozen=True)
class ComparedConfig(TrainingConfig):
    """Adam at one rate all along."""

    steps: int = setting(300, STEPS, low=1)
    optimizer: Optimizer = setting("adam", OPTIMIZER, choices=OPTIMIZERS)
    lr: float = setting(1e-3, LR, above=0)
    lr_late: float = setting(1e-3, LR_LATE, above=0)
    lr_drop: int = setting(0, LR_DROP, low=0)
    clip: float = setting(3200.0, CLIP, above=0)
