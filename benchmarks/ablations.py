"""The paper's ablations (its tables 5 to 10) on the gallery, one command each.

    python -m benchmarks.ablations                      lists them
    python -m benchmarks.ablations length [--style ink] [--rounds N] [--json FILE]
    python -m benchmarks.ablations length anchor        several; what they share is run once

Everything but what a table varies is the paper's, save the optimiser: Adam and fewer steps take as
far in minutes as the paper's gradient descent does in hours. COMFYUI_PATH names the host.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .erasure import ANCHOR, POOL_SIZE, Given, erase_target
from .hosted import load_pack
from .quality import Asked, as_json, judge
from .targets import Target

ROUNDS = 5
TITLES = {
    "length": "tokens of the mined embedding (table 5)",
    "anchor": "the anchor prompt (table 6)",
    "pool_seed": "the image pool's seed (table 7)",
    "pool_size": "pictures in the image pool (table 8)",
    "preserved": "the parts of equation 8 (table 9)",
    "threshold": "the verifying threshold (table 10)",
}
ATTACKED = ("pool_seed", "threshold")  # the paper gives textual inversion in these two


@dataclass(frozen=True)
class Case:
    """One row of a table: what it is called, and what is run."""

    label: str
    config: Any
    given: Given = Given()


def base(rounds: int) -> Any:
    """The paper's loop with Adam."""
    from dark_miner.darkminer.config import PAPER

    return replace(
        PAPER,
        max_rounds=rounds,
        mine=replace(
            PAPER.mine, optimizer="adam", steps=100, lr=0.05, lr_late=0.02, lr_drop=70
        ),
        circumvent=replace(
            PAPER.circumvent, optimizer="adam", steps=100, batch=2, lr=5e-3, lr_late=2e-3,
            lr_drop=80,
        ),
    )  # fmt: skip


def cases(name: str, rounds: int) -> list[Case]:
    """The rows of one table; the paper's own value is among them."""
    config = base(rounds)

    def circumventing(**values: Any) -> Any:
        return replace(config, circumvent=replace(config.circumvent, **values))

    whole = config.circumvent.preserved
    tables = {
        "length": [
            Case(str(n), replace(config, mine=replace(config.mine, length=n)))
            for n in (1, 8, 16, 32)
        ],
        "anchor": [
            Case(f'"{prompt}"', config, Given(anchor=prompt))
            for prompt in ("", "a natural drawing", "a happy drawing", ANCHOR)
        ],
        "pool_seed": [Case(str(n), config, Given(pool_seed=n)) for n in (0, 1, 2)],
        "pool_size": [
            Case(str(n), config, Given(pool_size=n)) for n in (20, POOL_SIZE, 10 * POOL_SIZE)
        ],
        "preserved": [
            *(Case(f"without {part}", circumventing(preserved=tuple(p for p in whole if p != part)))
              for part in whole),
            Case("all", config),
        ],
        "threshold": [
            Case(f"{tau:g}", replace(config, verify=replace(config.verify, threshold=tau)))
            for tau in (0.6, 0.5, 0.4, 0.3, 0.2)
        ],
    }  # fmt: skip
    return tables[name]


def measure(case: Case, target: Target, before: dict, asked: Asked) -> dict[str, Any]:
    """Erase as the case says and judge the file; the row of a table."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "erase.safetensors"
        done, seconds = erase_target(target, asked.seed, case.config, path, case.given)
        _, after = judge(path, target, asked)
    found = as_json(target, asked.seed, before, after, seconds)
    keys = ("concept_ratio", "concept_score", "kept_mean", "kept_worst", "objects")
    row = {key: found[key] for key in (*keys, *asked.attacks)}
    return row | {"rounds": len(done.verdicts), "last_score": done.score, "seconds": seconds}


def show(name: str, rows: dict[str, dict]) -> None:
    """A table as text."""
    print(TITLES[name])
    for label, row in rows.items():
        cells = [f"ratio {row['concept_ratio']:.3f}", f"score {row['concept_score']:.3f}"]
        cells += [f"cce {row['cce']:.3f}"] if "cce" in row else []
        cells += [f"kept {row['kept_mean']:.3f} / {row['kept_worst']:.3f}"]
        cells += [f"{row['rounds']} rounds, last score {row['last_score']:.2f}"]
        print(f"  {label:20}", "  ".join(cells), f" {row['seconds']:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ablations",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", help="tables to make; without one they are listed")
    parser.add_argument("--style", default="ink")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="rounds at the most")
    parser.add_argument("--attack-steps", type=int, default=1500)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if not args.names:
        for name, title in TITLES.items():
            print(f"{name:16} {title}")
        return
    if unknown := [name for name in args.names if name not in TITLES]:
        parser.error(f"{', '.join(unknown)}: choose from {', '.join(TITLES)}")
    load_pack()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", force=True)
    try:
        target = Target(args.style)
    except ValueError as error:
        parser.error(f"--style {error}")
    asked = Asked(args.seed, seeds=1, attack_steps=args.attack_steps)
    _, before = judge(None, target, asked)
    record: dict[str, dict[str, dict]] = {}
    known: dict[tuple[Any, Given, Asked], dict] = {}
    for name in args.names:
        questions = replace(asked, attacks=("cce",) if name in ATTACKED else ())
        rows = record[name] = {}
        for case in cases(name, args.rounds):
            given = case.given
            if given.pool_seed is None:
                given = replace(given, pool_seed=args.seed)
            key = (case.config, given, questions)
            if key not in known:
                known[key] = measure(case, target, before, questions)
            rows[case.label] = known[key]
            if args.json:
                args.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        show(name, rows)


if __name__ == "__main__":
    main()
