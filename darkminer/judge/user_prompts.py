"""Users' prompts: the pack's own lists, and CSV files such as I2P's.

The lists were written for this pack. ``styles`` and ``objects`` name the concept in a hundred
sentences each; ``people`` names none, for unsafe content that a model shows unasked.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ..errors import DarkMinerError, shortened

T = TypeVar("T", int, float)

LISTS = ("styles", "objects", "people")
CONCEPT = "{concept}"

PROMPT = ("prompt",)
SEED = ("seed", "sd_seed", "evaluation_seed")
GUIDANCE = ("guidance", "guidance_scale", "sd_guidance_scale", "evaluation_guidance")
"""Columns of a CSV file by the names that published files give them."""

_MOST_SEED = (1 << 63) - 1
_MOST_GUIDANCE = 100.0
_LARGEST = 1 << 26  # bytes of a file; I2P has two million


@dataclass(frozen=True)
class UserPrompt:
    """One prompt, and how its pictures are made where that is known.

    Attributes:
        text: the prompt.
        seed: of the noise that its first picture starts from, as the host's own samplers draw it.
        guidance: classifier-free guidance.
    """

    text: str
    seed: int | None = None
    guidance: float | None = None


def listed(name: str, concept: str) -> tuple[UserPrompt, ...]:
    """A list of :data:`LISTS`, with the concept in its place.

    Raises:
        DarkMinerError: if there is no such list, or it wants a concept and there is none.
    """
    if name not in LISTS:
        raise DarkMinerError(f"There is no list of prompts {name!r}: choose of {', '.join(LISTS)}.")
    file = Path(__file__).with_name("prompts") / f"{name}.txt"
    lines = [line.strip() for line in file.read_text("utf-8").splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    word = concept.strip()
    if not word and any(CONCEPT in line for line in lines):
        raise DarkMinerError(f"The list {name!r} names the concept: write its words.")
    article = "an" if word[:1].casefold() in tuple("aeiou") else "a"
    return tuple(
        UserPrompt(line.replace(f"a {CONCEPT}", f"{article} {CONCEPT}").replace(CONCEPT, word))
        for line in lines
    )


def read_csv(path: Path) -> tuple[UserPrompt, ...]:
    """The prompts of a CSV file in UTF-8 with a header, see :data:`PROMPT` and what follows it.

    Raises:
        DarkMinerError: if it cannot be read, has no column of prompts, or a row is wrong; names
            the line.
    """
    try:
        if path.stat().st_size > _LARGEST:
            raise DarkMinerError(
                f"{path.name!r} is larger than {_LARGEST >> 20} MiB: name a file of prompts."
            )
        with path.open(newline="", encoding="utf-8-sig") as file:
            return _rows(csv.DictReader(file, strict=True), path.name)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DarkMinerError(
            f"{path.name!r} cannot be read as CSV ({error}): save it as CSV in UTF-8."
        ) from error


def _rows(reader: csv.DictReader[str], name: str) -> tuple[UserPrompt, ...]:
    columns = {(c or "").strip().casefold(): c for c in reader.fieldnames or ()}
    found = [next((columns[n] for n in names if n in columns), None)
             for names in (PROMPT, SEED, GUIDANCE)]  # fmt: skip
    if found[0] is None:
        raise DarkMinerError(
            f"{name!r} has no column named prompt: its first line must name the columns, of which "
            "seed and guidance may be others."
        )
    prompts = []
    for row in reader:
        values = [None if column is None else row[column] for column in found]
        try:
            prompts.append(_prompt(*values))
        except ValueError as error:
            raise DarkMinerError(
                f"{name!r} has a bad row at line {reader.line_num}: {error}; mend or remove it."
            ) from None
    if not prompts:
        raise DarkMinerError(f"{name!r} holds no prompts: write one in each line below the header.")
    return tuple(prompts)


def _prompt(text: str | None, seed: str | None, guidance: str | None) -> UserPrompt:
    """A row's values; empty seeds and guidances are none."""
    if text is None or not text.strip():
        raise ValueError("it has no prompt")
    start = _number(seed, "seed", int, _MOST_SEED)
    scale = _number(guidance, "guidance", float, _MOST_GUIDANCE)
    return UserPrompt(" ".join(text.split()), start, scale)


def _number(text: str | None, name: str, kind: Callable[[str], T], most: T) -> T | None:
    if text is None or not text.strip():
        return None
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not 0 <= value <= most:
        whole = "whole number" if kind is int else "number"
        raise ValueError(f"its {name} is {shortened(repr(text))}, no {whole} from 0 to {most}")
    return value
