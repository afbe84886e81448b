"""The figures of one erasure after several numbers of rounds.

What does the paper's loop reach, and when?

    python -m benchmarks.rounds --style ink [--preset paper] [--at 3,10,20] [--json FILE]
    python -m benchmarks.rounds --style ink --folder FOLDER     keeps each LoRA; judges those it has

One run, whose LoRA is saved at each number of rounds and judged on a fresh model. Where
verification ends the loop early, the last row is what it ended with. COMFYUI_PATH names the host.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from pathlib import Path
from typing import Any

from .hosted import load_pack
from .quality import Asked, as_json, judge
from .targets import Target


def erased_at(
    target: Target, seed: int, preset: str, at: list[int], folder: Path
) -> dict[int, Path]:
    """A LoRA file for each number of rounds, made in one run unless the folder has them all."""
    from .erasure import erase_target, erasing_config, print_rounds

    files = {n: folder / f"{preset}-{target.name}-{seed}-{n}-rounds.safetensors" for n in at}
    if all(file.is_file() for file in files.values()):
        return files
    last = max(at)
    done, seconds = erase_target(
        target, seed, erasing_config(preset, last), files[last], at=files
    )  # fmt: skip
    print_rounds(done)
    print(f"{len(done.verdicts)} rounds in {seconds:.0f} s")
    return {n: file for n, file in files.items() if file.is_file()}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.rounds",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--style", default="ink")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--preset", choices=("fast", "paper"), default="paper")
    parser.add_argument("--at", default="3,10,20", help="numbers of rounds, by comma")
    parser.add_argument("--folder", type=Path, help="where the LoRAs are kept")
    parser.add_argument("--attacks", default="cce", help="by comma; nothing: none")
    parser.add_argument("--attack-steps", type=int, default=1500)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    load_pack()
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    try:
        target, at = Target(args.style), sorted({int(n) for n in args.at.split(",")})
    except ValueError as error:
        parser.error(str(error))
    if at[0] < 1:
        parser.error(f"--at {args.at}: numbers of rounds start at 1")
    attacks = [kind for kind in args.attacks.split(",") if kind]
    records: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        files = erased_at(target, args.seed, args.preset, at, folder)
        _, before = judge(None, target, Asked())
        asked = Asked(args.seed, attacks=attacks, attack_steps=args.attack_steps)
        for rounds, file in files.items():
            _, after = judge(file, target, asked)
            records.append({"rounds": rounds, **as_json(target, args.seed, before, after, 0.0)})
            print(line(records[-1], attacks), flush=True)
            if args.json:
                args.json.write_text(json.dumps(records, indent=2) + "\n", encoding="utf-8")


def line(record: dict[str, Any], attacks: list[str]) -> str:
    """One row of the table that the command prints."""
    cells = [f"{record['rounds']:3d} rounds", f"ratio {record['concept_ratio']:.3f}"]
    cells += [f"{kind} {record[kind]:.3f}" for kind in attacks]
    cells += [f"kept {record['kept_mean']:.3f} / {record['kept_worst']:.3f}"]
    cells += [f"objects {record['objects']:.3f}, held out {record['objects_held_out']:.3f}"]
    return "  ".join(cells)


if __name__ == "__main__":
    main()
