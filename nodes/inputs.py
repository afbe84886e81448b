"""Inputs that several nodes share, so that names, defaults and tooltips are the same everywhere."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from comfy_api.latest import io

from ..darkminer.config import PRESETS, EraseConfig
from ..darkminer.method.chase import ChaseConfig
from ..darkminer.method.circumvent import CircumventConfig
from ..darkminer.method.mine import MineConfig
from ..darkminer.method.optim import TrainingConfig
from ..darkminer.method.repair import RepairConfig
from ..darkminer.model.adapter import LoraConfig
from ..darkminer.model.layers import LAYERS
from ..darkminer.model.sampling import SamplingConfig
from . import sockets
from .host.run import SAMPLERS, SCHEDULERS
from .host.session import context_of


class Limit(float):
    """The largest number an input takes; NaN is beyond it, too.

    The host refuses what is greater than the limit, and no number compares with NaN.
    """

    def __lt__(self, other: object) -> bool:
        return not (isinstance(other, (int, float)) and float(self) >= other)


def seed():
    """The seed; ``control_after_generate`` is fixed at first, so that a run can be repeated."""
    return io.Int.Input(
        "seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF,
        control_after_generate=io.ControlAfterGenerate.fixed,
        tooltip="The same seed on the same machine gives the same LoRA, bit for bit.",
    )  # fmt: skip


def rare(fields: list) -> list:
    """The same inputs, folded away until the user asks for a node's advanced inputs."""
    for field in fields:
        field.advanced = True
    return fields


def settings():
    """All settings from a node of their own; behind all other inputs."""
    return sockets.Settings.Input(
        "settings", optional=True,
        tooltip="All settings, from Dark Miner Settings: they count here, sampling included, and "
        "preset and numbers of this node must stand as a new node has them.",
    )  # fmt: skip


def preset():
    return io.Combo.Input(
        "preset", options=list(PRESETS), default="fast",
        tooltip="fast: the recipe that erases best in the least time. paper: the values of the "
        "Dark Miner preprint and nothing else (hours).",
    )  # fmt: skip


def sampling(steps: int = 20, cfg: float = 7.0) -> list:
    """How pictures are made: four inputs."""
    return [
        io.Int.Input(
            "sampling_steps", default=steps, min=1, max=200,
            tooltip="Sampling steps of every picture made here.",
        ),
        io.Float.Input(
            "cfg", default=cfg, min=0.0, max=Limit(30.0), step=0.1,
            tooltip="Classifier-free guidance of these pictures, between prompt and negative; 1 is "
            "none.",
        ),
        io.Combo.Input(
            "sampler_name", options=SAMPLERS, default="euler",
            tooltip="The host's sampler for these pictures.",
        ),
        io.Combo.Input(
            "scheduler", options=SCHEDULERS, default="normal",
            tooltip="The host's noise schedule for these pictures.",
        ),
        io.Int.Input(
            "batch_size", default=8, min=1, max=256,
            tooltip="Pictures made at once; lower it when memory runs out.",
        ),
    ]  # fmt: skip


def sampling_config(
    sampling_steps: int,
    cfg: float,
    sampler_name: str,
    scheduler: str,
    batch_size: int,
    settings: EraseConfig | None = None,
) -> SamplingConfig:
    """How pictures are made: as ``settings`` say, else as :func:`sampling`'s inputs do."""
    if settings is not None:
        return settings.sampling
    return SamplingConfig(sampling_steps, cfg, sampler_name, scheduler, batch_size)


def number(name: str, tooltip: str, largest: int = 100_000):
    """A whole number that the preset gives when left at 0."""
    return io.Int.Input(
        name, default=0, min=0, max=largest, optional=True,
        tooltip=f"{tooltip} 0: as the preset says.",
    )  # fmt: skip


ALIASES = [
    "erase", "unlearn", "forget", "remove style", "remove object", "concept erasure", "safety",
]  # fmt: skip
"""What people search for who want a whole erasure."""

AS_PRESET = "as the preset"


def unless_preset(choice: str) -> str | None:
    """A combo's choice; None where the preset's is meant, which ``override`` keeps."""
    return None if choice == AS_PRESET else choice


def layers():
    """Which layers the LoRA adapts."""
    return io.Combo.Input(
        "layers", options=[AS_PRESET, *LAYERS], default=AS_PRESET, optional=True,
        tooltip="values: the value projections alone, as in the paper. blocks: also the output "
        "projections and the feed-forward beside them, which holds against attacks.",
    )  # fmt: skip


