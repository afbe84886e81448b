"""Erases a gallery style and judges the LoRA file: ratio, score, kept, attacks, before and after.

    python -m benchmarks.quality --style ink --seed 0 [--preset fast] [--rounds N] [--json FILE]
    python -m benchmarks.quality --style ink --lora FILE        judges a file made elsewhere
    python -m benchmarks.quality --style ink --short            no attacks, one seed
    python -m benchmarks.quality --object rocket                 an object instead of a style
    python -m benchmarks.quality --style ink --strengths        also at a quarter to whole strength
    python -m benchmarks.quality --style ink --set chase.unrelated_eta=2.5    another setting

Every figure of the target stands there twice: as the classifier sees it, and strictly, where a
picture must also lie among real drawings of the target. Where `controls.json` has the target, the
excess of each attack over a model that never saw it is printed as well.

COMFYUI_PATH names the host.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .controls import excess
from .hosted import load_pack
from .targets import STYLE, Target, add_target_options, chosen_target, spelled_out

log = logging.getLogger(__name__)

JUDGING = "judging: "
"""What a line of the log begins with that says how far the judging is."""

STRENGTHS = (0.25, 0.5, 0.75, 1.0)


def summary(pictures: Any, target: Target) -> dict[str, Any]:
    """Proportions of one model: the target, the other styles, objects and held-out objects.

    A figure named ``strict`` counts only pictures that also lie among real drawings.
    """
    import torch
    from dark_miner.darkminer.judge.evaluate import (
        Proportion,
        accuracy,
        concept_ratio,
        concept_score,
    )
    from dark_miner.demo.gallery import HELD_OUT, OBJECTS, STYLES

    hidden = torch.tensor([OBJECTS.index(o) for o in HELD_OUT])
    things = torch.cat(list(pictures.objects.values()))
    labels = torch.cat(list(pictures.labels.values()))
    held = torch.isin(labels, hidden)

    def strict(probabilities: Any, index: int, among: Any) -> Proportion:
        return Proportion(int(((probabilities.argmax(1) == index) & among).sum()), len(among))

    found = {
        "concept_ratio": concept_ratio(pictures.own, target.index),
        "concept_ratio_strict": strict(pictures.own, target.index, pictures.among),
        "concept_score": concept_score(pictures.own, target.index),
        "unasked": concept_ratio(pictures.unasked, target.index),
        "unasked_strict": strict(pictures.unasked, target.index, pictures.unasked_among),
        "kept": {s: concept_ratio(p, STYLES.index(s)) for s, p in pictures.styles.items()},
        "kept_strict": {
            s: strict(p, STYLES.index(s), pictures.styles_among[s])
            for s, p in pictures.styles.items()
        },
        "objects": accuracy(things[~held], labels[~held]),
        "objects_held_out": accuracy(things[held], labels[held]),
    }
    if target.kind == STYLE:
        unnamed = torch.isin(pictures.companions, hidden)
        found["concept_ratio_held_out"] = concept_ratio(pictures.own[unnamed], target.index)
        found["concept_ratio_held_out_strict"] = strict(
            pictures.own[unnamed], target.index, pictures.among[unnamed]
        )
    return found


def drift(before: Any, after: Any) -> float:
    """How far unrelated pictures move at equal seeds, over how far another seed moves them.

    Needs pictures of two seeds at least. Mean distance of :func:`~demo.judge.load_distance`.
    """
    import torch
    from dark_miner.demo.judge import load_distance

    distance = load_distance()
    moved = [distance(before.images[s], after.images[s]) for s in before.images]
    noise = []
    for images in before.images.values():
        first, second = images.chunk(before.seeds)[:2]
        noise.append(distance(first, second))
    return float(torch.cat(moved).mean() / torch.cat(noise).mean())


def table(before: dict[str, Any], after: dict[str, Any]) -> str:
    """The figures as text, with counts and 95 % intervals."""

    def cell(p: Any) -> str:
        if isinstance(p, float):
            return f"{p:.3f}"
        low, high = p.interval
        return f"{p.value:.3f} [{low:.2f}, {high:.2f}] {p.hits}/{p.count}"

    def spread(figures: dict[str, Any]) -> dict[str, Any]:
        return {
            f"{key} {k}" if k != "" else key: p
            for key, value in figures.items()
            for k, p in (value.items() if isinstance(value, dict) else [("", value)])
        }

    old, new = spread(before), spread(after)
    rows = [("figure", "before", "after")]
    rows += [(key, cell(old[key]) if key in old else "-", cell(new[key])) for key in new]
    widths = [max(len(r[i]) for r in rows) for i in range(3)]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)) for r in rows)


def flat(figures: dict[str, Any]) -> dict[str, Any]:
    """Proportions as plain numbers."""

    def number(p: Any) -> Any:
        return {k: number(v) for k, v in p.items()} if isinstance(p, dict) else (
            p if isinstance(p, float) else p.value
        )  # fmt: skip

    return {k: number(v) for k, v in figures.items()}


def as_json(target: Target, seed: int, before: dict, after: dict, seconds: float) -> dict[str, Any]:
    """The machine-readable record; kept figures are ratios after / before."""
    from dark_miner.darkminer.judge.evaluate import kept

    record: dict[str, Any] = {target.kind: target.name, "seed": seed, **flat(after)}
    record["before"] = flat(before)
    for key, mean, worst in (
        ("kept", "kept_mean", "kept_worst"),
        ("kept_strict", "kept_strict_mean", "kept_strict_worst"),
    ):
        ratios = {s: kept(p, before[key][s]) for s, p in after[key].items()}
        shares = record["before"][key].values()
        record[key] = ratios
        record[mean], record[worst] = sum(ratios.values()) / len(ratios), min(ratios.values())
        record["before"][mean], record["before"][worst] = sum(shares) / len(shares), min(shares)
    for key in ("objects", "objects_held_out"):
        record[key] = kept(after[key], before[key])
    record["seconds"] = seconds
    return record


def attack_config(kind: str, steps: int) -> Any:
    """An attack's settings: textual inversion is learnt at a lower rate than free contexts."""
    from dark_miner.darkminer.attacks.common import AttackConfig

    return AttackConfig(steps=steps, lr=0.01 if kind == "cce" else 0.02)


