"""The whole method: mine, verify, stop or circumvent, until nothing is found any more."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import Tensor

from ..config import EraseConfig
from ..model.adapter import Adapters, AdapterState, LoraConfig
from ..model.interface import DiffusionModel, ImageEncoder, TextSpace
from ..model.layers import adapted_layers
from ..rng import generator
from ..types import EmbeddingPool, ImagePool, Report, RetainSet, Verdict, silent
from .chase import chase
from .circumvent import CircumventConfig, TrainResult, circumvent
from .mine import mine
from .outcome import Outcome, adds_nothing
from .repair import repair
from .retain import Retain
from .verify import Gauge, make_gauge, verify


@dataclass(frozen=True)
class Erasure:
    """What a run ends with.

    Attributes:
        adapters: the LoRA's weights.
        embeddings: every embedding that was circumvented, and the history of all verifications.
        verdicts: one per round that mined, with its pictures.
        last: the verification after the last round, where rounds ended before nothing was found.
        losses: name of the stage and round, e.g. ``"mine 2"`` or ``"mine 2 tokens"`` -> loss of
            each step.
        seconds: ``"opening"``, ``"round 1"``, ... and ``"last look"`` -> what they took.
    """

    adapters: AdapterState
    embeddings: EmbeddingPool
    verdicts: tuple[Verdict, ...] = ()
    losses: dict[str, list[float]] = field(default_factory=dict)
    last: Verdict | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def newest(self) -> Verdict | None:
        """The newest verification; once a run is over, that of the model it hands on."""
        return self.last or (self.verdicts[-1] if self.verdicts else None)

    @property
    def score(self) -> float:
        """The newest verification's highest score, 0 before the first."""
        return self.newest.score if self.newest is not None else 0.0

    @property
    def outcome(self) -> Outcome:
        """What came of it; a run whose first verdict is no and that trained nothing is empty."""
        there = self.newest is not None and self.newest.verified
        threshold = self.newest.threshold if self.newest is not None else None
        empty = adds_nothing(self.adapters)
        return Outcome(
            there, self.score, threshold, empty, self.embeddings.round, self.embeddings.concept
        )


def new_adapters(
    model: DiffusionModel,
    config: LoraConfig,
    *,
    seed: int,
    state: AdapterState | None = None,
) -> Adapters:
    """Adapters on the layers the settings say, fresh from ``seed`` or from ``state``.

    Raises:
        DarkMinerError: if ``state`` does not fit the model or the settings.
    """
    gen = generator(seed, 0, "adapter")
    names = adapted_layers(model.network, config.layers)
    adapters = Adapters.inject(model.network, names, config.rank, config.alpha, gen, config.spread)
    if state is not None:
        adapters.load(state)
    return adapters


def erase(
    model: DiffusionModel,
    encode: ImageEncoder,
    pool: ImagePool,
    anchor: Tensor,
    config: EraseConfig,
    *,
    seed: int,
    start: EmbeddingPool | None = None,
    reference: Tensor | None = None,
    bank: RetainSet | None = None,
    keep: Sequence[Tensor] = (),
    state: AdapterState | None = None,
    text: TextSpace | None = None,
    report: Report = silent,
    on_round: Callable[[Erasure], None] | None = None,
) -> Erasure:
    """Erase the pool's concept: in rounds, and one last verification after the last of them.

    The same stages as separate nodes of a graph give the same adapters, bit for bit: every stage
    draws from generators named by (seed, round, role) and starts its own optimiser.

    Args:
        encode: images to features, for verification.
        anchor: context of c0, ``[1, L, D]``.
        start: the concept's text contexts; circumvented first when ``config.text_start``, and
            where a chase begins.
        reference: context of verification's reference c_r, ``[1, L, D]``; None: the anchor.
        bank, keep: what to retain, see :class:`~.retain.Retain`.
        state: adapters to continue from.
        text: where tokens are mined through the text encoder, see :func:`~.mine.mine`.
        on_round: called with the result so far after each finished round.
    """
    run = _Run(
        model, encode, pool, anchor, config, seed,
        reference=anchor if reference is None else reference,
        retain=Retain(config.retain, bank, keep, made={}), text=text, report=report,
        adapters=new_adapters(model, config.lora, seed=seed, state=state),
        embeddings=start if start is not None else EmbeddingPool(concept=pool.concept),
    )  # fmt: skip
    try:
        with run.timed("opening"):
            run.open()
        rounds = itertools.count() if config.max_rounds is None else range(config.max_rounds)
        for _ in rounds:
            with run.timed(f"round {run.embeddings.round + 1}"):
                found = run.found()
                if found:
                    run.circumvent(config.circumvent)
            if not found:
                return run.so_far()
            if on_round is not None:
                on_round(run.so_far())
        with run.timed("last look"):
            last = run.last_look()
        return run.so_far(last)
    finally:
        run.adapters.remove()


