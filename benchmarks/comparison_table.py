"""The table and the picture of benchmarks.comparison, from what it keeps."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .hosted import ROOT

TABLE = ROOT / "benchmarks" / "COMPARISON.md"
PICTURE = TABLE.with_name("comparison.png")
PICTURE_SCALE = 2
HEAD = (
    "method", "asked for", "strictly", "inverted", "strictly", "other styles", "worst", "things",
    "held-out things", "time",
)  # fmt: skip
INTRO = """# Beside the others

Every method erases {target} (seed {seed}) from the pack's own small model through its node, with
the settings below, and is judged alike by `python -m benchmarks.comparison`. *Asked for*: share of
the pictures, of prompts that name it, in which the judge sees it; *inverted*: the same after
textual inversion ({steps} steps on 32 drawings); *strictly*: the picture must also lie among real
drawings of it. For these less is better. *Other styles* (mean and worst), *things* and *held-out
things* (which nobody named): share of pictures that still show what was asked for; more is better.
Time: on one core that other work shared, more of it in some rows than in others, the method's own
pictures included.

How much an inversion finds says little by itself: a model that never saw `ink` gives .95 to the
judge that knows seven styles only, and .00 strictly (RESULTS.md). One seed, one target: differences
of a few hundredths are noise. The settings of the other methods were chosen on this target in few
tries; their authors know them better.
"""


def written(folder: Path, names: Sequence[str], target: Any, seed: int) -> str:
    """Write the table and the picture of all that is there; the table's text.

    Raises:
        SystemExit: if nothing is.
    """
    found = {n: json.loads(p.read_text(encoding="utf-8")) for n in names
             if (p := folder / f"{n}.json").is_file()}  # fmt: skip
    if not found:
        raise SystemExit(f"nothing is kept in {folder}: run without --write first.")
    steps = next(iter(found.values()))["attack_steps"]
    lines = [INTRO.format(target=target, seed=seed, steps=steps)]
    lines += table(HEAD, [cells(r) for r in found.values()])
    picture([folder / f"{n}.png" for n in found], PICTURE, PICTURE_SCALE)
    rows = ", ".join(r["title"] for r in found.values())
    lines += ["", f"![A row a method: {rows}](comparison.png)", "",
              f"Rows: {rows}. Left {target} asked for with some things, right each other style "
              "with one.", "", *settings(found.values())]  # fmt: skip
    text = "\n".join(lines) + "\n"
    TABLE.write_text(text, encoding="utf-8")
    return text


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    rule = "|" + "---|" * len(head)
    return ["| " + " | ".join(head) + " |", rule, *("| " + " | ".join(r) + " |" for r in rows)]


def settings(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """Lines that say what each method was set to."""
    lines = ["## Settings", ""]
    for record in records:
        if record["settings"]:
            said = ", ".join(f"{k} {v}" for k, v in record["settings"].items() if v != "")
            lines.append(f"- {record['title']}: {said}")
    return lines


def cells(record: dict[str, Any]) -> list[str]:
    """A method's row."""
    kept = record["kept"].values()
    figures = (
        record["concept_ratio"], record["concept_ratio_strict"], record["cce"],
        record["cce_strict"], sum(kept) / len(kept), min(kept), record["objects"],
        record["objects_held_out"],
    )  # fmt: skip
    minutes, seconds = divmod(round(record["seconds"]), 60)
    return [record["title"], *(f"{f:.3f}" for f in figures), f"{minutes}:{seconds:02}"]


def picture(files: Sequence[Path], path: Path, scale: int) -> None:
    """Pictures under one another as one, every pixel ``scale`` times as wide and high."""
    from PIL import Image

    rows = [Image.open(file) for file in files]
    sheet = Image.new("RGB", (rows[0].width, sum(r.height + 2 for r in rows)), "white")
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height + 2
    size = sheet.width * scale, sheet.height * scale
    sheet.resize(size, Image.Resampling.NEAREST).save(path)
