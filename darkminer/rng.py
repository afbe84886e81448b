"""Named random generators: one per (seed, round, role), always on the CPU.

The same seed on the same machine has to give the same LoRA, whether the stages run inside one node
or as separate nodes of a graph. So no stage shares a stream with another one: each asks for its own
generator by name, and draws on the CPU before anything moves to a device.
"""

from __future__ import annotations

import hashlib

import torch


def generator(seed: int, round_: int, role: str) -> torch.Generator:
    """Return a fresh CPU generator for one role of one round.

    Args:
        seed: the user's seed (any integer).
        round_: number of the round, 0 for what happens before the first.
        role: what the numbers are for, e.g. ``"mine.noise"``.
    """
    digest = hashlib.sha256(f"{int(seed)}/{int(round_)}/{role}".encode()).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def normal(
    shape: tuple[int, ...] | torch.Size, gen: torch.Generator, like: torch.Tensor
) -> torch.Tensor:
    """Standard normal numbers of ``shape``, drawn on the CPU in float32, moved to ``like``."""
    return torch.randn(shape, generator=gen, dtype=torch.float32).to(like.device, like.dtype)


def seed_from(noise: torch.Tensor) -> int:
    """A seed of 63 bits made of a picture's own start noise, whatever its shape and device.

    The noise comes from a run's own generator, and so does the seed: the same picture has the same
    one, in whatever batch it is made.
    """
    values = noise.detach().float().cpu().contiguous().numpy()
    return int.from_bytes(hashlib.sha256(values.tobytes()).digest()[:8], "big") >> 1
