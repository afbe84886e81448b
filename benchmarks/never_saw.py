"""The control: the gallery's UNet trained from scratch without the target.

    python -m benchmarks.never_saw train --style ink [--steps 3689] [--threads 1]
    python -m benchmarks.never_saw judge --style ink [--seed 0]
    python -m benchmarks.never_saw train --object rocket

What an attack gets out of a model that cannot know the target is no leak of an erasure: only the
excess over it is. Text model, autoencoder and recipe are the gallery's own; the drawings of the
target are left out of the training, and so are the captions that name it. Interrupted training goes
on when the command is given again (20 minutes on one core of a recent server). `judge` attacks the
control and the shipped model as `benchmarks.quality` attacks an erasure, looks at real drawings
too, and writes `controls.json`. COMFYUI_PATH names the host.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import Any

from .hosted import ROOT, load_pack
from .targets import STYLE, Target, add_target_options, chosen_target

STEPS = 3689  # of 64 pictures: about what the shipped UNet was trained for
DRAWING_SEED = 650_000  # of the real drawings that the judges are shown
RUNS = ROOT / "demo" / "runs" / "never_saw"


def weights_of(target: Target, runs: Path = RUNS) -> Path:
    """Where the finished UNet of a control lies."""
    return runs / f"without-{target.name}.safetensors"


def shown_drawings(target: Target):
    """Numbers of all drawings that do not show the target, as the training counts them."""
    import torch
    from dark_miner.demo.gallery import OBJECTS
    from dark_miner.demo.train_data import COUNT

    number = torch.arange(COUNT)
    kind = number // len(OBJECTS) if target.kind == STYLE else number % len(OBJECTS)
    return number[kind != target.index]


def lay_shipped(runs: Path) -> None:
    """The shipped autoencoder and text model as the checkpoints that the training reads."""
    from dark_miner.demo.export import part
    from dark_miner.demo.models import WEIGHTS
    from dark_miner.demo.train_run import save
    from safetensors.torch import load_file

    runs.mkdir(parents=True, exist_ok=True)
    if not (runs / "ae.pt").exists():
        save({k: v.float() for k, v in load_file(WEIGHTS / "vae.safetensors").items()},
             runs / "ae.pt")  # fmt: skip
    if not (runs / "clip.pt").exists():
        text = part(load_file(WEIGHTS / "clip_text.safetensors"), "clip_l.transformer.")
        save({f"text.{k}": v.float() for k, v in text.items()}, runs / "clip.pt")


def train(target: Target, runs: Path, steps: int) -> Path:
    """Train the control to its end and write its UNet as the gallery ships its own."""
    import comfy.model_management
    import torch
    from dark_miner.demo import train_data, train_unet
    from dark_miner.demo.export import read, write
    from dark_miner.demo.models import WEIGHTS
    from dark_miner.demo.train_run import Run
    from safetensors import safe_open

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    comfy.model_management.in_training = True
    lay_shipped(runs)
    checkpoint = weights_of(target, runs).with_suffix(".pt")
    run = Run(checkpoint, train_unet.unet(), train_unet.RECIPE, total=steps, device=device)
    train_unet.train(
        run, train_data.latents(runs, device), train_data.contexts(runs),
        shown=shown_drawings(target),
    )  # fmt: skip
    std = float(torch.load(runs / "latents.pt", weights_only=True, mmap=True)["std"])
    with safe_open(WEIGHTS / "unet.safetensors", framework="pt") as opened:
        facts = {**opened.metadata(), "latent_std": repr(std)}
    facts["without"] = json.dumps({"kind": target.kind, "name": target.name, "steps": run.step})
    write(read(checkpoint), weights_of(target, runs), facts)
    return weights_of(target, runs)


def of_drawings(studio: Any, target: Target) -> dict[str, dict[str, Any]]:
    """What the judges say of real drawings, through the autoencoder: the target's and others."""
    import torch
    from dark_miner.demo.gallery import OBJECTS, drawings
    from dark_miner.demo.limits import through

    def shares(images: Any) -> dict[str, Any]:
        images, near = through(studio.vae, images), studio.near(target.kind, target.name)
        named = target.found(studio.judge(images)).argmax(1) == target.index
        distance = near.distance(images)
        return {
            "plain": float(named.float().mean()), "count": len(images),
            "strict": float((named & (distance <= near.limit)).float().mean()),
            "distance": float(distance.median()), "nearest": float(distance.min()),
        }  # fmt: skip

    objects = [o for o in OBJECTS if target.kind == STYLE or o != target.name]
    others = [drawings(s, len(objects), DRAWING_SEED, objects)[0] for s in target.other_styles()]
    own = target.drawings(len(others) * len(OBJECTS), DRAWING_SEED)[0]
    return {"drawings": shares(own), "others": shares(torch.cat(others))}


def judge(target: Target, runs: Path, asked: Any) -> dict[str, dict[str, Any]]:
    """Figures of all controls of a target."""
    import torch

    from .figures import Studio
    from .quality import flat, judge

    if not weights_of(target, runs).is_file():
        raise SystemExit(f"{weights_of(target, runs).name} is missing: train it first.")
    with torch.inference_mode():
        found = of_drawings(Studio(None), target)
    for name, unet in (("never_saw", weights_of(target, runs)), ("original", None)):
        _, figures = judge(None, target, asked, unet=unet)
        found[name] = flat(figures)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.never_saw", description=__doc__)
    parser.add_argument("command", choices=("train", "judge"))
    add_target_options(parser)
    parser.add_argument("--steps", type=int, default=STEPS, help="of training, 64 pictures each")
    parser.add_argument("--runs", type=Path, default=RUNS, help="checkpoints and weights")
    parser.add_argument("--threads", type=int, help="of the CPU")
    parser.add_argument("--seed", type=int, default=0, help="of the attacks")
    parser.add_argument("--attacks", default="", help="only these, by comma")
    parser.add_argument("--attack-steps", type=int, default=1500)
    args = parser.parse_args()
    load_pack()
    import torch

    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    if args.threads:
        torch.set_num_threads(args.threads)
    target = chosen_target(parser, args)
    if args.command == "train":
        print(train(target, args.runs, args.steps))
        return
    from . import controls
    from .figures import ATTACKS
    from .quality import Asked

    attacks = args.attacks.split(",") if args.attacks else ATTACKS
    asked = Asked(args.seed, attacks=tuple(attacks), attack_steps=args.attack_steps)
    found = judge(target, args.runs, asked)
    controls.write(target, args.seed, found)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
