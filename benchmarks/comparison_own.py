"""The comparison on a checkpoint of your own: every method erases, one detector judges.

    python -m benchmarks.comparison --on FILE --concept "van gogh" --template "a * painting"
        [--detector style|object|nudity] [--only esd-x,uce,fast] [--set esd-x.steps=1000]

A method is its node with the node's own values, but for what ``--set`` says: METHOD.INPUT=VALUE,
for this pack's presets also METHOD.STAGE.SETTING=VALUE. Each erasure is then asked for in words and
attacked (``--attacks``) as by the node Red Team, with other pictures of the concept than it was
made with; and prompts that do not name the concept (``--keep``) are drawn from the noise that the
original model draws them from. Every LoRA, row and picture is kept in ``--out`` as soon as it is
made, and what is there is not made again; ``table.md`` and ``table.png`` hold what is there.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from .checkpoint import (
    DETECTORS,
    Loaded,
    concept_of,
    load,
    pool_of,
    red_team_inputs,
    sampling_of,
    without,
)
from .comparison_options import asked, keep_to
from .comparison_own_table import write
from .hosted import ROOT
from .methods import PARTS, Method, by_node, drawing_inputs, node_of, widgets

FOLDER = ROOT / ".work" / "comparison" / "own"
OTHERS_PICTURES = 700_000  # attackers have other pictures than the methods
SHOWN = 4


@dataclass(frozen=True)
class World:
    """What every method is given and judged by.

    Attributes:
        loaded: the checkpoint; encoder: open_clip's two sides, for the pictures that stay.
        pool: what methods have of the concept; red_team: what the node Red Team is given.
        keep: prompts that do not name the concept.
        before: the original model's pictures of them, ``[n, H, W, 3]``.
    """

    loaded: Loaded
    encoder: Any
    pool: Any
    red_team: Mapping[str, Any]
    keep: tuple[str, ...]
    before: Any


def compare(args: argparse.Namespace, methods: Mapping[str, Method]) -> None:
    """Make and judge what is not there yet, and write the table.

    Raises:
        SystemExit: with what is wrong, in a sentence.
    """
    from dark_miner.darkminer.errors import DarkMinerError
    from dark_miner.darkminer.files.names import file_stem

    name = f"{args.checkpoint.stem}-{file_stem(concept_of(args))}-{args.seed}"
    folder = args.out or FOLDER / name
    try:
        keep_to(folder, asked(args))
        left = [n for n in args.only if not (folder / f"{n}.json").is_file()]
        if left and not args.write:
            world = made(args)
            for one in left:
                run(one, methods[one], args, world, folder)
    except DarkMinerError as error:
        raise SystemExit(str(error)) from error
    print(write(folder, list(methods), concept_of(args), args.checkpoint.name))


def made(args: argparse.Namespace) -> World:
    """Load the checkpoint and the judge, and draw what all methods share.

    Raises:
        DarkMinerError: if the detector cannot be had, or prompts name the concept.
    """
    from dark_miner.darkminer.image_encoder import open_clip_pair
    from dark_miner.nodes.attack.detectors import detector
    from dark_miner.nodes.attack.red_team import what_attackers_know

    clip = args.open_clip, args.open_clip_weights
    detector(DETECTORS[args.detector], concept_of(args), None, *clip)  # refused before the work
    encoder, loaded = open_clip_pair(*clip), load(args)
    pool = pool_of(args, loaded, args.pool, args.seed)
    attackers = pool_of(args, loaded, min(args.prompts, 32), OTHERS_PICTURES + args.seed)
    given = red_team_inputs(args, loaded, attackers, args.attacks, "full" if args.full else "short")
    keep = (
        kept_prompts(args)
        or what_attackers_know(
            loaded.clip, pool, args.seed, (), args.prompts, args.exclude
        ).unrelated
    )
    return World(loaded, encoder, pool, given, keep, pictures(args, loaded, loaded.model, keep))


def kept_prompts(args: argparse.Namespace) -> tuple[str, ...]:
    """The lines of ``--keep``; none where no file is named.

    Raises:
        DarkMinerError: if there are fewer than two.
    """
    from dark_miner.darkminer.errors import DarkMinerError
    from dark_miner.darkminer.judge.captions import read_captions

    if args.keep is None:
        return ()
    prompts = read_captions(args.keep)
    if len(prompts) < 2:
        raise DarkMinerError(f"--keep {args.keep} holds one prompt and two are needed: write more.")
    return prompts


def pictures(args: argparse.Namespace, loaded: Loaded, model: Any, prompts: tuple[str, ...]) -> Any:
    """What a model draws of prompts ``[n, H, W, 3]``, the i-th from the seed ``--seed`` + i."""
    import torch
    from dark_miner.nodes.host.draw import drawn
    from dark_miner.nodes.host.text import conditioning

    no, size = conditioning(loaded.clip, args.negative), (args.width, args.height)
    sampling = sampling_of(args)
    return torch.cat([
        drawn(model, loaded.vae, conditioning(loaded.clip, prompt), no, size, args.seed + i,
              sampling)
        for i, prompt in enumerate(prompts)
    ])  # fmt: skip


def run(name: str, method: Method, args: argparse.Namespace, world: World, folder: Path) -> None:
    """Erase by one method and judge it; a method that the checkpoint cannot have is said so."""
    from dark_miner.darkminer.errors import DarkMinerError
    from dark_miner.darkminer.files.lora_load import read_lora
    from dark_miner.nodes.host.lora import apply_lora

    file, timed = folder / f"{name}.safetensors", folder / f"{name}.seconds"
    model = world.loaded.model
    try:
        if name != "none" and not file.is_file():
            model, seconds = erase(name, method, args, world, file)
            timed.write_text(f"{seconds:.1f}", encoding="utf-8")
    except DarkMinerError as error:
        print(f"{method.title} is left out: {error}", flush=True)
        return
    if file.is_file():
        model = apply_lora(world.loaded.model, read_lora(file))
    found = {
        "title": method.title, "settings": settings_of(name, method, args),
        "seconds": float(timed.read_text(encoding="utf-8")) if timed.is_file() else 0.0,
        **judged(args, world, model, folder / f"{name}.png"),
    }  # fmt: skip
    (folder / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    shares = ", ".join(f"{t} {hits}/{count}" for t, hits, count in found["attacks"])
    print(f"{name}: {shares}; CLIP score of other prompts {found['kept']['value']:.2f}, likeness "
          f"{found['likeness']:.3f}", flush=True)  # fmt: skip


def settings_of(name: str, method: Method, args: argparse.Namespace) -> dict[str, Any]:
    """What a method's node is set to: its own values, and those of the command line."""
    changes = args.set.get(name, {})
    if not method.node:
        return changes.get("settings", {})
    shared = {"seed", "anchor_prompt", "exclude_words", *drawing_inputs(sampling_of(args))}
    fields = {n: i.default for n, i in widgets(node_of(method.node)).items() if n not in shared}
    return {**fields, **{n: method.given[n] for n in PARTS if n in method.given}, **changes}


