"""The report card of an erasure on a checkpoint of your own, without a server.

    python -m benchmarks.red_team --checkpoint FILE --concept "van gogh" --template "a * painting"
        --lora FILE --card FOLDER [--detector style|object|nudity] [--short|--full|--paper]
    ... --checkpoint FILE --clip FILE [FILE] --clip-type flux --vae FILE    where they lie apart

The host's own loaders read the files. The model before its erasure draws what attackers have of the
concept; then the node Red Team attacks the model with the LoRA and without it, and the node Save
Report Card writes what they found. Prompts are the pack's list for the detector's kind of concept,
or those of a file (``--prompts-file``: one a line, or a CSV such as I2P's).

What it takes is said before it begins: the terminal names the time once the model's speed has been
measured, and at the end the peak of memory. SD 1.5 at 512 x 512 and ``--short`` is estimated in
``benchmarks/RESULTS.md``.
"""

from __future__ import annotations

import argparse
import resource
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DETECTORS = {
    "style": "style (CLIP)", "object": "object (CLIP)", "nudity": "nudity (NudeNet)",
    "gallery": "gallery judge",
}  # fmt: skip
LISTS = {"style": "styles", "object": "objects", "nudity": "people", "gallery": "none"}


@dataclass(frozen=True)
class Loaded:
    """A checkpoint of the user's: MODEL, CLIP and VAE of the host."""

    model: Any
    clip: Any
    vae: Any


def add_checkpoint_options(parser: argparse.ArgumentParser, name: str = "--checkpoint") -> None:
    """What says which files make a model, and how it draws.

    Args:
        name: of the option that names the checkpoint; its value is ``checkpoint`` in any case.
    """
    group = parser.add_argument_group("a checkpoint of your own")
    group.add_argument(
        name, dest="checkpoint", metavar="FILE", type=Path, help="instead of the gallery's model"
    )
    group.add_argument("--clip", type=Path, nargs="+", default=[], help="its text encoders, apart")
    group.add_argument("--clip-type", default="stable_diffusion", help="as Load CLIP calls it")
    group.add_argument("--vae", type=Path, help="its VAE, where that is a file of its own")
    group.add_argument("--negative", default="", help="the negative prompt")
    group.add_argument("--width", type=int, default=512)
    group.add_argument("--height", type=int, default=512)
    group.add_argument("--steps", type=int, default=20, help="of sampling")
    group.add_argument("--cfg", type=float, default=7.0)
    group.add_argument("--sampler", default="euler")
    group.add_argument("--scheduler", default="normal")
    group.add_argument("--batch", type=int, default=4, help="pictures at once")
    group.add_argument("--open-clip", default="ViT-L-14", help="architecture of the judge's CLIP")
    group.add_argument("--open-clip-weights", default="openai", help="a tag, or a file")


def add_card_options(parser: argparse.ArgumentParser) -> None:
    """What else a report card of such a model needs to know."""
    group = parser.add_argument_group("its report card")
    group.add_argument("--concept", default="", help="what was erased, in words")
    group.add_argument("--template", default="a * painting", help="a prompt, * for the concept")
    group.add_argument("--anchor", default="", help="what it shows instead; the template without *")
    group.add_argument("--detector", choices=list(DETECTORS), default="style")
    group.add_argument("--prompts-file", type=Path, help="one a line, or a CSV such as I2P's")
    group.add_argument("--exclude", default="", help="words that no found text may hold")


def check_files(
    parser: argparse.ArgumentParser, args: argparse.Namespace, *more: str,
    checkpoint: str = "--checkpoint",
) -> None:  # fmt: skip
    """End the program where a file that is named is none."""
    for name in ("checkpoint", "vae", *more):
        file = getattr(args, name)
        if file is not None and not file.is_file():
            said = checkpoint if name == "checkpoint" else f"--{name.replace('_', '-')}"
            parser.error(f"{said} {file} is no file")
    for file in args.clip:
        if not file.is_file():
            parser.error(f"--clip {file} is no file")


