"""The whole method: mine, verify, stop or circumvent, until nothing is found any more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from ..config import CircumventConfig, EraseConfig
from ..model.adapter import Adapters, AdapterState
from ..model.interface import DiffusionModel, ImageEncoder, TextSpace
from ..model.layers import adapted_layers
from ..rng import generator
from ..types import EmbeddingPool, ImagePool, KeepBank, Report, Verdict, silent
from .chase import chase
from .circumvent import circumvent
from .mine import mine
from .outcome import Outcome, adds_nothing
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
    """

    adapters: AdapterState
    embeddings: EmbeddingPool
    verdicts: tuple[Verdict, ...] = ()
    losses: dict[str, list[float]] = field(default_factory=dict)
    last: Verdict | None = None

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
        return Outcome(there, self.score, threshold, empty, self.embeddings.round)


def new_adapters(
    model: DiffusionModel,
    config: CircumventConfig,
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
    adapters = Adapters.inject(model.network, names, config.rank, config.alpha, gen)
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
    bank: KeepBank | None = None,
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
        anchor: context of c0 and of the verification's reference, ``[1, L, D]``.
        start: the concept's text contexts; circumvented first when ``config.text_start``, and
            where a chase begins.
        bank, keep: what to preserve, see :func:`~.circumvent.circumvent`.
        state: adapters to continue from.
        text: where tokens are mined through the text encoder, see :func:`~.mine.mine`.
        on_round: called with the result so far after each finished round.
    """
    adapters = new_adapters(model, config.circumvent, seed=seed, state=state)
    embeddings = start if start is not None else EmbeddingPool(concept=pool.concept)
    verdicts: list[Verdict] = []
    losses: dict[str, list[float]] = {}
    kept: dict[int, KeepBank] = {}
    gauge: Gauge | None = None

    def so_far(last: Verdict | None = None) -> Erasure:
        return Erasure(adapters.state(), embeddings, tuple(verdicts), dict(losses), last)

    def look() -> tuple[EmbeddingPool, Verdict]:
        """The next round's mining and verification, of the model as it stands."""
        nonlocal gauge
        round_ = embeddings.round + 1
        mined = mine(
            model, pool, anchor, config.mine,
            seed=seed, round_=round_, concept_contexts=embeddings.text_tokens(), text=text,
            report=report,
        )  # fmt: skip
        losses[f"mine {round_}"] = mined.losses
        if mined.token_losses:
            losses[f"mine {round_} tokens"] = mined.token_losses
        gauge = gauge or make_gauge(
            model, encode, anchor, pool, config.verify, seed=seed, adapters=adapters
        )
        verdict = verify(
            model, encode, mined.embeddings, anchor, pool, config.verify,
            seed=seed, round_=round_, adapters=adapters, gauge=gauge, report=report,
        )  # fmt: skip
        return embeddings.opened(mined.embeddings).judged(verdict), verdict

    try:
        if config.text_start and embeddings.entries:
            done = circumvent(
                model, adapters, embeddings, anchor, config.start,
                seed=seed, keep=keep, kept=kept, bank=bank, report=report,
            )  # fmt: skip
            embeddings, losses["circumvent 0"] = done.embeddings, done.losses
        if config.chase.steps:
            done = chase(
                model, adapters, embeddings, pool, anchor, config.chase, config.start,
                seed=seed, text=text, bank=bank, keep=keep, kept=kept, report=report,
            )  # fmt: skip
            embeddings, losses["chase"] = done.embeddings, done.losses
        for _ in range(config.max_rounds):
            judged, verdict = look()
            embeddings = judged
            verdicts.append(verdict)
            if not verdict.verified:
                return so_far()
            done = circumvent(
                model, adapters, embeddings, anchor, config.circumvent,
                seed=seed, keep=keep, kept=kept, bank=bank, report=report,
            )  # fmt: skip
            embeddings, losses[f"circumvent {embeddings.round}"] = done.embeddings, done.losses
            if on_round is not None:
                on_round(so_far())
        judged, last = look()
        embeddings = embeddings.looked_at(judged)
        return so_far(last)
    finally:
        adapters.remove()
