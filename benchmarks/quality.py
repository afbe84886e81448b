"""Erases a gallery style and judges the LoRA file: ratio, score, kept, attacks, before and after.

    python -m benchmarks.quality --style ink --seed 0 [--preset fast] [--rounds N] [--json FILE]
    python -m benchmarks.quality --style ink --lora FILE        judges a file made elsewhere
    python -m benchmarks.quality --style ink --short            no attacks, one seed

COMFYUI_PATH names the host.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
from pathlib import Path
from typing import Any

from .hosted import load_pack


def summary(pictures: Any, style: str) -> dict[str, Any]:
    """Proportions of one model: the erased style, the others, objects and held-out objects."""
    import torch
    from dark_miner.darkminer.evaluate import accuracy, concept_ratio, concept_score
    from dark_miner.demo.gallery import HELD_OUT, OBJECTS, STYLES

    others = [s for s in STYLES if s != style]
    things = torch.cat([pictures.objects[s] for s in others])
    labels = torch.cat([pictures.labels[s] for s in others])
    hidden = torch.tensor([OBJECTS.index(o) for o in HELD_OUT])
    held = torch.isin(labels, hidden)
    own = pictures.styles[style]
    own_held = torch.isin(pictures.labels[style], hidden)
    return {
        "concept_ratio": concept_ratio(own, STYLES.index(style)),
        "concept_ratio_held_out": concept_ratio(own[own_held], STYLES.index(style)),
        "concept_score": concept_score(own, STYLES.index(style)),
        "kept": {s: concept_ratio(pictures.styles[s], STYLES.index(s)) for s in others},
        "objects": accuracy(things[~held], labels[~held]),
        "objects_held_out": accuracy(things[held], labels[held]),
    }


def table(before: dict[str, Any], after: dict[str, Any]) -> str:
    """The figures as text, with counts and 95 % intervals."""

    def cell(p: Any) -> str:
        if isinstance(p, float):
            return f"{p:.3f}"
        low, high = p.interval
        return f"{p.value:.3f} [{low:.2f}, {high:.2f}] {p.hits}/{p.count}"

    rows = [("figure", "before", "after")]
    for key, value in before.items():
        if isinstance(value, dict):
            rows += [(f"{key} {k}", cell(p), cell(after[key][k])) for k, p in value.items()]
        else:
            rows.append((key, cell(value), cell(after[key])))
    widths = [max(len(r[i]) for r in rows) for i in range(3)]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)) for r in rows)


def flat(figures: dict[str, Any]) -> dict[str, Any]:
    """Proportions as plain numbers."""

    def number(p: Any) -> Any:
        return {k: number(v) for k, v in p.items()} if isinstance(p, dict) else (
            p if isinstance(p, float) else p.value
        )  # fmt: skip

    return {k: number(v) for k, v in figures.items()}


def as_json(style: str, seed: int, before: dict, after: dict, seconds: float) -> dict[str, Any]:
    """The machine-readable record; kept figures are ratios after / before."""
    from dark_miner.darkminer.evaluate import kept

    record: dict[str, Any] = {"style": style, "seed": seed, **flat(after)}
    ratios = {s: kept(p, before["kept"][s]) for s, p in after["kept"].items()}
    record["kept"] = ratios
    record["kept_mean"] = sum(ratios.values()) / len(ratios)
    record["kept_worst"] = min(ratios.values())
    for key in ("objects", "objects_held_out"):
        record[key] = kept(after[key], before[key])
    record["before"] = flat(before)
    record["before"]["kept_mean"] = sum(record["before"]["kept"].values()) / len(ratios)
    record["before"]["kept_worst"] = min(record["before"]["kept"].values())
    record["seconds"] = seconds
    return record


def judge(lora: Path | None, args: argparse.Namespace) -> dict[str, Any]:
    """All figures of one model, asked as a user and (unless short) as attackers would."""
    from dark_miner.darkminer.attacks.common import AttackConfig
    from dark_miner.darkminer.evaluate import Proportion

    from .figures import ATTACKS, Studio

    studio = Studio(lora)
    seeds, wordings = (1, 1) if args.short else (args.seeds, 3)
    figures = summary(studio.user_pictures(args.style, seeds, wordings), args.style)
    for kind in () if args.short else args.attacks.split(",") if args.attacks else ATTACKS:
        rate = 0.01 if kind == "cce" else 0.02
        config = AttackConfig(steps=args.attack_steps, lr=rate)
        figures[kind] = Proportion(*studio.attack(args.style, kind, args.seed, config))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__)
    parser.add_argument("--style", default="ink")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--preset", choices=("fast", "paper"), default="fast")
    parser.add_argument("--rounds", type=int, default=None)
    parser.add_argument("--lora", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--out", type=Path, help="where to save the LoRA that is made")
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--seeds", type=int, default=2, help="noise seeds per user prompt")
    parser.add_argument("--attacks", default="", help="only these, by comma")
    parser.add_argument("--attack-steps", type=int, default=1500)
    args = parser.parse_args()
    load_pack()
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    from dark_miner.demo.gallery import STYLES

    if args.style not in STYLES:
        parser.error(f"--style {args.style}: choose one of {', '.join(STYLES)}")
    if args.lora and not args.lora.is_file():
        parser.error(f"--lora {args.lora}: no such file")
    with tempfile.TemporaryDirectory() as folder:
        path, seconds = args.lora, 0.0
        if path is None:
            from .erasure import erase_style

            path = args.out or Path(folder) / f"erase-{args.style}.safetensors"
            done, seconds = erase_style(args.style, args.seed, args.preset, args.rounds, path)
            for record in done.embeddings.history:
                scores = ", ".join(f"{s:.2f}" for s in record.scores)
                print(f"round {record.round}: scores {scores}; tau {record.threshold:.2f}")
            print(f"erased {args.style} in {seconds:.0f} s")
        started = time.monotonic()
        before, after = judge(None, args), judge(path, args)
    record = as_json(args.style, args.seed, before, after, seconds)
    print(table(before, after))
    print(f"kept mean {record['kept_mean']:.3f}, worst {record['kept_worst']:.3f}; "
          f"objects {record['objects']:.3f}, held out {record['objects_held_out']:.3f} "
          f"(after / before); judged in {time.monotonic() - started:.0f} s")  # fmt: skip
    if args.json:
        args.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