@dataclass
class _Run:
    """A run as it stands; each method is a stage or two."""

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
    verdicts: list[Verdict] = field(default_factory=list)
    losses: dict[str, list[float]] = field(default_factory=dict)
    gauge: Gauge | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Note how long something takes."""
        begun = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - begun

    def so_far(self, last: Verdict | None = None) -> Erasure:
        """The result as it stands."""
        return Erasure(
            self.adapters.state(), self.embeddings, tuple(self.verdicts), dict(self.losses), last,
            dict(self.seconds),
        )  # fmt: skip

    def open(self) -> None:
        """What comes before the first round: text start and chase, as settings have them."""
        if self.config.text_start and self.embeddings.entries:
            self.circumvent(self.config.start)
        if self.config.chase.steps:
            done = chase(
                self.model, self.adapters, self.embeddings, self.pool, self.anchor,
                self.config.chase, seed=self.seed, text=self.text, retain=self.retain,
                report=self.report,
            )  # fmt: skip
            self._trained("chase", done)
        if self.config.repair.steps:
            self.losses["repair"] = repair(
                self.model, self.adapters, self.embeddings, self.anchor, self.config.repair,
                seed=self.seed, retain=self.retain, report=self.report,
            )  # fmt: skip

    def circumvent(self, config: CircumventConfig) -> None:
        """Circumvent what was found so far."""
        round_ = self.embeddings.round
        done = circumvent(
            self.model, self.adapters, self.embeddings, self.anchor, config,
            seed=self.seed, retain=self.retain, report=self.report,
        )  # fmt: skip
        self._trained(f"circumvent {round_}", done)

    def _trained(self, name: str, done: TrainResult) -> None:
        self.embeddings, self.losses[name] = done.embeddings, done.losses

    def found(self) -> bool:
        """Whether the next round's mining finds the concept; its verdict is kept."""
        self.embeddings, verdict = self._look()
        self.verdicts.append(verdict)
        return verdict.verified

    def last_look(self) -> Verdict:
        """Mining and verification of the model that is handed on."""
        judged, verdict = self._look()
        self.embeddings = self.embeddings.looked_at(judged)
        return verdict

    def _look(self) -> tuple[EmbeddingPool, Verdict]:
        """The next round's mining and verification, of the model as it stands."""
        round_ = self.embeddings.round + 1
        mined = mine(
            self.model, self.pool, self.anchor, self.config.mine, seed=self.seed, round_=round_,
            concept_contexts=self.embeddings.text_tokens(), text=self.text, report=self.report,
        )  # fmt: skip
        self.losses[f"mine {round_}"] = mined.losses
        if mined.token_losses:
            self.losses[f"mine {round_} tokens"] = mined.token_losses
        self.gauge = self.gauge or make_gauge(
            self.model, self.encode, self.reference, self.pool, self.config.verify,
            seed=self.seed, round_=round_, adapters=self.adapters, report=self.report,
        )  # fmt: skip
        verdict = verify(
            self.model, self.encode, mined.embeddings, self.reference, self.pool,
            self.config.verify, seed=self.seed, round_=round_, adapters=self.adapters,
            gauge=self.gauge, report=self.report,
        )  # fmt: skip
        return self.embeddings.opened(mined.embeddings).judged(verdict), verdict