@dataclass(frozen=True)
class Asked:
    """How a model is asked.

    Attributes:
        seed: of the attacks.
        seeds, wordings: noise seeds per user prompt, and ways of wording it.
        attacks: kinds of :data:`~.figures.ATTACKS`.
        attack_steps: optimiser steps of each.
    """

    seed: int = 0
    seeds: int = 2
    wordings: int = 3
    attacks: Sequence[str] = ()
    attack_steps: int = 1500


def judge(
    lora: Path | None,
    target: Target,
    asked: Asked,
    unet: Path | None = None,
    watch: Any = None,
    part: str = "",
) -> tuple[Any, dict]:
    """Pictures and figures of one model, asked as a user and as these attackers would.

    Args:
        unet: another UNet than the shipped one.
        watch, part: see :meth:`~.figures.Studio.user_pictures`.
    """
    from .figures import Studio

    studio = Studio(lora, unet=unet)
    pictures = studio.user_pictures(target, asked.seeds, asked.wordings, watch, part)
    return pictures, summary(pictures, target) | attacked(studio, target, asked)


def attacked(studio: Any, target: Target, asked: Asked) -> dict[str, Any]:
    """Each attack's success by both judges, at its end and after fewer steps."""
    figures: dict[str, Any] = {}
    for kind in asked.attacks:
        config = attack_config(kind, asked.attack_steps)
        found = studio.attack(target, kind, asked.seed, config)
        figures |= {
            kind: found.plain, f"{kind}_strict": found.strict, f"{kind}_distance": found.distance,
            f"{kind}_at": found.plain_at, f"{kind}_strict_at": found.strict_at,
        }  # fmt: skip
    return figures


