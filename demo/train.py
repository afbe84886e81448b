"""Trains the gallery's models.

    COMFYUI_PATH=... python -m demo.train all --minutes 120
    COMFYUI_PATH=... python -m demo.train unet --minutes 60 [--runs FOLDER] [--again]

Stages: judge, autoencoder, clip, unet (which needs autoencoder and clip); `all` does them in this
order and shares the minutes. Interrupted training goes on when the command is given again, and
so does a finished one under a larger budget. CPU or GPU. Afterwards `python -m demo.export
FOLDER` writes the weights.
"""

import argparse
from pathlib import Path

import torch

from .host import ROOT, use_host

# Part of the minutes that each stage takes under `all`.
SHARES = {"judge": 0.04, "autoencoder": 0.24, "clip": 0.12, "unet": 0.60}
FILES = {"judge": "judge.pt", "autoencoder": "ae.pt", "clip": "clip.pt", "unet": "unet.pt"}


def train(stage: str, minutes: float, args: argparse.Namespace) -> None:
    """Runs one stage until its minutes are used up."""
    from . import train_autoencoder, train_clip, train_data, train_judge, train_unet
    from .train_run import Run

    makers = {
        "judge": (train_judge, train_judge.judge),
        "autoencoder": (train_autoencoder, train_autoencoder.autoencoder),
        "clip": (train_clip, train_clip.Pair),
        "unet": (train_unet, train_unet.unet),
    }
    module, make = makers[stage]
    run = Run(
        args.runs / FILES[stage],
        make(),
        module.RECIPE,
        minutes=minutes,
        device=args.device,
        again=args.again,
        factor=args.rate,
    )
    if stage == "unet":
        latents = train_data.latents(args.runs, args.device)
        module.train(run, latents, train_data.contexts(args.runs), args.batch)
    else:
        module.train(run, train_data.pictures(args.runs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", choices=[*SHARES, "all"])
    parser.add_argument("--minutes", type=float, required=True, help="time budget")
    parser.add_argument("--runs", type=Path, default=ROOT / "demo" / "runs", help="checkpoints")
    parser.add_argument("--again", action="store_true", help="new schedule from the weights so far")
    parser.add_argument("--rate", type=float, default=1.0, help="multiplies the learning rate")
    parser.add_argument("--batch", type=int, default=64, help="pictures a step of the UNet")
    parser.add_argument("--threads", type=int, help="of the CPU")
    parser.add_argument("--device", type=torch.device)
    args = parser.parse_args()
    args.device = args.device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if args.threads:
        torch.set_num_threads(args.threads)
    args.runs.mkdir(parents=True, exist_ok=True)
    use_host()
    import comfy.model_management

    comfy.model_management.in_training = True
    stages = SHARES if args.stage == "all" else {args.stage: 1.0}
    for stage, share in stages.items():
        train(stage, args.minutes * share, args)


if __name__ == "__main__":
    main()
