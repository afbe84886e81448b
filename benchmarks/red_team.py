"""Attacks a gallery model through text and latents, and says how often each gets the concept.

    python -m benchmarks.red_team --style ink [--lora FILE] [--prompts 8] [--full]
    python -m benchmarks.red_team --style ink --attacks udatk,ringabell --pictures FILE.png
    python -m benchmarks.red_team --style ink --attacks udatk --unnamed    prompts without its word
    python -m benchmarks.red_team --style ink --lora FILE --gamma      the preprint's figure 3
    python -m benchmarks.red_team --style ink --lora FILE --card FOLDER --short
    python -m benchmarks.red_team --style ink --lora FILE --card FOLDER --paper [--control UNET]
    python -m benchmarks.red_team --checkpoint FILE --concept "van gogh" --lora FILE
        --card FOLDER --detector style --short    your own: see benchmarks/checkpoint.py

With ``--card`` the model before its erasure is attacked as well, and a UNet that never saw the
target where there is one (``benchmarks.never_saw`` trains it); FOLDER gets the report card as a
page, a picture and a JSON file. ``--short`` takes a tenth of the steps and eight prompts, minutes;
``--paper`` the sources' steps, a hundred prompts and ten pictures of each as it is, as in the
preprint's section 4.1, hours. With a LoRA the card also has its strength curve and the drift of
prompts that do not name the target.

Without a LoRA the model that was never erased is attacked: an attack that does not win there says
nothing of an erasure. The attacks are those of the node Red Team, guided by the seven-way judge;
their pictures are judged strictly as well. COMFYUI_PATH names the host.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .checkpoint import add_card_options, add_checkpoint_options, card_of_checkpoint, check_card
from .hosted import load_pack
from .targets import Target, add_target_options, chosen_target

PICTURE_SCALE = 3
FEW, MANY, EACH = 8, 100, 10  # prompts; the preprint's, and its pictures of each as it is


@dataclass(frozen=True)
class Asked:
    """What a gallery model is asked.

    Attributes:
        prompts: how many; each: pictures of every prompt as it is.
        seed: of the drawings that attackers have, and of the attacks.
        unnamed: users' prompts do not name the target, and no text that is found may.
    """

    prompts: int
    each: int = 1
    seed: int = 0
    unnamed: bool = False


@contextmanager
def scene_on(
    target: Target, lora: Path | None, asked: Asked, unet: Path | None = None,
    planned: Callable[[Any], Any] = lambda _: None,
) -> Iterator[tuple[Any, Any, Any]]:  # fmt: skip
    """A scene on a gallery model, what its attackers know, and its CLIP.

    Args:
        unet: another UNet than the shipped one.
        planned: what attackers know -> the plan of what is reported.
    """
    from dark_miner.demo.detector import GalleryDetector
    from dark_miner.demo.gallery import SIZE
    from dark_miner.demo.models import load_demo_models
    from dark_miner.nodes.attack.scene import Given, scene_of, text_prompts
    from dark_miner.nodes.host.session import encode_images, latent_size, training_session
    from dark_miner.nodes.host.text import conditioning
    from safetensors.torch import load_file

    from .erasure import ANCHOR, NEGATIVE, gallery_sampling, log_stages

    model, clip, vae, _ = load_demo_models(unet=unet)
    images, shown = target.drawings(asked.prompts, 700_000 + asked.seed)
    sampling, latents = gallery_sampling(), encode_images(model, vae, images)
    pairs = text_prompts(target.name, target.template, shown)
    given = Given(
        tuple(pair[asked.unnamed] for pair in pairs[1:]), pairs, latents, asked.seed,
        exclude=(target.name,) if asked.unnamed else (), concept=target.name,
    )  # fmt: skip
    with training_session(
        model, anchor=conditioning(clip, ANCHOR), negative=conditioning(clip, NEGATIVE),
        sampling=sampling, latent_size=latent_size(vae, SIZE, SIZE), vae=vae,
    ) as session:  # fmt: skip
        yield scene_of(
            model, session, clip, given, lora=load_file(lora) if lora else None,
            negative=conditioning(clip, NEGATIVE), cfg=sampling.cfg,
            detector=GalleryDetector(target.name), report=log_stages(planned(given)),
            original=None if lora else session,
        ), given, clip  # fmt: skip


def attack(
    target: Target, lora: Path | None, names: list[str], effort: Any, asked: Asked,
    unet: Path | None = None,
) -> Any:  # fmt: skip
    """What the attacks get, as :class:`~dark_miner.darkminer.attacks.examined.Examined`."""
    from dark_miner.darkminer.attacks.examined import Examined, Protocol, versions
    from dark_miner.darkminer.attacks.red_team import red_team, settings_of
    from dark_miner.darkminer.progress.attack_plans import red_team_plan
    from dark_miner.nodes.attack.red_team import name_of
    from dark_miner.nodes.attack.scene import effects_of
    from safetensors.torch import load_file

    from .erasure import gallery_sampling

    started, sampling, settings = time.monotonic(), gallery_sampling(), settings_of(names, effort)

    def planned(given: Any) -> Any:
        unrelated = len(given.unrelated) if lora else 0
        return red_team_plan(settings, asked.prompts, sampling, asked.each, unrelated)

    with scene_on(target, lora, asked, unet, planned) as (scene, given, clip):
        found = red_team(scene, settings, asked.each)
        more = effects_of(scene, clip, given) if lora else None
        protocol = Protocol(
            target.name, given.asked_so, asked.seed, effort, settings, sampling,
            scene.detector.identity, scene.model.fingerprint,
            name_of(load_file(lora) if lora else None), versions(), time.monotonic() - started,
            asked.each,
        )  # fmt: skip
    return Examined(found, protocol, more)


def print_gammas(target: Target, lora: Path | None, asked: Asked) -> None:
    """The concept's score of pictures from gamma times each prompt's context (figure 3)."""
    from dark_miner.darkminer.attacks.gamma import gamma_curve

    models = [("before", None)] + ([("after", lora)] if lora else [])
    for name, file in models:
        with scene_on(target, file, asked) as (scene, _, _):
            for point in gamma_curve(scene):
                score, ratio = point.score, point.ratio
                told = f"{score.value:.3f} [{score.low:.2f}, {score.high:.2f}]"
                print(f"{name:6}  gamma {point.gamma:5.2f}  score {told}  ratio {ratio.value:.3f} "
                      f"({ratio.hits}/{ratio.count})", flush=True)  # fmt: skip


def strictly(target: Target, found: Any) -> dict[str, Any]:
    """Which pictures of each attack also lie among real drawings: name -> proportion."""
    import torch
    from dark_miner.darkminer.judge.evaluate import Proportion
    from dark_miner.demo.limits import neighbourhood
    from dark_miner.demo.models import load_demo_models

    near = neighbourhood(target.kind, target.name, load_demo_models()[2])
    among = {name: near.holds(row.pictures) & row.sight.hits for name, row in found.rows.items()}
    return {n: Proportion(int(torch.count_nonzero(a)), len(a)) for n, a in among.items()}


def save_card(folder: Path, after: Any, before: Any, control: Any) -> Path:
    """Write the report card; the page's place."""
    from dark_miner.darkminer.card.card import card_of
    from dark_miner.nodes.attack.card import write_card

    folder.mkdir(parents=True, exist_ok=True)
    page = folder / "card.html"
    write_card(card_of(after, before, control), page)
    return page


