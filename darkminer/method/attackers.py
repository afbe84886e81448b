"""Attackers: soft prompts and adversarial tokens that a chase mines while the adapters train.

Each attacker descends the mining loss (equation 5) with an Adam of its own. After a life of some
hundred steps it starts anew somewhere else, and where it ended is remembered: an attacker that
stays for ever only shows what the adapters have already seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..model.interface import TextSpace
from ..standing import OptimizerState, restore_optimizer
from .mine import project


class Adversary(NamedTuple):
    """A soft prompt, that is a free context ``[1, L, D]``, or an adversarial token ``[1, Din]``."""

    value: Tensor
    token: bool


class Attacker:
    """One adversary on the move, its optimiser and its age.

    Args:
        token: an adversarial token at the text encoder's input, else a soft prompt.
        start: gives a start value, ``[1, Din]`` or ``[1, L, D]``.
        lr: Adam's learning rate.
        life: steps until it starts anew.
        age: steps already behind it, so that not all start anew at once.
    """

    def __init__(
        self, token: bool, start: Callable[[], Tensor], *, lr: float, life: int, age: int = 0
    ):
        self.token, self._start, self._lr, self._life = token, start, lr, life
        self._restart()
        self._age = age

    def _restart(self) -> None:
        self.value = self._start().requires_grad_(True)
        self._optimizer = torch.optim.Adam([self.value], lr=self._lr)
        self._age = 0

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """Its own Adam."""
        return self._optimizer

    @property
    def age(self) -> int:
        """Steps since it started."""
        return self._age

    def restore(self, value: Tensor, age: int, state: OptimizerState) -> None:
        """Go on from where another stood.

        Raises:
            DarkMinerError: as :func:`~..standing.restore_optimizer`.
        """
        self.value = value.to(self.value.device).clone().requires_grad_(True)
        self._optimizer = torch.optim.Adam([self.value], lr=self._lr)
        restore_optimizer(self._optimizer, state)
        self._age = age

    @property
    def adversary(self) -> Adversary:
        """Where it stands, as a value that can take part in training."""
        return Adversary(self.value, self.token)

    @property
    def end(self) -> Adversary:
        """Where it stands, as a value of its own."""
        return Adversary(self.value.detach().clone(), self.token)

    @property
    def warm(self) -> bool:
        """Past the first quarter of its life, in which it only mines."""
        return 4 * self._age > self._life

    def tick(self) -> Adversary | None:
        """Count a step; where it ended if its life is over and it starts anew, else None."""
        end = None
        if self._age >= self._life:
            end = self.end
            self._restart()
        self._age += 1
        return end

    def step(self, gradient: Tensor, reachable: float | None) -> None:
        """Descend; a soft prompt is scaled down to the norm ``reachable`` token by token."""
        self.value.grad = gradient
        self._optimizer.step()
        if reachable is not None and not self.token:
            project(self.value, reachable)


def start_attackers(
    tokens: int,
    soft_prompts: Sequence[int],
    rates: tuple[float, float],
    life: int,
    *,
    text: TextSpace | None,
    contexts: Sequence[Tensor],
    device: torch.device,
    gen: torch.Generator,
) -> list[Attacker]:
    """The attackers of a chase, their ages spread over one life.

    Args:
        tokens: how many adversarial tokens; soft_prompts: the length of each soft prompt.
        rates: learning rates of tokens and of soft prompts.
        text: where tokens speak; None leaves them out.
        contexts: ``[L_i, D]`` each, from which soft prompts take their first tokens.
    """

    def token() -> Tensor:
        assert text is not None
        word = text.words[int(torch.randint(len(text.words), (), generator=gen))]
        return text.encoder.embedding(word)[None].clone().to(device)

    def soft(length: int) -> Tensor:
        source = contexts[int(torch.randint(len(contexts), (), generator=gen))]
        rows = torch.randint(len(source), (length,), generator=gen)
        return source[rows].clone()[None].to(device)

    starts: list[tuple[bool, Callable[[], Tensor]]] = []
    starts += [(True, token)] * (tokens if text is not None else 0)
    starts += [(False, lambda n=n: soft(n)) for n in soft_prompts]
    return [
        Attacker(
            is_token, start, lr=rates[0] if is_token else rates[1], life=life,
            age=i * life // len(starts),
        )
        for i, (is_token, start) in enumerate(starts)
    ]  # fmt: skip
