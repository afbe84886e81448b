"""The one engine of circumventing and chasing: what the student is asked and what it should answer.

Whatever a stage wants of the student is a row of :class:`Targets`: a noisy picture, the context it
is asked under, what it should answer, and what the row counts. Equations 7 and 8, the retain set,
attackers past and present differ in nothing else. The teacher is the same network with its adapters
off. It never changes, so it is asked ahead, for many steps at once: in batches as large as guided
sampling makes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from ..model.adapter import Adapters
from ..model.interface import DiffusionModel
from ..model.sampling import Made, predict_each, unwatched
from .losses import teacher_target


@dataclass(frozen=True)
class Targets:
    """What the student is asked and what it should answer, B rows; all but contexts on the CPU.

    Attributes:
        noisy: ``[B, C, h, w]``.
        timestep: what the network is told, ``[B]``.
        contexts: B contexts ``[L_i, D]``; their lengths may differ, gradients may pass them.
        answer: ``[B, C, h, w]``.
        weight: what each row's squared error counts, ``[B]``.
    """

    noisy: Tensor
    timestep: Tensor
    contexts: Sequence[Tensor]
    answer: Tensor
    weight: Tensor

    def __len__(self) -> int:
        return len(self.weight)

    def scaled(self, total: float) -> Targets:
        """The same rows with weights divided by ``total``."""
        return Targets(self.noisy, self.timestep, self.contexts, self.answer, self.weight / total)


def join(parts: Sequence[Targets]) -> Targets:
    """All rows, one part after the other."""
    return Targets(
        torch.cat([p.noisy for p in parts]),
        torch.cat([p.timestep for p in parts]),
        [context for p in parts for context in p.contexts],
        torch.cat([p.answer for p in parts]),
        torch.cat([p.weight for p in parts]),
    )


class Noised(NamedTuple):
    """Pictures with noise, on the CPU: noisy ``[N, C, h, w]``, timestep ``[N]``, and what the
    network should predict for the pictures themselves, ``[N, C, h, w]``.
    """

    noisy: Tensor
    timestep: Tensor
    truth: Tensor


def noised(model: DiffusionModel, pictures: Tensor, gen: torch.Generator) -> Noised:
    """Clean latents ``[N, C, h, w]`` on the CPU, each with noise at a level of its own."""
    noise = torch.randn(pictures.shape, generator=gen)
    index = model.schedule.draw(len(pictures), gen)
    noisy = model.schedule.add_noise(pictures, noise, index)
    truth = model.schedule.target(pictures, noise, index)
    return Noised(noisy, model.schedule.timesteps[index], truth)


def ask_teacher(
    model: DiffusionModel,
    adapters: Adapters,
    noisy: Tensor,
    timestep: Tensor,
    contexts: Sequence[Tensor],
    *,
    batch: int | None = None,
    made: Made = unwatched,
) -> Tensor:
    """The original model's predictions ``[N, C, h, w]`` float32 CPU, see :func:`predict_each`."""
    with adapters.off():
        return predict_each(model, noisy, timestep, contexts, batch=batch, made=made)


class _Row(NamedTuple):
    picture: int
    context: Tensor
    weight: float
    reference: int
    concept: int | None
    eta: float
    anchor: int


@dataclass
class Plan:
    """One step's rows before the teacher has answered.

    The target of a row is ``e0(r) - eta (e0(c) - e0(a))``, see :func:`~.losses.teacher_target`;
    reference r, concept c and anchor a are numbers of questions that :meth:`ask` has noted.

    Attributes:
        noisy: the step's pictures ``[n, C, h, w]``; timestep: ``[n]``; both on the CPU.
        questions: picture's number and context ``[L, D]`` of everything the teacher is asked.
    """

    noisy: Tensor
    timestep: Tensor
    questions: list[tuple[int, Tensor]] = field(default_factory=list)
    _rows: list[_Row] = field(default_factory=list)

    def ask(self, picture: int, context: Tensor) -> int:
        """Note a question to the teacher; returns its number."""
        self.questions.append((picture, context))
        return len(self.questions) - 1

    def want(
        self,
        picture: int,
        context: Tensor,
        weight: float,
        reference: int,
        concept: int | None = None,
        eta: float = 0.0,
        *,
        anchor: int | None = None,
    ) -> None:
        """Note a row: the student, asked under ``context``, should answer as the target says.

        Args:
            anchor: what the concept is held against; None: the reference.
        """
        held = reference if anchor is None else anchor
        self._rows.append(_Row(picture, context, weight, reference, concept, eta, held))

    def targets(self, answers: Tensor) -> Targets:
        """The rows, with the teacher's answers to all questions ``[q, C, h, w]``."""
        pictures = [row.picture for row in self._rows]
        wanted = [
            teacher_target(
                answers[row.reference],
                None if row.concept is None else answers[row.concept],
                row.eta,
                answers[row.anchor],
            )
            for row in self._rows
        ]
        return Targets(
            self.noisy[pictures],
            self.timestep[pictures],
            [row.context for row in self._rows],
            torch.stack(wanted),
            torch.tensor([row.weight for row in self._rows]),
        )


def asked_ahead(
    model: DiffusionModel,
    adapters: Adapters,
    plan: Callable[[int], Sequence[Plan]],
    steps: int,
    block: int,
    first: int = 0,
) -> Iterator[list[Targets]]:
    """Each step's targets, batch by batch: the teacher is asked for many steps at once.

    What the next steps will draw can be drawn and asked now: the same draws in the same order. What
    depends on the student (a retain set's drift) may change every ``block`` steps, so no batch of
    questions looks beyond. Between two batches nothing has been drawn ahead.

    Args:
        plan: draws a step's rows; told the step, counted from 0.
        first: the step to begin with, at which a batch ended.
    """
    limit = 2 * model.batch
    step = first
    while step < steps:
        end = min(steps, (step // block + 1) * block)
        planned = [plan(step)]
        size = sum(len(p.questions) for p in planned[0])
        planned += [plan(s) for s in range(step + 1, min(end, step + max(1, limit // size)))]
        plans = [p for of_step in planned for p in of_step]
        asked = [(p.noisy[i], p.timestep[i], context) for p in plans for i, context in p.questions]
        noisy, timestep, contexts = zip(*asked, strict=True)
        answers = ask_teacher(
            model, adapters, torch.stack(noisy), torch.stack(timestep), contexts, batch=limit
        )
        parts = iter(answers.split([len(p.questions) for p in plans]))
        yield [join([p.targets(next(parts)) for p in of_step]) for of_step in planned]
        step += len(planned)
