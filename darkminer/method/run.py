"""A run on its way: stages that are kept when they are over, and tried again where they diverge."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..config import EraseConfig
from ..errors import DarkMinerError, DivergedError, NotFiniteError
from ..finite import is_finite
from ..model.adapter import Adapters, AdapterState
from ..model.interface import DiffusionModel, ImageEncoder, TextSpace
from ..standing import EVERY, Checkpoints, OutOfTime, StageState
from ..types import EmbeddingPool, ImagePool, Report, Tally, Verdict
from .chase import chase
from .circumvent import CircumventConfig, TrainResult, circumvent, with_pictures
from .erasure import LAST_LOOK, OPENING, Erasure, mining
from .guard import DriftedError, Guard
from .mine import mine, mine_tokens
from .optim import at_rate
from .repair import repair
from .retain import Retain
from .verify import Gauge, make_gauge, verify

log = logging.getLogger(__name__)

LOWEST_RATE = 0.25
"""What a stage's learning rates are multiplied by when it is tried for the last time."""

Stage = Callable[[float, Checkpoints], None]
"""A stage: told what its learning rates are multiplied by, and where it is kept."""


@dataclass(frozen=True)
class Keeping:
    """What a run that may be stopped is given.

    Attributes:
        begun: what it has come to before; None: it begins.
        keep: called with what it has come to after each stage, and within long ones.
        broken: called with the LoRA so far where an error or a stop button ends the run.
        every: seconds between two calls of ``keep`` within a stage.
        deadline: :func:`time.monotonic` at which it ends by itself; None: never.
    """

    begun: Erasure | None = None
    keep: Callable[[Erasure], None] | None = None
    broken: Callable[[Erasure], None] | None = None
    every: float = EVERY
    deadline: float | None = None


UNKEPT = Keeping()
"""A run that begins, and that nobody keeps."""