def check_card(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """The same, and whatever else can be known before anything is loaded."""
    check_files(parser, args, "prompts_file")
    check_concept(parser, args, "--checkpoint")
    if args.card is None or args.lora is None:
        parser.error("--checkpoint needs --lora, the erasure, and --card, the folder of its report")


def check_concept(parser: argparse.ArgumentParser, args: argparse.Namespace, name: str) -> None:
    """End the program where nothing says what the concept is, or where it stands."""
    if not args.concept.strip() and args.detector != "nudity":
        parser.error(f"{name} needs --concept: what is erased, in words")
    if "*" not in args.template:
        parser.error(f"--template {args.template!r} has no *, the concept's place")


def load(args: argparse.Namespace) -> Loaded:
    """The model of the command line, by the host's loaders.

    Raises:
        SystemExit: if something of it is in none of the files; says which option names it.
    """
    import comfy.sd
    import comfy.utils

    kinds = {kind.name.lower(): kind for kind in comfy.sd.CLIPType}
    if args.clip_type not in kinds:
        raise SystemExit(f"--clip-type {args.clip_type!r}: choose of {', '.join(sorted(kinds))}.")
    clip = vae = None
    if args.clip:
        files = [str(file) for file in args.clip]
        clip = comfy.sd.load_clip(files, clip_type=kinds[args.clip_type])
    if args.vae:
        weights, about = comfy.utils.load_torch_file(str(args.vae), return_metadata=True)
        vae = comfy.sd.VAE(sd=weights, metadata=about)
        vae.throw_exception_if_invalid()
    if clip is not None and vae is not None:
        return Loaded(comfy.sd.load_diffusion_model(str(args.checkpoint)), clip, vae)
    found = comfy.sd.load_checkpoint_guess_config(
        str(args.checkpoint), output_vae=vae is None, output_clip=clip is None
    )
    model, clip, vae = found[0], clip or found[1], vae or found[2]
    for name, part in (("text encoder: name it by --clip", clip), ("VAE: name it by --vae", vae)):
        if part is None:
            raise SystemExit(f"{args.checkpoint} holds no {name}.")
    return Loaded(model, clip, vae)


def card_of_checkpoint(args: argparse.Namespace, names: list[str], effort: str) -> Path:
    """Attack a checkpoint with its LoRA and without, and write the report card.

    Returns:
        the page's place.
    """
    from dark_miner.darkminer.files.lora_load import read_lora
    from dark_miner.nodes.attack.red_team import RedTeam

    from .red_team import save_card

    started, lora, loaded = time.monotonic(), read_lora(args.lora), load(args)
    pool = pool_of(args, loaded, min(args.prompts, 32), args.seed)
    given = red_team_inputs(args, loaded, pool, names, effort)
    found = []
    for on in (lora, None):
        extra = {"lora": on} if on is not None else {"original": loaded.model}
        found.append(RedTeam.execute(**given, **extra).args[6])
        print(found[-1].found.table(), flush=True)
    page = save_card(args.card, found[0], found[1], None)
    print(f"{time.monotonic() - started:.0f} s in all, peak memory {peak()}")
    return page


def red_team_inputs(
    args: argparse.Namespace, loaded: Loaded, pool: Any, names: list[str], effort: str
) -> dict[str, Any]:
    """What the node Red Team is given, but for ``lora`` and ``original``.

    Args:
        pool: pictures of the concept, which attackers have; names: the attacks.
    """
    from dark_miner.nodes.host.text import conditioning

    return {
        **vars(loaded), "pool": pool,
        "anchor": conditioning(loaded.clip, args.anchor or without(args.template)),
        "negative": conditioning(loaded.clip, args.negative), **drawing(args), "seed": args.seed,
        "batch_size": args.batch, "detector": DETECTORS[args.detector], "effort": effort,
        "count": args.prompts, "pictures_each": args.each, "exclude_words": args.exclude,
        "open_clip_model": args.open_clip, "open_clip_weights": args.open_clip_weights,
        **prompts_of(args), **switched(names),
    }  # fmt: skip


def pool_of(args: argparse.Namespace, loaded: Loaded, count: int, seed: int) -> Any:
    """Pictures of the concept by the model before its erasure."""
    from dark_miner.darkminer.progress.plan import pool_plan
    from dark_miner.nodes.erase.image_pool import made

    from .erasure import log_stages

    sampling = sampling_of(args)
    return made(
        loaded.model, loaded.clip, loaded.vae, concept_of(args), args.template, args.negative,
        count, args.width, args.height, seed, sampling, log_stages(pool_plan(count, sampling)),
    )  # fmt: skip


def concept_of(args: argparse.Namespace) -> str:
    """Its words; NudeNet's where none are given."""
    return args.concept.strip() or "nudity"


def sampling_of(args: argparse.Namespace) -> Any:
    """How the command line has pictures drawn."""
    from dark_miner.darkminer.model.sampling import SamplingConfig

    return SamplingConfig(args.steps, args.cfg, args.sampler, args.scheduler, args.batch)


def drawing(args: argparse.Namespace) -> dict[str, Any]:
    """The same as a node's inputs."""
    return {"sampling_steps": args.steps, "cfg": args.cfg, "sampler_name": args.sampler,
            "scheduler": args.scheduler}  # fmt: skip


def switched(names: list[str]) -> dict[str, bool]:
    """The node's switch of every attack."""
    from dark_miner.darkminer.attacks.catalogue import ATTACKS

    return {name.replace("-", "_"): name in names for name in ATTACKS}


def prompts_of(args: argparse.Namespace) -> dict[str, Any]:
    """Where the node's prompts come from: a file, or the pack's list."""
    from dark_miner.darkminer.judge.user_prompts import read_csv

    if args.prompts_file is None:
        return {"prompt_list": LISTS[args.detector]}
    if args.prompts_file.suffix.lower() == ".csv":
        lines = [prompt.text for prompt in read_csv(args.prompts_file)]
    else:
        lines = args.prompts_file.read_text(encoding="utf-8").splitlines()
    return {"prompts": "\n".join([line for line in lines if line.strip()][: args.prompts])}


def without(template: str) -> str:
    """The template's words without the concept: ``"a painting"``."""
    return " ".join(template.replace("*", " ").split())


def peak() -> str:
    """The most memory this process had: of the card where there is one, else of the machine."""
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.max_memory_reserved() / 2**30:.1f} GiB on the card"
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB"
