"""CLIP score and FID of a checkpoint of your own, before an erasure and after it.

    python -m benchmarks.fidelity --checkpoint FILE --lora FILE --captions captions_val2017.json
        --folder val2017 --fid-weights weights-inception-2015-12-05-6726825d.pth --count 5000

The captions are the first ``--count`` of COCO's file (in ``annotations_trainval2017.zip``) or of a
text; ``--folder`` are real pictures (the photographs of ``val2017.zip``). FID is torch-fidelity's
(``pip install torch-fidelity``) with Inception's weights of its release v0.2.0; without
``--fid-weights`` the distance is taken on CLIP's features, which is no FID, and without
``--folder`` there is none. All four are your downloads. Pictures are what the host's own sampler
draws; the i-th caption has the seed ``--seed`` + i. COMFYUI_PATH names the host.
"""

from __future__ import annotations

import argparse
import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .checkpoint import add_checkpoint_options, check_files, load, sampling_of
from .hosted import load_pack


def parsed() -> argparse.Namespace:
    """The command line, refused where a file is none."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fidelity",
                                     description=__doc__.splitlines()[0])  # fmt: skip
    add_checkpoint_options(parser)
    parser.add_argument("--lora", type=Path, help="the erasure; none: the model as it is")
    parser.add_argument("--captions", type=Path, required=True, help="COCO's JSON, or a text")
    parser.add_argument("--count", type=int, default=64, help="captions that are drawn")
    parser.add_argument("--folder", type=Path, help="real pictures")
    parser.add_argument("--fid-weights", type=Path, help="Inception's weights")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.checkpoint is None:
        parser.error("--checkpoint is needed: a file with the model")
    check_files(parser, args, "lora", "captions", "fid_weights")
    if args.folder is not None and not args.folder.is_dir():
        parser.error(f"--folder {args.folder} is no folder")
    if args.fid_weights is not None and args.folder is None:
        parser.error("--fid-weights needs --folder: FID is the distance to real pictures")
    if args.count < 2:
        parser.error("--count must be 2 at least")
    return args


def figures(args: argparse.Namespace) -> dict[str, Any]:
    """``"before"``, and with a LoRA ``"after"`` -> what its pictures came to."""
    from dark_miner.darkminer.files.lora_load import read_lora
    from dark_miner.darkminer.files.pictures import picture_files
    from dark_miner.darkminer.image_encoder import open_clip_pair
    from dark_miner.darkminer.judge import fidelity
    from dark_miner.darkminer.judge.captions import read_captions
    from dark_miner.nodes.attack.fidelity import fidelity_plan, gauge_of, measured
    from dark_miner.nodes.host.draw import drawn
    from dark_miner.nodes.host.lora import apply_lora
    from dark_miner.nodes.host.text import conditioning

    from .erasure import log_stages

    captions, real = read_captions(args.captions)[: args.count], []
    if args.folder is not None:
        fidelity.require()
        real = picture_files(args.folder)[0]
    pair = open_clip_pair(args.open_clip, args.open_clip_weights)
    loaded, sampling = load(args), sampling_of(args)
    negative, size = conditioning(loaded.clip, args.negative), (args.width, args.height)
    models = {"before": loaded.model}
    if args.lora is not None:
        models["after"] = apply_lora(loaded.model, read_lora(args.lora))
    found = {}
    for name, model in models.items():

        def draw(caption: str, i: int, model: Any = model) -> Any:
            said = conditioning(loaded.clip, caption)
            return drawn(model, loaded.vae, said, negative, size, args.seed + i, sampling)

        report = log_stages(fidelity_plan(len(captions), len(real), sampling))
        gauge = gauge_of(pair, args.fid_weights) if real else None
        found[name] = measured(draw, captions, pair, gauge, real, report)
        print(f"{name}: {found[name].words}", flush=True)
    return found


def main() -> None:
    load_pack()
    args = parsed()
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    from dark_miner.darkminer.errors import DarkMinerError

    try:
        found = figures(args)
    except DarkMinerError as error:
        raise SystemExit(str(error)) from error
    if args.json:
        told = {
            name: {"clip_score": asdict(one.score), "clip": one.clip,
                   "distance": None if one.distance is None else asdict(one.distance)}
            for name, one in found.items()
        }  # fmt: skip
        args.json.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
