"""Where a stage stands: plain values from which it takes its next step as if nothing had happened.

A stage that is under way comes by :meth:`Checkpoints.at` whenever it could go on from where it is:
after a step of mining and chasing, after each batch of teacher answers otherwise. What it keeps is
the same whatever the clock says; the clock only says how often. So a run that goes on from a
checkpoint ends with the same LoRA, bit for bit, as one that was never stopped.
"""

from __future__ import annotations

import math
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .errors import DarkMinerError
from .model.adapter import AdapterState

EVERY = 60.0
"""Seconds between two checkpoints of a stage."""

_SLOTS = {"Adam": {"step", "exp_avg", "exp_avg_sq"}, "SGD": set[str]()}
"""Name of an optimiser -> tensors that it keeps for each parameter."""

# torch's own layout of a CPU generator's state: seed, numbers left until the 624 words are mixed
# anew, whether it is seeded, the next word's place; the words; three numbers that are left over
# from drawing normal ones, and a float of the same kind.
_HEAD, _WORDS = struct.Struct("=QiiQ"), 624
_LEFT_OVER, _FLOAT = struct.Struct("=ddd"), struct.Struct("=f")
_LEFT_OVER_AT, _FLOAT_AT, _STATE_BYTES = _HEAD.size + 8 * _WORDS, 5048, 5056


@dataclass(frozen=True)
class OptimizerState:
    """What an optimiser keeps between steps; its rates are the settings'.

    Attributes:
        kind: name of its class, ``"Adam"`` or ``"SGD"``.
        slots: for each parameter in the optimiser's own order, name -> tensor of what it keeps;
            empty for one that has not been stepped yet.
    """

    kind: str
    slots: tuple[dict[str, Tensor], ...] = ()


@dataclass(frozen=True)
class StageState:
    """A stage that has not ended: enough to take its next step as if nothing had happened.

    Attributes:
        stage: its name, e.g. ``"chase"``.
        round: number of its round.
        part: what else it does in steps of their own; empty: what it is named after.
        step: finished steps.
        rate: what its learning rates are multiplied by, see :func:`~.method.optim.at_rate`.
        adapters: the LoRA as it stands, where the stage trains it.
        generators: role -> state of its generator (:func:`generator_state`).
        optimizers: name -> state.
        tensors: name -> what it trains besides adapters, or needs to know of its steps so far.
        losses: of the steps so far.
    """

    stage: str
    round: int
    part: str = ""
    step: int = 0
    rate: float = 1.0
    adapters: AdapterState | None = None
    generators: dict[str, Tensor] = field(default_factory=dict)
    optimizers: dict[str, OptimizerState] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)

    def is_of(self, stage: str, round_: int, part: str = "") -> bool:
        """Whether it is this stage's."""
        return (self.stage, self.round, self.part) == (stage, round_, part)


class OutOfTime(Exception):
    """A run's time is up. Nothing is wrong: what it has come to is kept."""


class Checkpoints:
    """Where a stage goes on from, and where it leaves what it has come to.

    Args:
        begun: the stage that was under way when the run was stopped; None: there is none.
        keep: called with a stage's state from time to time; None: nothing is kept.
        every: seconds between two of these calls.
        deadline: :func:`time.monotonic` at which the run ends; None: never.
    """

    def __init__(
        self,
        begun: StageState | None = None,
        keep: Callable[[StageState], None] | None = None,
        *,
        every: float = EVERY,
        deadline: float | None = None,
    ):
        self._begun, self._keep, self._every, self._deadline = begun, keep, every, deadline
        self._kept_at = time.monotonic()

    def begun(self, stage: str, round_: int, part: str = "") -> StageState | None:
        """What the stage goes on from; None: it begins."""
        found = self._begun
        return found if found is not None and found.is_of(stage, round_, part) else None

    def at(self, state: Callable[[], StageState | None]) -> None:
        """Keep a stage's state where it is time to, and end the run where its time is up.

        Args:
            state: makes it; None where it is not fit to go on from.

        Raises:
            OutOfTime: if the run's time is up.
        """
        now = time.monotonic()
        over = self.over(now)
        if self._keep is not None and (over or now - self._kept_at >= self._every):
            made = state()
            if made is not None:
                self._keep(made)
            self._kept_at = time.monotonic()
        if over:
            raise OutOfTime

    def over(self, now: float | None = None) -> bool:
        """Whether the run's time is up."""
        now = time.monotonic() if now is None else now
        return self._deadline is not None and now >= self._deadline


UNKEPT = Checkpoints()
"""A stage that begins, and whose state nobody keeps."""


