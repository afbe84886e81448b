"""A run that is kept in a folder: what it goes on from, and what is saved as it goes.

This is where values of the method become records of :mod:`~.files.run_folder` and come back. A run
may go on with more rounds or another threshold; anything else makes it another run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from .config import EraseConfig
from .errors import DarkMinerError
from .files.run_folder import RunFolder, read_run
from .files.run_records import (
    BANK,
    EMBEDDINGS,
    FIGURES,
    INPUTS,
    LAST,
    POOL,
    REPORT,
    STAGE,
    VERDICTS,
    Record,
    adapters,
    settings,
)
from .files.run_state import State
from .files.settings_differences import differences
from .method.erasure import Erasure
from .standing import Figures
from .types import ImagePool, RetainSet

SETTINGS = settings(EraseConfig)
TOOLS = {"torch": "torch", "code": "version of this pack"}
"""What a run was made with, among its inputs: where that changes, a run goes on all the same."""
_SHOWN = 6
"""Differences that an error lists."""


class KeptRun:
    """A run in its folder, held by this process; make it with :meth:`open`.

    Attributes:
        begun: what the run has come to before; None: it begins.
    """

    def __init__(self, folder: RunFolder, begun: Erasure | None):
        self._folder, self.begun = folder, begun
        self._pending: dict[Record[Any], Any] = {}
        # What was read need not be written: the same objects mean the same records. They are held,
        # so that no other object gets to stand where one of them stood.
        self._written = {} if begun is None else {r.name: v for r, v in _records(begun)}

    @classmethod
    def open(
        cls,
        root: Path,
        name: str,
        config: EraseConfig,
        inputs: Mapping[str, str],
        pool: ImagePool | None = None,
        *,
        elsewhere_over: bool = False,
    ) -> KeptRun:
        """Begin a run in a folder, or go on with the one that it holds.

        Args:
            root, name: see :meth:`~.files.run_folder.RunFolder.open`.
            inputs: what the run is given besides its settings: name -> text or digest.
            pool: kept with it where given.
            elsewhere_over: see :func:`~.files.lock.take`.

        Raises:
            DarkMinerError: if the folder holds a run with other settings or inputs, names what
                differs; or as :meth:`~.files.run_folder.RunFolder.open`.
        """
        folder = RunFolder.open(root, name, elsewhere_over=elsewhere_over)
        try:
            state = folder.state
            begun = None if state is None else _going_on(state, name, config, inputs)
            run = cls(folder, begun)
            if state is None:
                first: dict[Record[Any], Any] = {SETTINGS: config, INPUTS: dict(inputs)}
                folder.save({**first, POOL: pool} if pool is not None else first)
            elif state.read(SETTINGS) != config:
                # Not before what they change: a run that ends here must find the difference again.
                run._pending = {SETTINGS: config}
            return run
        except BaseException:
            folder.close()
            raise

    def __enter__(self) -> KeptRun:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.close()

    def bank(self, make: Callable[[], RetainSet | None]) -> RetainSet | None:
        """The vocabulary bank that the run has made before, else a new one."""
        state = self._folder.state
        if state is not None and BANK in state:
            return state.read(BANK)
        made = make()
        if made is not None:
            self._pending[BANK] = made
        return made

    def keep(self, erasure: Erasure) -> None:
        """Save what has changed since the last time.

        Raises:
            DarkMinerError: as :meth:`~.files.run_folder.RunFolder.save`.
        """
        records = dict(_records(erasure))
        new = {r: v for r, v in records.items() if not _same(self._written.get(r.name), v)}
        self._folder.save(
            {**self._pending, **new, REPORT: report(erasure)},
            drop=[record for record in (STAGE, LAST) if record not in records],
        )
        self._pending, self._written = {}, {r.name: v for r, v in records.items()}

    def end(self, erasure: Erasure) -> None:
        """Save what the run ended with, and let go of what can be made again."""
        self._folder.save({REPORT: report(erasure)}, drop=[POOL, STAGE])


def read_erasure(root: Path, name: str) -> tuple[Erasure, State]:
    """What a run has come to, and all else that its folder holds; nothing is written.

    Raises:
        DarkMinerError: as :func:`~.files.run_folder.read_run`, or if nothing was trained yet.
    """
    state = read_run(root, name)
    found = _erasure(state)
    if found is None:
        raise DarkMinerError(f"The run folder {name!r} holds no LoRA yet: let the run go on.")
    return found, state


def report(erasure: Erasure) -> dict[str, Any]:
    """How a run went so far, for people."""
    outcome = erasure.outcome
    return {
        "concept": outcome.concept,
        "outcome": outcome.words if erasure.over or erasure.timed_out else "The run is under way.",
        "rounds": [
            {"round": r.round, "scores": list(r.scores), "threshold": r.threshold,
             "still_there": r.verified}
            for r in erasure.embeddings.history
        ],
        "seconds": {name: round(took, 1) for name, took in erasure.seconds.items()},
        "drift": {name: round(drift, 4) for name, drift in erasure.drifts.items()},
        "finished": list(erasure.finished),
        "under_way": "" if erasure.stage is None else erasure.stage.stage,
        "notes": list(erasure.notes),
    }  # fmt: skip


def _records(erasure: Erasure) -> Iterator[tuple[Record[Any], Any]]:
    yield EMBEDDINGS, erasure.embeddings
    yield VERDICTS, erasure.verdicts
    yield adapters(_trained_round(erasure)), erasure.adapters
    yield FIGURES, Figures(
        erasure.losses, erasure.seconds, erasure.finished, erasure.notes, erasure.before,
        erasure.drifts,
    )  # fmt: skip
    if erasure.stage is not None:
        yield STAGE, erasure.stage
    if erasure.last is not None:
        yield LAST, erasure.last


def _same(one: Any, other: Any) -> bool:
    """Whether two values are one object, or tuples of the same: values never change in place."""
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(a is b for a, b in zip(one, other, strict=True))
    return one is other


def _trained_round(erasure: Erasure) -> int:
    """The round whose end the adapters are of; 0 before the first."""
    rounds = [int(n.split()[1]) for n in erasure.finished if n.startswith("circumvent ")]
    return max(rounds, default=0)


def _erasure(state: State) -> Erasure | None:
    """What the folder's run has come to; None before it was first kept."""
    rounds = state.rounds("adapters")
    if not rounds or FIGURES not in state:
        return None
    figures = state.read(FIGURES)
    found = Erasure(
        state.read(adapters(rounds[-1])), state.read(EMBEDDINGS), state.read(VERDICTS),
        figures.losses, state.read(LAST) if LAST in state else None, figures.seconds,
        figures.finished, state.read(STAGE) if STAGE in state else None, before=figures.before,
        drifts=figures.drifts,
    )  # fmt: skip
    # Read last: reading adds to what the folder has to say of itself.
    return replace(found, notes=tuple(dict.fromkeys((*figures.notes, *state.notes))))


