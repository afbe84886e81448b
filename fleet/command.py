"""The command line of the fleet."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from ..darkminer.errors import DarkMinerError
from ..darkminer.progress.words import about
from ..darkminer.room import size_text
from ..hosting import use_host

USAGE = """python -m fleet plan.yaml [--check]
       python -m fleet plan --checkpoints DIR --concepts FILE [--out plan.yaml]"""
FAULTS, NOT_ALL_DONE, STOPPED = 2, 1, 130
"""Exit codes: of a plan that is refused, of one with rows that failed, of one that was stopped."""


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line asks for; the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments == ["row"]:  # how the fleet starts a row's process
        from .doing import main as do_row

        return do_row()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        return _make(arguments[1:]) if arguments[:1] == ["plan"] else _run(arguments)
    except DarkMinerError as error:
        print(error, file=sys.stderr)
        return FAULTS
    except KeyboardInterrupt:
        print("\nStopped; the same command goes on.", file=sys.stderr)
        return STOPPED


def _make(arguments: list[str]) -> int:
    from .making import make_plan, save_plan

    parser = argparse.ArgumentParser(prog="python -m fleet plan", usage=USAGE)
    parser.add_argument("--checkpoints", type=Path, required=True, help="a folder of checkpoints")
    parser.add_argument(
        "--concepts", type=Path, required=True, help="a file with one concept a line"
    )
    parser.add_argument("--out", type=Path, help="the plan's file; none: the terminal")
    args = parser.parse_args(arguments)
    text = make_plan(args.checkpoints, args.concepts)
    if args.out is None:
        print(text, end="")
    else:
        save_plan(text, args.out)
        print(f"{args.out}: look it over, then python -m fleet {args.out}")
    return 0


def _run(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m fleet", usage=USAGE)
    parser.add_argument("plan", type=Path, help="the plan's file")
    parser.add_argument(
        "--check", action="store_true", help="say what would be done, and do nothing"
    )
    args = parser.parse_args(arguments)
    from .reading import read_plan

    plan = read_plan(args.plan)
    use_host()
    from .checks import check
    from .executors import executor
    from .night import Night

    rows, faults = check(plan)
    if faults:
        print("\n".join(faults), file=sys.stderr)
        print(f"{len(faults)} faults: nothing was begun.", file=sys.stderr)
        return FAULTS
    night = Night(plan, rows, lambda line: print(line, flush=True))
    print(forecast(night.rows, night.left))
    if args.check:
        return 0
    runs = executor(plan.machine)
    print(f"Running {runs.where}; results in {plan.output}", flush=True)
    failed = night.run(runs)
    print(f"{len(rows) - failed} of {len(rows)} rows are done; see {night.folder / 'index.html'}")
    return NOT_ALL_DONE if failed else 0


def forecast(rows, left) -> str:
    """What a plan will take, before it begins."""
    from .checks import room_needed

    seconds = [one.cost.seconds for one in left]
    known = [s for s in seconds if s is not None]
    time = f"{about(sum(known))} one after the other, at a guess" if known else "time unknown"
    if known and len(known) < len(seconds):
        time += f", without {len(seconds) - len(known)} rows whose time is unknown"
    words = f"{len(rows)} rows, {len(rows) - len(left)} of them done"
    return f"{words}; left: {time}, {size_text(room_needed(left))} of disk" if left else words