@dataclass(frozen=True)
class Figures:
    """How a run went so far; keys are stages with their round, e.g. ``"mine 2"``.

    Attributes:
        losses: loss of each step.
        seconds: how long it took.
        finished: stages that are over, in their order.
        notes: sentences on what did not go as planned.
        before: rounds that earlier runs have had.
        drifts: see :class:`~.method.erasure.Erasure`.
    """

    losses: dict[str, list[float]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    finished: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    before: int = 0
    drifts: dict[str, float] = field(default_factory=dict)


def generator_state(gen: torch.Generator) -> Tensor:
    """State of a CPU generator, ``[5056]`` uint8."""
    if gen.device.type != "cpu":
        raise DarkMinerError(
            f"A generator on {gen.device} cannot be kept in a run folder: draw on the CPU."
        )
    return gen.get_state().clone()


def generator_from(state: Tensor) -> torch.Generator:
    """A CPU generator that goes on from ``state``.

    Raises:
        DarkMinerError: if that is no state of a generator of this torch.
    """
    gen = torch.Generator("cpu")
    try:
        sound = state.dtype == torch.uint8 and state.ndim == 1 and _sound(state)
        if sound:
            gen.set_state(state)
    except (RuntimeError, TypeError, struct.error):
        sound = False
    if not sound:
        raise DarkMinerError(
            "The state of a random generator is none of this torch's: go on with the torch that "
            "the run began with, or start it anew."
        )
    return gen


def _sound(state: Tensor) -> bool:
    """Whether the next word lies inside the state, and no number that is left over is NaN.

    torch looks at each field alone: it would read behind the words where two do not agree.
    """
    if len(state) != _STATE_BYTES:
        return False
    data = state.contiguous().numpy().tobytes()
    _, left, _, following = _HEAD.unpack_from(data)
    over = *_LEFT_OVER.unpack_from(data, _LEFT_OVER_AT), *_FLOAT.unpack_from(data, _FLOAT_AT)
    fresh = (left, following) == (1, 0)
    return (fresh or left + following == _WORDS + 1) and all(map(math.isfinite, over))


def restore_generator(gen: torch.Generator, state: Tensor) -> None:
    """Let a generator go on from ``state``; errors as of :func:`generator_from`."""
    gen.set_state(generator_from(state).get_state())


def optimizer_state(optimizer: torch.optim.Optimizer) -> OptimizerState:
    """A copy of what Adam, or SGD without momentum, keeps; on the CPU.

    Raises:
        DarkMinerError: if it is another optimiser or keeps anything else.
    """
    kind = type(optimizer).__name__
    slots = []
    for parameter in _parameters(optimizer):
        kept = {k: v for k, v in optimizer.state.get(parameter, {}).items() if v is not None}
        if kind not in _SLOTS or (kept and kept.keys() != _SLOTS[kind]):
            raise DarkMinerError(
                f"The optimiser {kind} keeps {sorted(kept)}, which a run folder does not know: "
                "use adam, or sgd without momentum."
            )
        slots.append({k: torch.as_tensor(v).detach().cpu().clone() for k, v in kept.items()})
    return OptimizerState(kind, tuple(slots))


def restore_optimizer(optimizer: torch.optim.Optimizer, state: OptimizerState) -> None:
    """Give an optimiser back what one over the same parameters kept; its rates stay.

    Raises:
        DarkMinerError: if it is another kind's, or its tensors' shapes are not the parameters'.
    """
    parameters = _parameters(optimizer)
    kind = type(optimizer).__name__
    if (state.kind, len(state.slots)) != (kind, len(parameters)):
        raise DarkMinerError(
            f"The run folder keeps {state.kind} over {len(state.slots)} tensors and the settings "
            f"ask for {kind} over {len(parameters)}: go on with the settings of the run's start."
        )
    for i, (parameter, slots) in enumerate(zip(parameters, state.slots, strict=True)):
        if slots and not _fits(slots, _SLOTS.get(kind, set()), parameter.shape):
            raise DarkMinerError(
                f"What the run folder keeps of {kind}'s tensor {i + 1} does not fit one of shape "
                f"{list(parameter.shape)}: go on with the settings of the run's start."
            )
    known = optimizer.state_dict()
    kept = {
        i: {k: v.clone() for k, v in slots.items()} for i, slots in enumerate(state.slots) if slots
    }
    optimizer.load_state_dict({"state": kept, "param_groups": known["param_groups"]})


def _fits(slots: dict[str, Tensor], names: set[str], shape: torch.Size) -> bool:
    """Whether the tensors have the names, and the parameter's shape or, of steps, none."""
    if slots.keys() != names:
        return False
    of_step = torch.Size()
    return all(v.is_floating_point() and v.shape == (of_step if k == "step" else shape)
               for k, v in slots.items())  # fmt: skip


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]