def erase(
    name: str, method: Method, args: argparse.Namespace, world: World, file: Path
) -> tuple[Any, float]:
    """The erased MODEL, whose LoRA, if any, is saved; and the seconds that it took, without the
    pool's.
    """
    from dark_miner.darkminer.files.lora_file import save_lora

    started, loaded = time.monotonic(), world.loaded
    shared: dict[str, Any] = {
        "seed": args.seed, "anchor_prompt": args.anchor or without(args.template),
        "exclude_words": args.exclude, **drawing_inputs(sampling_of(args)),
    }  # fmt: skip
    if method.preset:
        loop = node_of("DarkMinerLoop")
        own = {k: v for k, v in shared.items() if k in ("seed", "anchor_prompt", "exclude_words")}
        given = {n: i.default for n, i in widgets(loop).items()} | own | recipe(method, args, name)
        model, lora = loop.execute(**vars(loaded), pool=world.pool, **given).args[:2]
    else:
        model, lora = by_node(
            node_of(method.node), loaded.model, loaded.clip, concept_of(args), lambda: world.pool,
            settings_of(name, method, args), shared,
        )  # fmt: skip
    seconds = time.monotonic() - started
    if lora is not None:
        save_lora(file, lora, lora.metadata)
    return model, seconds


def recipe(method: Method, args: argparse.Namespace, name: str) -> dict[str, Any]:
    """The loop's inputs: a preset's settings with those that are changed, and the judge's CLIP."""
    from dark_miner.darkminer.config import PRESETS
    from dark_miner.darkminer.settings import changed_by

    changes = args.set.get(name, {}).get("settings", {})
    settings = changed_by(PRESETS[method.preset], changes)
    return {
        "settings": replace(settings, sampling=sampling_of(args)), "run_folder": "off",
        "negative_prompt": args.negative, "open_clip_model": args.open_clip,
        "open_clip_weights": args.open_clip_weights,
    }  # fmt: skip


def judged(args: argparse.Namespace, world: World, model: Any, picture: Path) -> dict[str, Any]:
    """Figures of an erased MODEL; its row of pictures is saved."""
    import torch
    from dark_miner.darkminer.judge.fidelity import Score, clip_scores
    from dark_miner.nodes.attack.red_team import RedTeam
    from dark_miner.nodes.host.run import save_picture

    given = {**world.red_team, "model": model, "original": world.loaded.model}
    examined = RedTeam.execute(**given).args[6]
    rows = examined.found.rows
    after = pictures(args, world.loaded, model, world.keep)
    seen, saw = world.encoder.images(after), world.encoder.images(world.before)
    score = Score.of(clip_scores(seen, world.encoder.texts(world.keep)))
    likeness = torch.nn.functional.cosine_similarity(seen, saw, dim=1).mean()
    shown = torch.cat([next(iter(rows.values())).pictures[:SHOWN], after[:SHOWN]])
    save_picture(picture, torch.cat(list(shown), dim=1)[None])
    return {
        "attacks": [[r.title, r.success.hits, r.success.count] for r in rows.values()],
        "kept": asdict(score), "likeness": float(likeness), "judge": examined.found.detector,
        "clip": world.encoder.name, "prompts": [p.text for p in examined.protocol.prompts],
        "keep": list(world.keep),
    }  # fmt: skip
