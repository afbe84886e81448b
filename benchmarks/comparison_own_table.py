"""The table and the picture of a comparison on a checkpoint, from the rows in its folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .comparison_table import picture, settings, table

INTRO = """# {concept}, erased from {checkpoint} by every method

*Asked in words* and the attacks: share of the pictures in which {judge} sees the concept; less is
better. *CLIP score*: of {count} prompts that do not name it, by {clip}, with its 95 % interval;
*likeness*: mean cosine of these pictures and the original model's from the same noise, in the same
CLIP; more is better for both. *Time*: minutes, without the pictures of the concept, which all
methods share.
"""


def write(folder: Path, names: Sequence[str], concept: str, checkpoint: str) -> str:
    """Write ``table.md`` and ``table.png`` of all rows that are there; the table's text.

    Raises:
        SystemExit: if there is none.
    """
    found = {n: json.loads(p.read_text(encoding="utf-8")) for n in names
             if (p := folder / f"{n}.json").is_file()}  # fmt: skip
    if not found:
        raise SystemExit(f"{folder} holds no row: no method was made, so there is no table.")
    first = next(iter(found.values()))
    head = [
        "method",
        *(title for title, _, _ in first["attacks"]),
        "CLIP score",
        "likeness",
        "time",
    ]
    lines = [INTRO.format(concept=concept, checkpoint=checkpoint, judge=first["judge"],
                          clip=first["clip"], count=len(first["keep"]))]  # fmt: skip
    lines += table(head, [cells(row) for row in found.values()])
    picture([folder / f"{n}.png" for n in found], folder / "table.png", 1)
    rows = ", ".join(row["title"] for row in found.values())
    lines += ["", f"![A row a method: {rows}](table.png)", "", f"Rows: {rows}. Left asked for in "
              "words, right prompts that do not name it.", ""]  # fmt: skip
    lines += settings(found.values())
    text = "\n".join(lines) + "\n"
    (folder / "table.md").write_text(text, encoding="utf-8")
    return text


def cells(row: dict[str, Any]) -> list[str]:
    """A method's row."""
    minutes, seconds = divmod(round(row["seconds"]), 60)
    kept = row["kept"]
    shares = [f"{hits / count:.3f} ({hits}/{count})" for _, hits, count in row["attacks"]]
    return [
        row["title"], *shares, f"{kept['value']:.2f} ({kept['low']:.2f} to {kept['high']:.2f})",
        f"{row['likeness']:.3f}", f"{minutes}:{seconds:02}",
    ]  # fmt: skip
