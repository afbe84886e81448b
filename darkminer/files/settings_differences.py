"""In what a run that goes on differs from the run that was begun."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import DarkMinerError
from ..settings import Settings, rules, stages, written

MAY_CHANGE: frozenset[str] = frozenset({"max_rounds", "verify.threshold", "guard.max_drift"})
"""Places of the settings that another value may have when a run goes on, where what was done so far
is what it would have been with that value; whether it is, :mod:`~..runs` knows."""


@dataclass(frozen=True)
class Difference:
    """One setting that two runs have differently.

    Attributes:
        place: its name, after its stage's and a dot where it has one, e.g. ``"mine.steps"``.
        theirs, ours: both values, as :func:`~..settings.changed` reads them.
    """

    place: str
    theirs: str
    ours: str

    @property
    def may_change(self) -> bool:
        """Whether a run may go on all the same."""
        return self.place in MAY_CHANGE

    @property
    def words(self) -> str:
        """The difference in a few words."""
        return f"{self.place} was {self.theirs} and is {self.ours}"


def differences(theirs: Settings, ours: Settings) -> list[Difference]:
    """The settings that differ, in the order in which they are declared.

    Args:
        theirs: of the run that was begun; ours: of the one that goes on with it.

    Raises:
        DarkMinerError: if they are not of one kind.
    """
    if type(theirs) is not type(ours):
        raise DarkMinerError(
            f"{type(theirs).__name__} and {type(ours).__name__} cannot be compared: give two of a "
            "kind."
        )
    return list(_differences(theirs, ours, ""))


def _differences(theirs: Settings, ours: Settings, before: str) -> Iterator[Difference]:
    for name in rules(type(theirs)):
        old, new = getattr(theirs, name), getattr(ours, name)
        if old != new:
            yield Difference(f"{before}{name}", written(old), written(new))
    for name in stages(type(theirs)):
        yield from _differences(getattr(theirs, name), getattr(ours, name), f"{before}{name}.")
