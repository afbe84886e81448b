"""Embeddings on the move: what a chase mines while the adapters train.

Each attacker descends the mining loss (equation 5) with an Adam of its own. After a life of some
hundred steps it starts anew somewhere else, and where it ended is remembered: an attacker that
stays for ever only shows what the adapters have already seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..config import ChaseConfig
from ..model.interface import TextSpace
from .mine import project


@dataclass(frozen=True)
class Place:
    """Where an attacker stands: a free context ``[1, L, D]``, or a token ``[1, Din]``."""

    value: Tensor
    spoken: bool


class Attacker:
    """One embedding, its optimiser and its age.

    Args:
        spoken: a token at the text encoder's input, else a free context.
        start: gives a start value, ``[1, L, D]`` or ``[1, Din]``.
        age: steps already behind it, so that not all are born anew at once.
    """

    def __init__(self, spoken: bool, start: Callable[[], Tensor], config: ChaseConfig, age: int):
        self.spoken, self._start, self._config = spoken, start, config
        self._born()
        self._age = age

    def _born(self) -> None:
        self.value = self._start().requires_grad_(True)
        rate = self._config.token_lr if self.spoken else self._config.context_lr
        self._optimizer = torch.optim.Adam([self.value], lr=rate)
        self._age = 0

    @property
    def place(self) -> Place:
        """Where it stands, as a value that can take part in training."""
        return Place(self.value, self.spoken)

    @property
    def grown(self) -> bool:
        """Past the first quarter of its life, in which it only mines."""
        return 4 * self._age > self._config.life

    def grow_older(self) -> Place | None:
        """Count a step; where it ended if its life is over and it was born anew, else None."""
        end = None
        if self._age >= self._config.life:
            end = Place(self.value.detach().clone(), self.spoken)
            self._born()
        self._age += 1
        return end

    def step(self, gradient: Tensor, reachable: float | None) -> None:
        """Descend; a free context is scaled down to the norm ``reachable`` token by token."""
        self.value.grad = gradient
        self._optimizer.step()
        if reachable is not None and not self.spoken:
            project(self.value, reachable)


def line_up(
    config: ChaseConfig,
    text: TextSpace | None,
    places: Sequence[Tensor],
    device: torch.device,
    gen: torch.Generator,
) -> list[Attacker]:
    """The attackers of a chase, their ages spread over one life.

    Args:
        text: where tokens speak; None leaves them out.
        places: contexts ``[L_i, D]`` that free contexts take their first tokens from.
    """

    def token() -> Tensor:
        assert text is not None
        word = text.words[int(torch.randint(len(text.words), (), generator=gen))]
        return text.encoder.word(word)[None].clone().to(device)

    def context(length: int) -> Tensor:
        source = places[int(torch.randint(len(places), (), generator=gen))]
        rows = torch.randint(len(source), (length,), generator=gen)
        return source[rows].clone()[None].to(device)

    starts: list[tuple[bool, Callable[[], Tensor]]] = []
    starts += [(True, token)] * (config.tokens if text is not None else 0)
    starts += [(False, lambda n=n: context(n)) for n in config.lengths]
    spread = max(1, len(starts))
    return [
        Attacker(spoken, start, config, age=i * config.life // spread)
        for i, (spoken, start) in enumerate(starts)
    ]