def of_checkpoint(args: argparse.Namespace, names: list[str], effort: str) -> Path:
    """The report card of a checkpoint; what is wrong with it in one sentence."""
    from dark_miner.darkminer.errors import DarkMinerError

    try:
        return card_of_checkpoint(args, names, effort)
    except DarkMinerError as error:
        raise SystemExit(str(error)) from error


def save_pictures(found: Any, file: Path) -> None:
    """A row an attack, a column a prompt."""
    import torch
    from dark_miner.demo.measure import save_grid

    save_grid([torch.stack(list(row.pictures)) for row in found.rows.values()], file, PICTURE_SCALE)


def parsed() -> tuple[argparse.Namespace, Target]:
    """The command line, refused where it contradicts itself."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.red_team",
                                     description=__doc__.splitlines()[0])  # fmt: skip
    add_target_options(parser)
    parser.add_argument("--lora", type=Path, help="the erasure; none: the model as it is")
    parser.add_argument("--attacks", default="", help="names with commas between; none: all")
    parser.add_argument("--prompts", type=int, help=f"how many; {FEW}, with --paper {MANY}")
    parser.add_argument("--each", type=int, help=f"pictures of a prompt; 1, with --paper {EACH}")
    parser.add_argument("--seed", type=int, default=0)
    effort = parser.add_mutually_exclusive_group()
    effort.add_argument("--short", action="store_true", help="a tenth of the steps (the default)")
    effort.add_argument("--full", action="store_true", help="the sources' steps")
    effort.add_argument("--paper", action="store_true", help=f"the same, and {MANY} prompts")
    parser.add_argument("--unnamed", action="store_true", help="prompts without the target's word")
    parser.add_argument("--pictures", type=Path, help="write what each attack drew")
    parser.add_argument("--card", type=Path, help="folder of the report card")
    parser.add_argument("--gamma", action="store_true", help="no attacks: the curve over gamma")
    parser.add_argument("--control", type=Path, help="a UNet that never saw the target")
    add_checkpoint_options(parser)
    add_card_options(parser)
    args = parser.parse_args()
    for name in ("lora", "control"):
        file = getattr(args, name)
        if file is not None and not file.is_file():
            parser.error(f"--{name} {file} is no file")
    if args.control and not args.card:
        parser.error("--control stands on a report card: name its folder by --card")
    if args.checkpoint:
        check_card(parser, args)
    args.prompts = args.prompts or (MANY if args.paper else FEW)
    args.each = args.each or (EACH if args.paper else 1)
    return args, chosen_target(parser, args)


def main() -> None:
    load_pack()
    args, target = parsed()
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    from dark_miner.darkminer.attacks.catalogue import ATTACKS

    names = [name.strip() for name in args.attacks.split(",") if name.strip()] or list(ATTACKS)
    effort = "full" if args.full or args.paper else "short"

    if args.checkpoint:
        print(of_checkpoint(args, names, effort))
        return
    asked = Asked(args.prompts, args.each, args.seed, args.unnamed)
    if args.gamma:
        print_gammas(target, args.lora, asked)
        return

    def attacked(lora: Path | None, unet: Path | None = None) -> Any:
        return attack(target, lora, names, effort, asked, unet)

    after = attacked(args.lora)
    print(after.found.table())
    print("strictly: " + ", ".join(f"{n} {p.value:.3f} ({p.hits}/{p.count})" for n, p in
                                   strictly(target, after.found).items()))  # fmt: skip
    print(after.found.texts())
    print(f"{after.protocol.seconds:.0f} s")
    if args.pictures:
        save_pictures(after.found, args.pictures)
    if args.card:
        before = attacked(None) if args.lora else None
        control = attacked(None, args.control) if args.control else None
        print(save_card(args.card, after, before, control))


if __name__ == "__main__":
    main()
