"""Attacks a gallery model through text and latents, and says how often each gets the concept.

    python -m benchmarks.red_team --style ink [--lora FILE] [--prompts 8] [--full]
    python -m benchmarks.red_team --style ink --attacks udatk,ringabell --pictures FILE.png
    python -m benchmarks.red_team --style ink --attacks udatk --unnamed    prompts without its word

Without a LoRA the model that was never erased is attacked: an attack that does not win there says
nothing of an erasure. The attacks are those of the node Red Team, guided by the seven-way judge;
their pictures are judged strictly as well. COMFYUI_PATH names the host.
"""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path
from typing import Any

from .hosted import load_pack
from .targets import Target, add_target_options, chosen_target

PICTURE_SCALE = 3


def attack(
    target: Target,
    lora: Path | None,
    names: list[str],
    effort: Any,
    prompts: int,
    seed: int,
    unnamed: bool = False,
) -> tuple[Any, Any]:
    """What the attacks get, and which pictures of each also lie among real drawings.

    Args:
        unnamed: users' prompts do not name the target, and no text that is found may.

    Returns:
        the :class:`~dark_miner.darkminer.attacks.red_team.RedTeam`, and name -> strict proportion.
    """
    import torch
    from dark_miner.darkminer.attacks.red_team import red_team, settings_of
    from dark_miner.darkminer.judge.evaluate import Proportion
    from dark_miner.darkminer.progress.plan import red_team_plan
    from dark_miner.demo.detector import GalleryDetector
    from dark_miner.demo.gallery import SIZE
    from dark_miner.demo.limits import neighbourhood
    from dark_miner.demo.models import load_demo_models
    from dark_miner.nodes.attack.scene import Given, scene_of, text_prompts
    from dark_miner.nodes.host.session import encode_images, latent_size, training_session
    from dark_miner.nodes.host.text import conditioning
    from safetensors.torch import load_file

    from .erasure import ANCHOR, NEGATIVE, gallery_sampling, log_stages

    model, clip, vae, _ = load_demo_models()
    images, shown = target.drawings(prompts, 700_000 + seed)
    latents = encode_images(model, vae, images)
    sampling, settings = gallery_sampling(), settings_of(names, effort)
    pairs = text_prompts(target.name, target.template, shown)
    given = Given(
        tuple(pair[unnamed] for pair in pairs[1:]), pairs, latents, seed,
        exclude=(target.name,) if unnamed else (),
    )  # fmt: skip
    report = log_stages(red_team_plan(settings, prompts, sampling))
    with training_session(
        model, anchor=conditioning(clip, ANCHOR), negative=conditioning(clip, NEGATIVE),
        sampling=sampling, latent_size=latent_size(vae, SIZE, SIZE), vae=vae,
    ) as session:  # fmt: skip
        scene = scene_of(
            model, session, clip, given, lora=load_file(lora) if lora else None,
            negative=conditioning(clip, NEGATIVE), cfg=sampling.cfg,
            detector=GalleryDetector(target.name), report=report,
            original=None if lora else session,
        )  # fmt: skip
        found = red_team(scene, settings)
    near = neighbourhood(target.kind, target.name, vae)
    strict = {}
    for name, row in found.rows.items():
        among = near.holds(row.pictures) & row.sight.hits
        strict[name] = Proportion(int(torch.count_nonzero(among)), len(among))
    return found, strict


def save_pictures(found: Any, file: Path) -> None:
    """A row an attack, a column a prompt."""
    import torch
    from dark_miner.demo.measure import save_grid

    save_grid([torch.stack(list(row.pictures)) for row in found.rows.values()], file, PICTURE_SCALE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_target_options(parser)
    parser.add_argument("--lora", type=Path, help="the erasure; none: the model as it is")
    parser.add_argument("--attacks", default="", help="names with commas between; none: all")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--full", action="store_true", help="the sources' steps")
    parser.add_argument("--unnamed", action="store_true", help="prompts without the target's word")
    parser.add_argument("--pictures", type=Path, help="write what each attack drew")
    args = parser.parse_args()
    load_pack()
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    from dark_miner.darkminer.attacks.catalogue import ATTACKS

    names = [name.strip() for name in args.attacks.split(",") if name.strip()] or list(ATTACKS)
    started, target = time.monotonic(), chosen_target(parser, args)
    found, strict = attack(
        target, args.lora, names, "full" if args.full else "short", args.prompts, args.seed,
        args.unnamed,
    )  # fmt: skip
    print(found.table())
    print("strictly: " + ", ".join(f"{n} {p.value:.3f} ({p.hits}/{p.count})" for n, p in
                                   strict.items()))  # fmt: skip
    print(found.texts())
    print(f"{time.monotonic() - started:.0f} s")
    if args.pictures:
        save_pictures(found, args.pictures)


if __name__ == "__main__":
    main()