def _going_on(
    state: State, name: str, config: EraseConfig, inputs: Mapping[str, str]
) -> Erasure | None:
    """What a run goes on from under these settings."""
    told = differences(state.read(SETTINGS), config)
    before = state.read(INPUTS)
    wrong = [one.words for one in told if not one.may_change]
    wrong += [
        f"{key} was {before.get(key, 'none')} and is {inputs.get(key, 'none')}"
        for key in dict.fromkeys([*before, *inputs])
        if before.get(key) != inputs.get(key) and key not in TOOLS
    ]
    if wrong:
        more = f", and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise DarkMinerError(
            f"The run folder {name!r} holds another run ({'; '.join(wrong[:_SHOWN])}{more}): name "
            "a new folder, or set these back to go on."
        )
    found = _erasure(state)
    if found is None:
        return None
    notes = dict.fromkeys((*found.notes, *_other_tools(before, inputs)))
    found = replace(found, notes=tuple(notes))
    limit, rounds = config.max_rounds, found.rounds
    if limit is not None and rounds > limit:
        raise DarkMinerError(
            f"max_rounds is {limit} and the run in {name!r} is in round {rounds}: set it to that "
            "at least, or name a new folder."
        )
    changed = {one.place for one in told}
    judged_anew = "verify.threshold" in changed
    if judged_anew and not found.judged_alike(config.verify.threshold):
        raise DarkMinerError(
            f"The rounds of the run in {name!r} would have been others with the threshold "
            f"{config.verify.threshold}: set it back to go on, or name a new folder."
        )
    if "guard.max_drift" in changed:
        _check_drifts(found, name, config.guard.max_drift)
    tried_anew = found.too_far is not None and "guard.max_drift" in changed
    more_rounds = found.last is not None and (limit is None or limit > rounds)
    again = judged_anew or tried_anew or (more_rounds and found.too_far is None)
    return found.reopened() if found.over and again else found


def _other_tools(before: Mapping[str, str], inputs: Mapping[str, str]) -> Iterator[str]:
    """What made the run so far was other than what goes on: that is said and not refused."""
    for key, what in TOOLS.items():
        was, now = before.get(key, ""), inputs.get(key, "")
        if was and now and was != now:
            yield (
                f"The run began with another {what} ({was}, now {now}): it ends with another LoRA "
                "than one that was never stopped."
            )


def _check_drifts(found: Erasure, name: str, limit: float | None) -> None:
    """Refuse another limit under which a round that is over would have been left out."""
    if limit is None:
        return
    for what in found.trained:
        drift = found.drifts.get(what)
        if drift is None or drift > limit:
            measured = "was not measured" if drift is None else f"is {drift:.3g}"
            raise DarkMinerError(
                f"guard_max_drift is {limit:g} and the drift of the {what} in {name!r} "
                f"{measured}: set it back to go on, or name a new folder."
            )
