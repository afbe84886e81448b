"""What the frozen teacher says, asked ahead: noisy pictures drawn once, with its answers.

The original model never changes, so its answers to a fixed set of noisy pictures can be had in
large batches before training and used again in many steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..model.adapter import Adapters
from ..model.interface import DiffusionModel
from ..model.sampling import predict_each
from .losses import Query, circumvent_target


@dataclass(frozen=True)
class Draws:
    """N noisy pictures and what is known of them, all on the CPU.

    Attributes:
        noisy: ``[N, C, h, w]``.
        timestep: what the network is told, ``[N]``.
        truth: what the network should predict for the picture itself, ``[N, C, h, w]``.
        answer: what the student should predict, ``[N, C, h, w]``.
        direction: what the concept adds to the teacher's prediction, e0(c) - e0(c0),
            ``[N, C, h, w]``; None where there is no concept.
        owner: which embedding or bank entry each picture belongs to, ``[N]`` int64.
    """

    noisy: Tensor
    timestep: Tensor
    truth: Tensor
    answer: Tensor
    owner: Tensor
    direction: Tensor | None = None

    def __len__(self) -> int:
        return len(self.owner)

    def query(self, rows: int | Tensor, context: Tensor, device: torch.device) -> Query:
        """The question of one row or of several ``[b]``, under ``context`` ``[b, L, D]``."""
        rows = torch.as_tensor(rows).reshape(-1)
        return Query(
            self.noisy[rows].to(device), self.timestep[rows].to(device), context.to(device)
        )


def draw(
    model: DiffusionModel,
    adapters: Adapters,
    pictures: Tensor,
    owner: Tensor,
    anchors: Sequence[Tensor],
    concepts: Sequence[Tensor] | None,
    eta: float,
    gen: torch.Generator,
) -> Draws:
    """Noise every picture once and ask the teacher.

    Args:
        pictures: latents ``[N, C, h, w]``.
        owner: ``[N]``, indices into ``anchors`` (and ``concepts``).
        anchors: contexts ``[L_i, D]`` of what is to be shown.
        concepts: contexts of what is not; None where nothing is to be led away.
        eta: how far past the anchor, see :func:`~.losses.circumvent_target`.
    """
    noise = torch.randn(pictures.shape, generator=gen)
    index = model.schedule.draw(len(pictures), gen)
    noisy = model.schedule.add_noise(pictures, noise, index)
    timestep = model.schedule.timesteps[index]
    anchor = ask(model, adapters, noisy, timestep, [anchors[i] for i in owner.tolist()])
    truth = model.schedule.target(pictures, noise, index)
    if concepts is None:
        return Draws(noisy, timestep, truth, anchor, owner)
    concept = ask(model, adapters, noisy, timestep, [concepts[i] for i in owner.tolist()])
    answer = circumvent_target(anchor, concept, eta)
    return Draws(noisy, timestep, truth, answer, owner, concept - anchor)


def bystanders(
    model: DiffusionModel,
    adapters: Adapters,
    draws: Draws,
    contexts: Sequence[Tensor],
    eta: float,
    gen: torch.Generator,
) -> Draws:
    """The concept's pictures once more, each under a context that has nothing to do with it.

    What the student should say there is what the teacher says, less ``eta`` times what the concept
    adds: on pictures of the concept, no prompt whatever should lead further into it.

    Args:
        draws: noisy pictures of the concept, with their ``direction``.
        contexts: contexts ``[L_i, D]``; one is drawn for each picture.
    """
    assert draws.direction is not None
    owner = torch.randint(len(contexts), (len(draws),), generator=gen)
    said = ask(model, adapters, draws.noisy, draws.timestep, [contexts[i] for i in owner.tolist()])
    answer = said - eta * draws.direction
    return replace(draws, answer=answer, owner=owner, direction=None)


def ask(
    model: DiffusionModel,
    adapters: Adapters,
    noisy: Tensor,
    timestep: Tensor,
    contexts: Sequence[Tensor],
) -> Tensor:
    """The original model's predictions ``[N, C, h, w]`` float32 CPU, in batches of one length."""
    with adapters.off():
        return predict_each(model, noisy, timestep, contexts)
