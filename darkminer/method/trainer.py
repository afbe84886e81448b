"""Steps of adapters towards teacher targets, kept so that a stage can go on from any of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ..model.adapter import Adapters
from ..model.interface import DiffusionModel
from ..model.sampling import alike
from ..standing import (
    Checkpoints,
    StageState,
    generator_state,
    optimizer_state,
    restore_generator,
    restore_optimizer,
)
from ..types import Report, StepReport
from .engine import Plan, Targets, asked_ahead
from .losses import squared_error
from .optim import LossTrace, TrainingConfig, at_size, make_optimizer, set_lr
from .retain import Retained, restore_sets, state_of_sets


class Trainer:
    """Adapters under one optimiser: steps towards teacher targets.

    Only the adapters' tensors move, and never along directions that are closed to them.

    Args:
        config: the stage's steps, optimiser, rates and gradient clipping.
        stage, round_: what errors and reports call it.
    """

    def __init__(
        self,
        model: DiffusionModel,
        adapters: Adapters,
        config: TrainingConfig,
        *,
        stage: str,
        round_: int,
        report: Report,
    ):
        config = at_size(config, model.latent_shape)
        self._model, self._adapters, self._config = model, adapters, config
        self._stage, self._round, self._report = stage, round_, report
        self._parameters = adapters.parameters()
        self._optimizer = make_optimizer(config, self._parameters)
        self._trace = LossTrace(stage, round_, growth=adapters.growth)
        self._step = 0

    def step(
        self,
        targets: Callable[[], Targets],
        also: Callable[[Tensor], Sequence[Tensor]] | None = None,
    ) -> Sequence[Tensor]:
        """One step down the weighted sum of squared errors.

        Args:
            targets: makes the step's rows; asked once more where memory ran out.
            also: what else is made of the student's answers ``[B, C, h, w]``, whose graph it leaves
                as it is: gradients of the contexts, say.

        Returns:
            what ``also`` returns.

        Raises:
            DivergedError: if a loss is not finite or the LoRA has grown beyond its limit.
        """
        set_lr(self._optimizer, self._config, self._step)
        loss, beside = self._model.memory.attempt(self._gradients, targets, also)
        nn.utils.clip_grad_norm_(self._parameters, self._config.clip)
        self._optimizer.step()
        self._adapters.project_out()
        self._step += 1
        self._trace.add(loss)
        done = StepReport(
            self._stage, self._round, self._step, self._config.steps, self._trace.last,
            losses=self._trace.values,
        )  # fmt: skip
        self._report(done)
        return beside

    @property
    def taken(self) -> int:
        """Steps that were taken."""
        return self._step

    def state(self, gen: torch.Generator, tensors: dict[str, Tensor]) -> StageState | None:
        """Where the stage stands; None where a loss that waits to be read is not finite.

        Args:
            gen: what it draws from; tensors: what else it has to know.
        """
        losses = self._trace.so_far()
        if losses is None:
            return None
        return StageState(
            self._stage, self._round, step=self._step, adapters=self._adapters.state(),
            generators={"draws": generator_state(gen)},
            optimizers={"adapters": optimizer_state(self._optimizer)}, tensors=tensors,
            losses=losses,
        )  # fmt: skip

    def restore(self, state: StageState, gen: torch.Generator) -> None:
        """Go on from :meth:`state`; errors as of :func:`~..standing.restore_optimizer`."""
        if state.adapters is not None:
            self._adapters.load(state.adapters)
        restore_optimizer(self._optimizer, state.optimizers["adapters"])
        restore_generator(gen, state.generators["draws"])
        self._trace.restore(state.losses, self._model.device)
        self._step = state.step

    def losses(self) -> list[float]:
        """The loss of every step so far.

        Raises:
            DivergedError: as :meth:`step`.
        """
        self._trace.flush()
        return self._trace.values

    def _gradients(
        self,
        targets: Callable[[], Targets],
        also: Callable[[Tensor], Sequence[Tensor]] | None,
    ) -> tuple[Tensor, Sequence[Tensor]]:
        """The loss, and what ``also`` makes; leaves gradients in the adapters."""
        rows = targets()
        answers = predict_rows(self._model, rows)
        errors = squared_error(answers, rows.answer.to(answers.device))
        loss = (rows.weight.to(errors.device) * errors).sum()
        beside = also(answers) if also is not None else ()
        for p in self._parameters:
            p.grad = None
        loss.backward(inputs=self._parameters)
        return loss.detach(), beside


def train_as_planned(
    model: DiffusionModel,
    adapters: Adapters,
    plan: Callable[[int], Sequence[Plan]],
    config: TrainingConfig,
    block: int,
    *,
    stage: str,
    round_: int,
    gen: torch.Generator,
    kept: Sequence[Retained],
    checkpoints: Checkpoints,
    report: Report,
) -> list[float]:
    """All steps of a stage whose rows a plan gives; the loss of each.

    Args:
        plan, block: see :func:`~.engine.asked_ahead`; stage, round_: see :class:`Trainer`.
        gen, kept: what the plan draws from.
        checkpoints: where the stage goes on from, and where it is kept between batches.

    Raises:
        DivergedError: as :meth:`Trainer.step`.
        OutOfTime: if the run's time is up.
    """
    trainer = Trainer(model, adapters, config, stage=stage, round_=round_, report=report)
    before = checkpoints.begun(stage, round_)
    if before is not None:
        trainer.restore(before, gen)
        restore_sets(kept, before.tensors)
    for batch in asked_ahead(model, adapters, plan, config.steps, block, trainer.taken):
        for targets in batch:
            trainer.step(lambda targets=targets: targets)
        checkpoints.at(lambda: trainer.state(gen, state_of_sets(kept)))
    return trainer.losses()


def predict_rows(model: DiffusionModel, rows: Targets) -> Tensor:
    """The network's predictions ``[B, C, h, w]`` with gradients, one pass for each length."""
    contexts = [context.to(model.device) for context in rows.contexts]
    made: list[Tensor] = [torch.empty(0)] * len(rows)
    for members, context, (x, t) in alike(contexts, rows.noisy, rows.timestep):
        joint = model.denoise(x.to(model.device), t.to(model.device), context)
        for i, one in zip(members, joint.split(1), strict=True):
            made[i] = one
    return torch.cat(made)
