"""How much room a run takes on the disk, reckoned before it begins."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

from torch import Tensor, nn

from .config import EraseConfig
from .errors import DarkMinerError
from .model.interface import DiffusionModel
from .model.layers import adapted_layers
from .types import ImagePool

_FLOAT = 4
_TEMPLATES = 3  # of the text start, besides those with a word
_UNDER_WAY = 3  # a stage keeps the LoRA and two moments of each of its numbers


def run_bytes(model: DiffusionModel, config: EraseConfig, pool: ImagePool, anchor: Tensor) -> int:
    """Bytes of a run's folder at its largest: while one save takes the place of another.

    Without a limit of rounds those of the first are counted.

    Args:
        anchor: a prompt's context ``[1, L, D]``.
    """
    rounds = 1 if config.max_rounds is None else config.max_rounds
    lora = lora_bytes(model.network, config)
    latent = _FLOAT * math.prod(model.latent_shape)
    prompt = _FLOAT * anchor.shape[-2] * anchor.shape[-1]
    entries = config.mine.count + config.mine.tokens * (1 + config.mine.token_words)
    mined = max(prompt, _FLOAT * config.mine.length * anchor.shape[-1])
    texts = (_TEMPLATES + config.text_words) * config.text_start
    attackers = config.chase.tokens * bool(config.chase.steps)
    found = (texts + attackers) * (2 * prompt + config.start.images * latent)
    found += rounds * entries * (mined + config.circumvent.images * latent)
    seen = (rounds + 1) * entries * 2 * _FLOAT * math.prod(pool.images.shape[1:])
    bank = config.bank.size * (prompt + config.bank.images * latent)
    whole = pool.images.nbytes + pool.latents.nbytes + bank + (rounds + 1) * lora
    return whole + 2 * (_UNDER_WAY * lora + found + seen)


def lora_bytes(network: nn.Module, config: EraseConfig) -> int:
    """Bytes of the LoRA's weights on the network's layers that the settings say."""
    weights = [network.get_parameter(f"{name}.weight")
               for name in adapted_layers(network, config.lora.layers)]  # fmt: skip
    return _FLOAT * config.lora.rank * sum(len(w) + w[0].numel() for w in weights)


def size_text(size: float) -> str:
    """Bytes as a person reads them: "340 kB", "12 MB", "3.1 GB"."""
    for unit, power in (("GB", 1e9), ("MB", 1e6)):
        if size >= power:
            return f"{size / power:.{int(size < 10 * power)}f} {unit}"
    return f"{math.ceil(size / 1e3)} kB"


def require_room(root: Path, size: int) -> None:
    """Refuse a run that the disk has no room for.

    Args:
        root: a folder on that disk, or one that is to be made there.

    Raises:
        DarkMinerError: if so.
    """
    there = next(place for place in (root, *root.parents) if place.exists())
    free = shutil.disk_usage(there).free
    if free < size:
        raise DarkMinerError(
            f"Keeping this run takes about {size_text(size)} and {size_text(free)} are free in "
            "the output folder: make room, or set run_folder to off."
        )
