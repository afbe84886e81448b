"""An erasure beside another LoRA: do both still do what each does alone?

    python -m benchmarks.beside --lora FILE --style ink [--other fluent] [--out FILE] [--json FILE]

The other LoRA is trained here, as people train one: on another designer's drawings under prompts
that name no style ("a picture of a cat"), so that the model draws so unasked. Each is judged alone
and both together, on a model loaded afresh. COMFYUI_PATH names the host.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from pathlib import Path
from typing import Any

import torch

from .hosted import load_pack

SEED = 800_000  # of the drawings the other LoRA is trained on
DRAWINGS, STEPS, BATCH, RATE, RANK = 96, 400, 8, 2e-3, 8
PROMPT = "a picture of a {}"


def train_style(style: str, path: Path) -> None:
    """A LoRA that draws in a style unasked: the denoising loss on that style's drawings.

    Adapters on whole blocks, Adam.
    """
    from dark_miner.darkminer.files.lora_file import save_lora, to_state_dict
    from dark_miner.darkminer.method.loop import new_adapters
    from dark_miner.darkminer.method.losses import mining_loss
    from dark_miner.darkminer.model.adapter import LoraConfig
    from dark_miner.demo.gallery import SIZE, drawings
    from dark_miner.demo.models import load_demo_models
    from dark_miner.nodes.host.session import encode_images, latent_size, training_session
    from dark_miner.nodes.host.text import conditioning, contexts

    from .erasure import ANCHOR, gallery_sampling
    from .targets import OBJECT, Target

    model, clip, vae, _ = load_demo_models()
    images, _, things = drawings(style, DRAWINGS, SEED, Target.choices(OBJECT))
    latents = encode_images(model, vae, images)
    said = torch.stack(contexts(clip, [PROMPT.format(thing) for thing in things]))
    gen = torch.Generator().manual_seed(SEED)
    with training_session(
        model, anchor=conditioning(clip, ANCHOR), sampling=gallery_sampling(),
        latent_size=latent_size(vae, SIZE, SIZE), vae=vae,
    ) as session:  # fmt: skip
        config = LoraConfig(rank=RANK, alpha=float(RANK), layers="blocks")
        adapters = new_adapters(session, config, seed=SEED)
        optimizer = torch.optim.Adam(adapters.parameters(), lr=RATE)
        for _ in range(STEPS):
            which = torch.randint(len(latents), (BATCH,), generator=gen)
            x, index = latents[which], session.schedule.draw(BATCH, gen)
            noise = torch.randn(x.shape, generator=gen)
            loss = mining_loss(
                session.denoise, session.schedule, x, said[which], noise, index
            ).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        tensors = to_state_dict(adapters.state(), session.names)
        adapters.remove()
    save_lora(path, tensors, {"ss_output_name": f"draws like {style}"})


def shares(erased: str, other: str, first: Path | None, second: Path | None) -> dict[str, float]:
    """One model's shares: the erased style where it is asked for, the other where none is."""
    from dark_miner.darkminer.judge.evaluate import concept_ratio
    from dark_miner.demo.gallery import OBJECTS, STYLES

    from .figures import PICTURE_SEED, Studio
    from .targets import USER_PROMPTS

    studio = Studio(first, beside=second)

    def share(texts: list[str], seed: int, style: str) -> float:
        found, _ = studio.judge(studio.draw(texts, PICTURE_SEED + seed))
        return concept_ratio(found, STYLES.index(style)).value

    asked = [w.format(s=erased, o=o) for w in USER_PROMPTS[:2] for o in OBJECTS]
    unasked = [PROMPT.format(o) for o in OBJECTS] * 2
    return {"concept": share(asked, 1, erased), "other": share(unasked, 2, other)}


def effects(alone: dict[str, float], both: dict[str, float], none: dict[str, float]) -> Any:
    """How much of each LoRA's own effect is left when both are on (1: all of it)."""
    erasure = (none["concept"] - both["concept"]) / (none["concept"] - alone["concept"])
    other = (both["other"] - none["other"]) / (alone["other"] - none["other"])
    return {"erasure": erasure, "other": other}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.beside",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--lora", type=Path, required=True, help="the erasure")
    parser.add_argument("--style", default="ink", help="what it erases")
    parser.add_argument("--other", default="fluent", help="the style of the other LoRA")
    parser.add_argument("--out", type=Path, help="where to save the other LoRA")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    load_pack()
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    from .targets import Target

    for flag, style in (("style", args.style), ("other", args.other)):
        try:
            Target(style)
        except ValueError as error:
            parser.error(f"--{flag} {error}")
    if not args.lora.is_file():
        parser.error(f"--lora {args.lora}: no such file")
    with tempfile.TemporaryDirectory() as folder:
        second = args.out or Path(folder) / f"{args.other}.safetensors"
        train_style(args.other, second)
        found = {
            "none": shares(args.style, args.other, None, None),
            "erasure": shares(args.style, args.other, args.lora, None),
            "other": shares(args.style, args.other, None, second),
            "both": shares(args.style, args.other, args.lora, second),
        }
    alone = {"concept": found["erasure"]["concept"], "other": found["other"]["other"]}
    left = effects(alone, found["both"], found["none"])
    for name, row in found.items():
        print(f"{name:8} {args.style} asked for {row['concept']:.3f}  "
              f"{args.other} unasked {row['other']:.3f}")  # fmt: skip
    print(f"left of the erasure's effect {left['erasure']:.3f}, of the other's {left['other']:.3f}")
    if args.json:
        record = {"erased": args.style, "other": args.other, "shares": found, "left": left}
        args.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
