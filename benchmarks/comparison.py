"""Erases one gallery target by every method, judges all alike, and writes the table.

    python -m benchmarks.comparison [--style ink] [--seed 0] [--only esd-x,uce]
    python -m benchmarks.comparison --write       only writes the table from what is kept
    python -m benchmarks.comparison --on FILE --concept "van gogh" --template "a * painting"
        your own checkpoint, judged by a detector: see benchmarks/comparison_own.py

Each method's LoRA, figures and pictures are kept in .work/comparison/TARGET-SEED as soon as they
are made, and what is there is not made again: a run can be stopped at any time. With all there is
it writes benchmarks/COMPARISON.md and its picture, a row a method. COMFYUI_PATH names the host.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from .comparison_options import add_options, check
from .comparison_own import compare
from .comparison_table import written
from .hosted import ROOT, load_pack
from .methods import METHODS, Method, by_node, drawing_inputs, node_of
from .targets import Target, add_target_options, chosen_target

log = logging.getLogger(__name__)

FOLDER = ROOT / ".work" / "comparison"
POOL_SIZE = 64
SHOWN = ("apple", "cat", "fish", "rocket", "tree", "whale")


def erase(method: Method, target: Target, seed: int, path: Path) -> tuple[float, Any]:
    """Erase the target; the seconds that it took, its pictures included, and the erased MODEL.

    The MODEL is None where the LoRA was saved to ``path``.
    """
    if method.preset:
        from dark_miner.darkminer.config import PRESETS

        from .erasure import erase_target

        config = replace(PRESETS[method.preset], **method.given)
        _, seconds = erase_target(target, seed, config, path)
        return seconds, None
    from dark_miner.darkminer.files.lora_file import save_lora
    from dark_miner.demo.gallery import HELD_OUT, SIZE
    from dark_miner.demo.models import load_demo_models
    from dark_miner.nodes.erase.image_pool import made

    from .erasure import ANCHOR, NEGATIVE, gallery_sampling, log_stages

    model, clip, vae, _ = load_demo_models()
    started, sampling = time.monotonic(), gallery_sampling()

    def pool() -> Any:
        return made(
            model, clip, vae, target.name, target.template, NEGATIVE, POOL_SIZE, SIZE, SIZE, seed,
            sampling, log_stages(),
        )  # fmt: skip

    shared = {"seed": seed, "anchor_prompt": ANCHOR, "exclude_words": ", ".join(HELD_OUT),
              **drawing_inputs(sampling)}  # fmt: skip
    node = node_of(method.node)
    erased, lora = by_node(node, model, clip, target.name, pool, method.given, shared)
    seconds = time.monotonic() - started
    if lora is None:
        return seconds, erased
    save_lora(path, lora, lora.metadata)
    return seconds, None


def judged(studio: Any, target: Target, seed: int, steps: int) -> dict[str, Any]:
    """Figures of one model, asked as a user and inverted by an attacker."""
    from .quality import attack_config, flat, summary

    found = studio.attack(target, "cce", seed, attack_config("cce", steps), at=())
    figures = summary(studio.user_pictures(target, 1, 1), target)
    figures |= {"cce": found.plain, "cce_strict": found.strict, "cce_distance": found.distance}
    counts = {k: [p.hits, p.count] for k, p in figures.items() if hasattr(p, "hits")}
    return {**flat(figures), "counts": counts}


def drawn(studio: Any, target: Target, path: Path) -> None:
    """Save a row: the target asked for with some things, then the other styles without it."""
    import torch
    from dark_miner.nodes.host.run import save_picture

    words = [w for w in SHOWN if w in target.companions] or list(target.companions)[:6]
    texts = [target.attack_template.replace("*", target.name).format(w) for w in words]
    others = target.other_styles()
    texts += [f"a {s} drawing of a {SHOWN[i % len(SHOWN)]}" for i, s in enumerate(others)]
    with torch.no_grad():
        images = studio.draw(texts, 4_242)
    save_picture(path, torch.cat(list(images), dim=1)[None])


def run(name: str, target: Target, seed: int, folder: Path, steps: int) -> None:
    """Erase and judge, unless that is kept already."""
    from .figures import Studio

    lora, record, picture = (folder / f"{name}{e}" for e in (".safetensors", ".json", ".png"))
    if record.is_file():
        return
    method, timed, erased = METHODS[name], folder / f"{name}.seconds", None
    folder.mkdir(parents=True, exist_ok=True)
    if name != "none" and not lora.is_file():
        seconds, erased = erase(method, target, seed, lora)
        timed.write_text(f"{seconds:.1f}", encoding="utf-8")
        print(f"{name}: erased in {seconds:.0f} s", flush=True)
    studio = Studio(lora if lora.is_file() else None)
    if erased is not None:
        studio.model = erased
    figures = judged(studio, target, seed, steps)
    drawn(studio, target, picture)
    found = {
        "title": method.title, "settings": method.given, "attack_steps": steps,
        "seconds": float(timed.read_text(encoding="utf-8")) if timed.is_file() else 0.0, **figures,
    }  # fmt: skip
    record.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    kept = found["kept"].values()
    print(f"{name}: asked {found['concept_ratio']:.3f}, strictly "
          f"{found['concept_ratio_strict']:.3f}; cce {found['cce']:.3f}, strictly "
          f"{found['cce_strict']:.3f}; kept {sum(kept) / len(kept):.3f}, worst {min(kept):.3f}; "
          f"things {found['objects']:.3f}", flush=True)  # fmt: skip


def parsed() -> tuple[argparse.Namespace, argparse.ArgumentParser]:
    """The command line, refused where it contradicts itself; ``only`` are names of methods."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.comparison", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add_target_options(parser)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help=f"of {', '.join(METHODS)}, by comma")
    parser.add_argument("--attack-steps", type=int, default=400)
    parser.add_argument("--write", action="store_true", help="make nothing, write the table")
    add_options(parser)
    args = parser.parse_args()
    args.whole, chosen = not args.only, args.only
    args.only = [n.strip() for n in chosen.split(",") if n.strip()] or list(METHODS)
    if unknown := [n for n in args.only if n not in METHODS]:
        parser.error(f"--only {','.join(unknown)}: choose of {', '.join(METHODS)}")
    check(parser, args, METHODS)
    return args, parser


def main() -> None:
    load_pack()
    args, parser = parsed()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", force=True)
    if args.checkpoint is not None:
        compare(args, METHODS)
        return
    target = chosen_target(parser, args)
    folder = FOLDER / f"{target.name}-{args.seed}"
    for name in [] if args.write else args.only:
        run(name, target, args.seed, folder, args.attack_steps)
    if args.write or args.whole:
        print(written(folder, list(METHODS), target, args.seed))


if __name__ == "__main__":
    main()
