"""The whole method: mine, verify, stop or circumvent, until nothing is found any more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor

from ..config import EraseConfig
from ..model.adapter import Adapters, AdapterState, LoraConfig
from ..model.interface import DiffusionModel, ImageEncoder, TextSpace
from ..model.layers import adapted_layers
from ..rng import generator
from ..standing import OutOfTime
from ..types import EmbeddingPool, ImagePool, Report, RetainSet, StepReport, silent
from .erasure import LAST_LOOK, Erasure
from .guard import DriftedError
from .retain import Retain
from .run import UNKEPT, Keeping, Run


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
    keeping: Keeping = UNKEPT,
) -> Erasure:
    """Erase the pool's concept: in rounds, and one last verification after the last of them.

    The same stages as separate nodes of a graph give the same adapters, bit for bit: every stage
    draws from generators named by (seed, round, role) and starts its own optimiser. So does a run
    that was stopped and goes on.

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
        keeping: what a run that may be stopped goes on from, and who keeps what it comes to.

    Raises:
        DivergedError: if a stage diverges also at a quarter of its learning rates.
        DriftedError: if what comes before the first round moves more than the guard allows; a later
            round is left out.
    """
    start = start if start is not None else EmbeddingPool(concept=pool.concept)
    run = Run(
        model, encode, pool, anchor, config, seed,
        reference=anchor if reference is None else reference,
        retain=Retain(config.retain, bank, keep, made={}), text=text, report=report,
        adapters=new_adapters(model, config.lora, seed=seed, state=state),
        embeddings=start, keeping=keeping, before=start.round,
    )  # fmt: skip
    try:
        _all_stages(run, on_round)
        return run.so_far()
    except OutOfTime:
        return replace(run.so_far(), adapters=run.live(), timed_out=True)
    except BaseException:
        if keeping.broken is not None:
            keeping.broken(replace(run.so_far(), adapters=run.live()))
        raise
    finally:
        run.adapters.remove()


def _all_stages(run: Run, on_round: Callable[[Erasure], None] | None) -> None:
    """What comes before the first round, the rounds, and the last look."""
    _tell_verdicts(run)
    with run.timed("opening"):
        run.open()
    limit, round_ = run.config.max_rounds, run.before
    while limit is None or round_ < run.before + limit:
        round_ += 1
        with run.timed(f"round {round_}"):
            found = run.found(round_)
            if found:
                try:
                    run.circumvent(run.config.circumvent, round_)
                except DriftedError as error:
                    run.leave_out(round_, error)
                    return
        if not found:
            return
        if on_round is not None:
            on_round(run.so_far())
    with run.timed(LAST_LOOK):
        run.last_look(round_ + 1)


def _tell_verdicts(run: Run) -> None:
    """Report what the verifications of a run that goes on have said."""
    for round_, verdict in enumerate(run.verdicts, start=run.before + 1):
        run.report(StepReport("verify", round_, 0, 0, verdict=verdict))
    if run.last is not None:
        round_ = run.before + len(run.verdicts) + 1
        run.report(StepReport("verify", round_, 0, 0, part=LAST_LOOK, verdict=run.last))