def rate(name: str, tooltip: str, largest: float = 100.0):
    """A positive number that the preset gives when left at 0."""
    return io.Float.Input(
        name, default=0.0, min=0.0, max=Limit(largest), step=0.0001, round=False, optional=True,
        tooltip=f"{tooltip} 0: as the preset says.",
    )  # fmt: skip


NO_PICTURES = SamplingConfig(steps=1)
"""For stages that make no pictures."""

KEEPS = ("keep_1", "keep_2", "keep_3", "keep_4")


def keeps() -> list:
    return [
        io.Conditioning.Input(
            name, optional=True,
            tooltip="A keep prompt, whose pictures must not change, or several (Conditioning "
            "(Combine)). Its text counts; pooled vectors, sizes and guidance are the anchor's.",
        )
        for name in KEEPS
    ]  # fmt: skip


def training() -> list:
    """What every node that trains the LoRA may be given besides: four kinds of input."""
    return [
        sockets.Lora.Input(
            "lora", optional=True,
            tooltip="The erasure to continue; it keeps its own rank and layers.",
        ),
        sockets.Bank.Input(
            "bank", display_name="vocabulary_bank", optional=True,
            tooltip="The vocabulary bank: what else must not change.",
        ),
        *keeps(),
        negative(),
    ]  # fmt: skip


def negative():
    """The other side of guidance."""
    return io.Conditioning.Input(
        "negative", optional=True,
        tooltip="The empty prompt, guidance's other side; needed wherever cfg is not 1.",
    )  # fmt: skip


def lora_config(base: LoraConfig, rank: int = 0, layers: str = AS_PRESET) -> LoraConfig:
    """A new LoRA's settings with what the user changed; alpha follows the rank."""
    return override(base, rank=rank, alpha=float(rank), layers=unless_preset(layers))


def descent(base: TrainingConfig, steps: int, learning_rate: float) -> dict[str, Any]:
    """Steps and rate as the user wants them; the late rate and its step keep their ratio."""
    drop = int(steps * base.lr_drop / base.steps) if base.steps else steps
    late = learning_rate * base.lr_late / base.lr
    return {"steps": steps, "lr_drop": drop, "lr": learning_rate, "lr_late": late}


def circumvent_config(
    base: CircumventConfig,
    steps: int = 0,
    learning_rate: float = 0.0,
    r: float = 0.0,
    alpha_c: float = 0.0,
    alpha_p: float = 0.0,
) -> CircumventConfig:
    """A stage's settings with what the user changed."""
    return override(
        base, r=r, alpha_c=alpha_c, alpha_p=alpha_p, **descent(base, steps, learning_rate)
    )


def mine_config(
    base: MineConfig,
    length: int = 0,
    steps: int = 0,
    learning_rate: float = 0.0,
    count: int = 0,
) -> MineConfig:
    """Mining's settings with what the user changed."""
    return override(base, length=length, count=count, **descent(base, steps, learning_rate))


def chase_config(
    base: ChaseConfig, steps: int = 0, learning_rate: float = 0.0, tokens: int = 0
) -> ChaseConfig:
    """The chase's settings with what the user changed."""
    return override(base, tokens=tokens, **descent(base, steps, learning_rate))


def repair_config(base: RepairConfig, chase: ChaseConfig, chase_steps: int) -> RepairConfig:
    """Repairing's settings where the user changed the chase's steps: longer or shorter as that is.

    Args:
        chase: its settings before the change; chase_steps: the user's, 0 for no change.
    """
    if not (base.steps and chase.steps and chase_steps):
        return base
    steps = max(1, round(base.steps * chase_steps / chase.steps))
    return override(base, **descent(base, steps, 0.0))


def override(config: Any, **values: Any) -> Any:
    """``config`` with every value that is neither None nor 0 replaced (0 means "as the preset")."""
    changed = {k: v for k, v in values.items() if v is not None and v != 0}
    return replace(config, **changed)


def preset_config(name: str, settings: EraseConfig | None = None) -> EraseConfig:
    """The settings of a run: those that are connected, else the preset's."""
    return PRESETS[name] if settings is None else settings


def keep_contexts(connected: dict, node: str) -> list:
    """Contexts ``[1, L, D]`` of the connected keep conditionings, in the order of their inputs.

    Each may hold several prompts, as ConditioningCombine joins them.
    """
    return [context_of([entry], node, k) for k in KEEPS for entry in connected.get(k) or ()]