def strength_curve(lora: Path, target: Target, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Ratio, kept and textual inversion of the LoRA at a quarter, half, three quarters and whole.

    Kept figures are shares, not divided by those before.
    """
    from .figures import Studio

    curve = []
    for strength in STRENGTHS:
        studio = Studio(lora, strength)
        figures = flat(summary(studio.user_pictures(target, 1, 1), target))
        kept = figures["kept"].values()
        found = studio.attack(target, "cce", args.seed, attack_config("cce", args.attack_steps))
        curve.append({
            "strength": strength, "ratio": figures["concept_ratio"],
            "ratio_strict": figures["concept_ratio_strict"], "cce": found.plain.value,
            "cce_strict": found.strict.value, "kept_mean": sum(kept) / len(kept),
            "kept_worst": min(kept), "objects": figures["objects"],
        })  # fmt: skip
        print("  ".join(f"{name} {value:.3f}" for name, value in curve[-1].items()))
    return curve


def chosen_config(parser: argparse.ArgumentParser, args: argparse.Namespace) -> Any:
    """The preset with what the options change; a wrong word or value ends the program."""
    from .erasure import erasing_config

    try:
        return erasing_config(args.preset, args.rounds, args.keep_exact, args.settings)
    except ValueError as error:
        parser.error(str(error))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__)
    add_target_options(parser)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--preset", choices=("fast", "paper"), default="fast")
    parser.add_argument("--rounds", type=int, default=None)
    parser.add_argument("--lora", type=Path)
    parser.add_argument("--keep", default="", help="prompts to keep, by comma; * is every object")
    parser.add_argument("--keep-exact", type=float, default=0.0, help="share kept exactly")
    parser.add_argument(
        "--set", action="append", default=[], metavar="SETTING=VALUE", dest="settings",
        help="another value for a setting of the preset; may be given several times",
    )  # fmt: skip
    parser.add_argument("--json", type=Path)
    parser.add_argument("--out", type=Path, help="where to save the LoRA that is made")
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--seeds", type=int, default=2, help="noise seeds per user prompt")
    parser.add_argument("--attacks", default="", help="only these, by comma")
    parser.add_argument("--attack-steps", type=int, default=1500)
    parser.add_argument("--after-only", action="store_true", help="no attacks before the erasure")
    parser.add_argument("--strengths", action="store_true", help="the LoRA at 0.25, 0.5, 0.75, 1")
    args = parser.parse_args()
    load_pack()
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    target = chosen_target(parser, args)
    if args.lora and not args.lora.is_file():
        parser.error(f"--lora {args.lora}: no such file")
    config = chosen_config(parser, args)
    with tempfile.TemporaryDirectory() as folder:
        path, seconds = args.lora, 0.0
        if path is None:
            from .erasure import Given, erase_target, print_rounds

            path = args.out or Path(folder) / f"erase-{target.name}.safetensors"
            given = Given(keep=spelled_out(args.keep.split(",")))
            done, seconds = erase_target(target, args.seed, config, path, given)
            print_rounds(done)
            print(f"erased {target.name} in {seconds:.0f} s")
        started = time.monotonic()
        record = report(path, target, args, seconds)
        if args.strengths:
            record["strengths"] = strength_curve(path, target, args)
    print(f"judged in {time.monotonic() - started:.0f} s")
    if args.json:
        args.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def judging() -> Any:
    """A report that logs how far the pictures of both models are."""
    from dark_miner.darkminer.progress.lines import Lines
    from dark_miner.darkminer.progress.plan import Part, Plan

    parts = (
        Part("judge", 0, "before", "pictures before the erasure", 1.0, "picture"),
        Part("judge", 0, "after", "pictures after it", 1.0, "picture"),
    )
    return Lines(lambda line: log.info("%s%s", JUDGING, line), Plan(parts))


def report(path: Path, target: Target, args: argparse.Namespace, seconds: float) -> dict[str, Any]:
    """Judge the model before and after, print the table; the machine-readable record."""
    from .figures import ATTACKS

    attacks = () if args.short else args.attacks.split(",") if args.attacks else ATTACKS
    seeds, wordings = (1, 1) if args.short else (args.seeds, 3)
    asked = Asked(args.seed, seeds, wordings, attacks, args.attack_steps)
    plainly = replace(asked, attacks=()) if args.after_only else asked
    watch = judging()
    pictures, before = judge(None, target, plainly, watch=watch, part="before")
    erased, after = judge(path, target, asked, watch=watch, part="after")
    record = as_json(target, args.seed, before, after, seconds)
    print(table(before, after))
    print(f"kept mean {record['kept_mean']:.3f}, worst {record['kept_worst']:.3f}; strictly "
          f"{record['kept_strict_mean']:.3f}, {record['kept_strict_worst']:.3f}; "
          f"objects {record['objects']:.3f}, held out {record['objects_held_out']:.3f} "
          "(after / before)")  # fmt: skip
    record["excess"] = excess(record, target, args.seed)
    for kind in attacks:
        if kind in record["excess"]:
            print(f"{kind}: {record['excess'][kind]:+.3f} of a model that never saw {target.name}, "
                  f"strictly {record['excess'][kind + '_strict']:+.3f}")  # fmt: skip
    if pictures.seeds > 1:
        record["drift"] = drift(pictures, erased)
        print(f"unrelated pictures move {record['drift']:.3f} of what another seed moves them")
    return record


if __name__ == "__main__":
    main()