@dataclass
class Run:
    """A run as it stands; each public method is a stage or some.

    Attributes:
        embeddings: what it starts from, then what it has found.
        before: rounds that earlier runs have had.
    """

    model: DiffusionModel
    encode: ImageEncoder
    pool: ImagePool
    anchor: Tensor
    config: EraseConfig
    seed: int
    reference: Tensor
    retain: Retain
    text: TextSpace | None
    report: Report
    adapters: Adapters
    embeddings: EmbeddingPool
    keeping: Keeping
    before: int
    verdicts: list[Verdict] = field(default_factory=list)
    last: Verdict | None = None
    losses: dict[str, list[float]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    finished: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    drifts: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._gauge: Gauge | None = None
        self._guard: Guard | None = None
        self._part, self._since = "", time.monotonic()
        begun = self.keeping.begun
        self._begun = begun.stage if begun is not None else None
        if begun is not None:
            self.adapters.load(begun.adapters)
            self.embeddings, self.last = begun.embeddings, begun.last
            self.verdicts, self.finished = list(begun.verdicts), list(begun.finished)
            self.losses, self.seconds = dict(begun.losses), dict(begun.seconds)
            self.notes, self.drifts = list(begun.notes), dict(begun.drifts)
        self._settled: AdapterState = self.adapters.state()

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Note how long something takes."""
        self._part, self._since = name, time.monotonic()
        yield
        self._clock()
        self._part = ""

    def _clock(self) -> None:
        if self._part:
            now = time.monotonic()
            self.seconds[self._part] = self.seconds.get(self._part, 0.0) + now - self._since
            self._since = now

    def so_far(self, stage: StageState | None = None) -> Erasure:
        """The result as it stands, with the stage that is under way."""
        self._clock()
        return Erasure(
            self._settled, self.embeddings, tuple(self.verdicts), dict(self.losses), self.last,
            dict(self.seconds), tuple(self.finished), stage, notes=tuple(self.notes),
            before=self.before, drifts=dict(self.drifts),
        )  # fmt: skip

    def live(self) -> AdapterState:
        """The LoRA as it stands, also within a stage; as the stage began where it is no number."""
        state = self.adapters.state()
        sound = all(is_finite(t) for part in (state.up, state.down) for t in part.values())
        return state if sound else self._settled

    def _keep(self, stage: StageState | None = None) -> None:
        """Hand over what it has come to; where that cannot be kept the run says so and goes on."""
        if self.keeping.keep is None:
            return
        try:
            self.keeping.keep(self.so_far(stage))
        except DarkMinerError as error:
            if str(error) not in self.notes:
                self._note(str(error))

    def _stage(
        self, name: str, do: Stage, of: tuple[str, int, str] = ("", 0, ""), trains: bool = False
    ) -> None:
        """Run a stage that is not over yet, from where it was stopped; keep what it comes to.

        One that diverges begins again from what it began with, at half its learning rates.

        Args:
            of: stage, round and part by which its own state names it.
            trains: whether it moves the adapters.
        """
        if name in self.finished:
            return
        begun, self._begun = self._begun, None
        if begun is not None and not begun.is_of(*of):
            begun = None
        rate = begun.rate if begun is not None else 1.0
        while True:
            checkpoints = self._checkpoints(begun, rate)
            if checkpoints.over():
                raise OutOfTime
            try:
                do(rate, checkpoints)
                break
            except DivergedError as error:
                # What gives no numbers before a step was taken gives none at any rate.
                untouched = isinstance(error, NotFiniteError) and not self._moved()
                self.adapters.load(self._settled)
                if untouched or rate <= LOWEST_RATE:
                    raise
                begun, rate = None, rate / 2
                self._note(f"{error} It is tried again at {rate:g} of its learning rates.")
        if trains:
            self._settled = self.adapters.state()
        self.finished.append(name)
        self._keep()

    def _moved(self) -> bool:
        """Whether the adapters have left what the stage began with."""
        up, settled = self.adapters.state().up, self._settled.up
        return not all(torch.equal(up[name], settled[name]) for name in up)

    def _checkpoints(self, begun: StageState | None, rate: float) -> Checkpoints:
        kept = self.keeping.keep is not None
        return Checkpoints(
            begun, (lambda state: self._keep(replace(state, rate=rate))) if kept else None,
            every=self.keeping.every, deadline=self.keeping.deadline,
        )  # fmt: skip

    def _note(self, sentence: str) -> None:
        log.warning("%s", sentence)
        self.notes.append(sentence)

    def open(self) -> None:
        """What comes before the first round: text start, chase, repair, as settings have them."""
        round_ = self.before
        if self.config.text_start and self.embeddings.entries:
            self.circumvent(self.config.start, round_)
        if self.config.chase.steps:
            self._stage("chase", self._chase, ("chase", round_, ""), trains=True)
        if self.config.repair.steps:
            self._stage("repair", self._repair, ("repair", round_, ""), trains=True)
        if self.config.guard.max_drift is not None and self._so_trained():
            self._stage("guard", lambda _, __: self._check_drift(OPENING, round_))

    def _so_trained(self) -> bool:
        """Whether a stage has trained the adapters."""
        return any(name.startswith(("circumvent", "chase", "repair")) for name in self.finished)

    def _check_drift(self, what: str, round_: int) -> None:
        """Measure how far what is retained has drifted, where that is guarded.

        Raises:
            DriftedError: if that is past the limit.
        """
        limit = self.config.guard.max_drift
        if limit is None:
            return
        self._guard = self._guard or Guard(
            self.model, self.adapters, self.retain, self.anchor, self.config.guard,
            seed=self.seed, report=self.report,
        )  # fmt: skip
        tally = Tally(self.report, "guard", round_, len(self._guard))
        drift = self.drifts[what] = self._guard.drift(round_, tally)
        log.info("After %s what is retained has drifted by %.3g.", what, drift)
        if drift > limit:
            raise DriftedError(drift, limit, f"The {what}")

    def _chase(self, rate: float, checkpoints: Checkpoints) -> None:
        done = chase(
            self.model, self.adapters, self.embeddings, self.pool, self.anchor,
            at_rate(self.config.chase, rate), seed=self.seed, text=self.text, retain=self.retain,
            checkpoints=checkpoints, report=self.report,
        )  # fmt: skip
        self._trained("chase", done)

    def _repair(self, rate: float, checkpoints: Checkpoints) -> None:
        self.losses["repair"] = repair(
            self.model, self.adapters, self.embeddings, self.anchor,
            at_rate(self.config.repair, rate), seed=self.seed, retain=self.retain,
            checkpoints=checkpoints, report=self.report,
        )  # fmt: skip

    def circumvent(self, config: CircumventConfig, round_: int) -> None:
        """Circumvent what was found so far."""

        def pictures(_: float, __: Checkpoints) -> None:
            self.embeddings = with_pictures(
                self.model, self.adapters, self.embeddings, config.images, seed=self.seed,
                report=self.report,
            )  # fmt: skip

        def train(rate: float, checkpoints: Checkpoints) -> None:
            done = circumvent(
                self.model, self.adapters, self.embeddings, self.anchor, at_rate(config, rate),
                seed=self.seed, retain=self.retain, checkpoints=checkpoints, report=self.report,
            )  # fmt: skip
            if round_ > self.before:
                self._check_drift(f"round {round_}", round_)
            self._trained(f"circumvent {round_}", done)

        if not config.fresh:
            self._stage(f"pictures {round_}", pictures)
        self._stage(f"circumvent {round_}", train, ("circumvent", round_, ""), trains=True)

    def _trained(self, name: str, done: TrainResult) -> None:
        self.embeddings, self.losses[name] = done.embeddings, done.losses

    def leave_out(self, round_: int, why: DriftedError) -> None:
        """Undo a round that has moved too much: its verdict was on the model that is handed on."""
        self._note(f"{why} It is left out.")
        self.adapters.load(self._settled)
        self.last = self.verdicts.pop()
        self._only_looked(round_)
        ended = (f"pictures {round_}", f"verify {round_}")
        self.finished = [*(name for name in self.finished if name not in ended), LAST_LOOK]
        self._keep()

    def found(self, round_: int) -> bool:
        """Whether a round's mining finds the concept; its verdict is kept."""
        self._mine(round_)
        self._stage(f"verify {round_}", lambda _, __: self._verify(round_))
        return self.verdicts[round_ - self.before - 1].verified

    def last_look(self, round_: int) -> None:
        """Mining and verification of the model that is handed on, as the next round's would be."""
        if LAST_LOOK in self.finished:
            return
        self._mine(round_)
        self._stage(LAST_LOOK, lambda _, __: self._verify_last(round_))

    def _verify(self, round_: int) -> None:
        verdict = self._verdict(round_)
        self.embeddings = self.embeddings.judged(verdict)
        self.verdicts.append(verdict)

    def _verify_last(self, round_: int) -> None:
        """What it finds is no round's: only its record stays."""
        self.last = self._verdict(round_)
        self.embeddings = self.embeddings.judged(self.last)
        self._only_looked(round_)

    def _only_looked(self, round_: int) -> None:
        """Of a round that trained nothing only the record of its verdict stays."""
        self.embeddings = self.embeddings.before(round_).looked_at(self.embeddings)
        self.finished = [name for name in self.finished if name not in mining(round_)]

    def _verdict(self, round_: int) -> Verdict:
        """Of the newest round's embeddings, by the model as it stands."""
        self._gauge = self._gauge or make_gauge(
            self.model, self.encode, self.reference, self.pool, self.config.verify,
            seed=self.seed, round_=round_, adapters=self.adapters, report=self.report,
        )  # fmt: skip
        return verify(
            self.model, self.encode, self.embeddings.current(), self.reference, self.pool,
            self.config.verify, seed=self.seed, round_=round_, adapters=self.adapters,
            gauge=self._gauge, report=self.report,
        )  # fmt: skip

    def _mine(self, round_: int) -> None:
        """A round's mining: free contexts, then tokens through the text encoder."""
        by_contexts, by_tokens = mining(round_)

        def contexts(rate: float, checkpoints: Checkpoints) -> None:
            mined = mine(
                self.model, self.pool, self.anchor, at_rate(self.config.mine, rate),
                seed=self.seed, round_=round_, checkpoints=checkpoints,
                concept_contexts=self.embeddings.text_tokens(), report=self.report,
            )  # fmt: skip
            self.losses[by_contexts] = mined.losses
            self.embeddings = self.embeddings.opened(mined.embeddings)

        def tokens(rate: float, checkpoints: Checkpoints) -> None:
            assert self.text is not None
            mined = mine_tokens(
                self.model, self.pool, self.text, at_rate(self.config.mine, rate),
                seed=self.seed, round_=round_, checkpoints=checkpoints, report=self.report,
            )  # fmt: skip
            self.losses[by_tokens] = mined.token_losses
            self.embeddings = self.embeddings.joined(mined.embeddings)

        self._stage(by_contexts, contexts, ("mine", round_, ""))
        if self.text is not None and self.config.mine.tokens:
            self._stage(by_tokens, tokens, ("mine", round_, "tokens"))
