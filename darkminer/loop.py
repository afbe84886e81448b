"""The whole method: mine, verify, stop or circumvent, until nothing is found any more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from .adapter import Adapters, AdapterState
from .chase import chase
from .circumvent import circumvent
from .config import CircumventConfig, EraseConfig
from .layers import adapted_layers
from .mine import mine
from .rng import generator
from .types import (
    DiffusionModel,
    EmbeddingPool,
    ImageEncoder,
    ImagePool,
    KeepBank,
    Report,
    TextSpace,
    Verdict,
    silent,
)
from .verify import verify


@dataclass(frozen=True)
class Erasure:
    """What a run ends with.

    Attributes:
        adapters: the LoRA's weights.
        embeddings: every embedding that was circumvented, and the rounds' history.
        verdicts: one per round that mined, with its pictures.
        losses: name of the stage and round, e.g. ``"mine 2"`` or ``"mine 2 tokens"`` -> loss of
            each step.
    """

    adapters: AdapterState
    embeddings: EmbeddingPool
    verdicts: tuple[Verdict, ...] = ()
    losses: dict[str, list[float]] = field(default_factory=dict)

    @property
    def score(self) -> float:
        """The last round's highest score, 0 when no round has mined."""
        return self.verdicts[-1].score if self.verdicts else 0.0


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
    """Erase the pool's concept.

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

    def so_far() -> Erasure:
        return Erasure(adapters.state(), embeddings, tuple(verdicts), dict(losses))

    try:
        if config.text_start and embeddings.entries:
            done = circumvent(
                model, adapters, embeddings, anchor, config.start,
                seed=seed, keep=keep, bank=bank, report=report,
            )  # fmt: skip
            embeddings, losses["circumvent 0"] = done.embeddings, done.losses
        if config.chase.steps:
            done = chase(
                model, adapters, embeddings, pool, anchor, config.chase, config.start,
                seed=seed, text=text, bank=bank, keep=keep, report=report,
            )  # fmt: skip
            embeddings, losses["chase"] = done.embeddings, done.losses
        for round_ in range(embeddings.round + 1, embeddings.round + 1 + config.max_rounds):
            mined = mine(
                model, pool, anchor, config.mine,
                seed=seed, round_=round_, concept_contexts=embeddings.text_tokens(), text=text,
                report=report,
            )  # fmt: skip
            losses[f"mine {round_}"] = mined.losses
            if mined.token_losses:
                losses[f"mine {round_} tokens"] = mined.token_losses
            verdict = verify(
                model, encode, mined.embeddings, anchor, pool, config.verify,
                seed=seed, round_=round_, adapters=adapters, report=report,
            )  # fmt: skip
            embeddings = embeddings.opened(mined.embeddings).judged(verdict)
            verdicts.append(verdict)
            if not verdict.verified:
                break
            done = circumvent(
                model, adapters, embeddings, anchor, config.circumvent,
                seed=seed, keep=keep, bank=bank, report=report,
            )  # fmt: skip
            embeddings, losses[f"circumvent {round_}"] = done.embeddings, done.losses
            if on_round is not None:
                on_round(so_far())
        return so_far()
    finally:
        adapters.remove()
