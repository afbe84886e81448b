"""A plan from a folder of checkpoints and a list of words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml

from ..darkminer.errors import DarkMinerError
from ..darkminer.files.atomic import write_whole

HEAD = "# Every checkpoint times every concept. All that a plan may say: docs/fleet.md.\n"


def make_plan(folder: Path, words: Path) -> str:
    """A plan's text: every checkpoint below ``folder`` times every line of ``words``.

    Raises:
        DarkMinerError: if there is no checkpoint or no concept, or a name stands twice.
    """
    if not folder.is_dir():
        raise DarkMinerError(f"--checkpoints {folder} is no folder: name that of the checkpoints.")
    found = sorted(p for p in folder.rglob("*.safetensors") if not p.name.startswith("."))
    if not found:
        raise DarkMinerError(f"--checkpoints {folder} holds no .safetensors file: name another.")
    concepts = concept_list(words)
    places: dict[str, str] = {}
    for path in found:
        if path.stem in places:
            raise DarkMinerError(
                f"{path} and {places[path.stem]} have one name: rename one, or write the plan by "
                "hand."
            )
        places[path.stem] = str(path.absolute())
    plan = {
        "output": "erased",
        "checkpoints": places,
        "defaults": {"preset": "fast", "kind": "style", "seed": 0, "attacks": []},
        "rows": [{"checkpoint": list(places), "concept": list(concepts)}],
    }
    return HEAD + yaml.safe_dump(plan, sort_keys=False, allow_unicode=True)


def concept_list(words: Path) -> Sequence[str]:
    """Concepts, one a line; empty lines and those that begin with # are left out.

    Raises:
        DarkMinerError: if there is none, or the file cannot be read.
    """
    try:
        lines = [line.strip() for line in words.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DarkMinerError(
            f"--concepts {words} cannot be read ({error}): name a file."
        ) from error
    found = list(dict.fromkeys(line for line in lines if line and not line.startswith("#")))
    if not found:
        raise DarkMinerError(f"--concepts {words} holds no concept: write one a line.")
    return found


def save_plan(text: str, out: Path) -> None:
    """Write a plan where none is.

    Raises:
        DarkMinerError: if there is a file, or it cannot be written.
    """
    if out.exists():
        raise DarkMinerError(f"--out {out} is there already: name another file.")
    try:
        write_whole(out, [text.encode("utf-8")])
    except OSError as error:
        raise DarkMinerError(f"--out {out} cannot be written ({error}): name another.") from error
