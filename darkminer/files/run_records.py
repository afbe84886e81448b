"""What a run folder keeps, by name: each name has one kind of value."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ..model.adapter import AdapterState
from ..settings import Settings
from ..standing import Figures, StageState
from ..types import EmbeddingPool, ImagePool, RetainSet, Verdict
from .bounds import Damaged, json_bytes, parsed_json
from .converting import called, put_together, taken_apart

T = TypeVar("T")
S = TypeVar("S", bound=Settings)

_KEPT = "state|lock|con|prn|aux|nul|com[0-9]|lpt[0-9]"
NAME = re.compile(rf"(?!(?:{_KEPT})(?:\.|$))[a-z][a-z0-9]{{0,31}}(\.[a-z0-9]{{1,16}})?")
"""A record's name; behind the dot stands the round."""
METADATA = "darkminer_record"
"""The key of a safetensors file's metadata under which a record's JSON stands."""


@dataclass(frozen=True)
class Record(Generic[T]):
    """A name in the folder and the kind of its value.

    Attributes:
        name: as :data:`NAME` has it.
        kind: a dataclass, or any type hint that :mod:`~.converting` knows; Any is free JSON.
    """

    name: str
    kind: Any

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ValueError(f"{self.name!r} is no name of a record")

    def written(self, value: T) -> tuple[bytes, dict[str, Any]]:
        """The record's JSON and its tensors.

        Raises:
            Damaged: if ``value`` is not of the kind, or holds NaN.
        """
        plain, tensors = taken_apart(value, self.kind)
        indent = None if tensors else 1  # what is a JSON file is there to be read
        text = json_bytes({"kind": called(self.kind), "value": plain}, indent=indent)
        return text, dict(tensors)

    def read(self, text: bytes, tensors: dict[str, Any]) -> tuple[T, tuple[str, ...]]:
        """The value, and the places of fields that were not written and have their defaults.

        Raises:
            Damaged: if it is not of the kind.
        """
        said = parsed_json(text)
        if not isinstance(said, dict) or said.keys() != {"kind", "value"}:
            raise Damaged("it holds no record")
        if said["kind"] != called(self.kind):
            raise Damaged(f"it holds {str(said['kind'])[:60]!r}, not {called(self.kind)}")
        return put_together(said["value"], tensors, self.kind)


POOL: Record[ImagePool] = Record("pool", ImagePool)
BANK: Record[RetainSet] = Record("bank", RetainSet)
"""The vocabulary bank."""
EMBEDDINGS: Record[EmbeddingPool] = Record("embeddings", EmbeddingPool)
VERDICTS: Record[tuple[Verdict, ...]] = Record("verdicts", tuple[Verdict, ...])
FIGURES: Record[Figures] = Record("figures", Figures)
STAGE: Record[StageState] = Record("stage", StageState)
"""The stage that is under way, with the LoRA as it stands in it; dropped when it ends."""
LAST: Record[Verdict] = Record("last", Verdict)
"""The verification after the last round."""
INPUTS: Record[dict[str, str]] = Record("inputs", dict[str, str])
"""What the run was given besides its settings: name -> text or digest."""
REPORT: Record[Any] = Record("report", Any)
"""What a person wants to know, as free JSON."""


def settings(kind: type[S]) -> Record[S]:
    """All settings of the run, of the dataclass ``kind``."""
    return Record("settings", kind)


def adapters(round_: int) -> Record[AdapterState]:
    """The LoRA after a round; 0: after what comes before the first."""
    return Record(f"adapters.{round_}", AdapterState)
