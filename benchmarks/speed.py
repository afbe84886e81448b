"""Speed, one row a command.

    python -m benchmarks.speed                      lists the rows
    python -m benchmarks.speed ROW [--json FILE]    measures one and names the machine

COMFYUI_PATH names the host. Compared programs take turns in one process, and figures are ratios of
medians or of sums, so that other work on the machine slows both alike.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from .hosted import load_pack


def rows() -> dict[str, Any]:
    """Every row by name."""
    from dark_miner.benchmarks.speed_rows import (  # noqa: F401
        gpu,
        long_runs,
        paper_round,
        server,
        steps,
    )
    from dark_miner.benchmarks.speed_rows.rows import ROWS

    return ROWS


def as_record(name: str, result: Any) -> dict[str, Any]:
    from dark_miner.benchmarks.speed_rows.rows import NOT_MEASURED, machine

    return {
        "row": name,
        "value": NOT_MEASURED if result.value is None else result.value,
        "goal": result.goal,
        "goal_is": "at least" if result.higher else "at most",
        "met": result.met,
        "note": result.note,
        "details": result.details,
        "machine": machine(),
    }


def show(record: dict[str, Any]) -> None:
    value = record["value"]
    value = value if isinstance(value, str) else f"{value:.3g}"
    verdict = {True: "met", False: "missed", None: "open"}[record["met"]]
    print(f"{record['row']}: {value} (goal {record['goal_is']} {record['goal']:g}: {verdict})")
    if record["note"]:
        print(f"  {record['note']}")
    _show_details(record["details"], "  ")
    m = record["machine"]
    print(f"  on {m['gpu'] or m['cpu']}, {m['cores']} cores, {m['threads']} threads, "
          f"torch {m['torch']}, load {m['load']}")  # fmt: skip


def _show_details(details: dict[str, Any], margin: str) -> None:
    for key, value in details.items():
        if isinstance(value, dict):
            print(f"{margin}{key}")
            _show_details(value, margin + "  ")
        else:
            print(f"{margin}{key}: {value:.4g}" if isinstance(value, float) else
                  f"{margin}{key}: {value}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    parser.add_argument("row", nargs="?", help="the row to measure; without it they are listed")
    parser.add_argument("--json", type=Path, help="where the record goes")
    parser.add_argument("--steps", type=int, help="optimiser steps of a stage; default: a whole")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--rounds", type=int, help="rounds of a long run")
    parser.add_argument("--style", default="ink")
    args = parser.parse_args()
    os.environ.setdefault("TQDM_DISABLE", "1")  # the host's own bars
    load_pack()
    known = rows()
    if args.row is None:
        for name, entry in known.items():
            print(f"{name:16} {entry.about}")
        return
    if args.row not in known:
        parser.error(f"{args.row}: choose one of {', '.join(known)}")
    from dark_miner.benchmarks.speed_rows.rows import Options

    result = known[args.row].run(Options(args.steps, args.repeats, args.rounds, args.style))
    record = as_record(args.row, result)
    show(record)
    if args.json:
        args.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
