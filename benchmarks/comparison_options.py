"""The command line of benchmarks.comparison_own, and what its folder was asked for."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .checkpoint import add_card_options, add_checkpoint_options, check_concept, check_files
from .methods import PARTS, Method, node_of, widgets

ATTACK = "cce"


def add_options(parser: argparse.ArgumentParser) -> None:
    """What the comparison on a checkpoint takes besides."""
    add_checkpoint_options(parser, "--on")
    add_card_options(parser)
    group = parser.add_argument_group("its comparison")
    group.add_argument("--out", type=Path, help="folder of rows, LoRAs, table and pictures")
    group.add_argument("--set", action="append", default=[], metavar="METHOD.INPUT=VALUE",
                       help="another value than the node's own; may be given again")  # fmt: skip
    group.add_argument("--pool", type=int, default=64, help="pictures of the concept, for methods")
    group.add_argument("--keep", type=Path, help="prompts that do not name the concept, a line "
                       "each; none: prompts of the vocabulary's words")  # fmt: skip
    group.add_argument("--attacks", default=ATTACK, help="of the red team's, by comma")
    group.add_argument("--full", action="store_true", help="the attacks' own numbers of steps")
    group.add_argument("--prompts", type=int, default=8, help="that are asked and attacked")
    group.add_argument("--each", type=int, default=4, help="pictures of each as it is")


def check(
    parser: argparse.ArgumentParser, args: argparse.Namespace, methods: Mapping[str, Method]
) -> None:
    """End the program for what can be known to be wrong before anything is loaded."""
    if args.checkpoint is None:
        if args.set or args.out or args.concept:
            parser.error("--concept, --set and --out are for --on, a checkpoint of your own")
        return
    check_files(parser, args, "prompts_file", "keep", checkpoint="--on")
    check_concept(parser, args, "--on")
    if args.detector == "gallery":
        parser.error("--detector gallery knows the gallery alone: choose another for --on")
    for name, least in (("pool", 1), ("prompts", 1), ("each", 1)):
        if getattr(args, name) < least:
            parser.error(f"--{name} must be {least} at least")
    from dark_miner.darkminer.attacks.red_team import settings_of
    from dark_miner.darkminer.errors import DarkMinerError

    args.attacks = [name.strip() for name in args.attacks.split(",") if name.strip()]
    try:
        settings_of(args.attacks, "short")
        args.set = changes_of(args.set, methods)
    except DarkMinerError as error:
        parser.error(str(error))


def changes_of(texts: list[str], methods: Mapping[str, Method]) -> dict[str, dict[str, Any]]:
    """Method -> what is set otherwise, from ``METHOD.INPUT=VALUE``.

    A preset's settings are under ``settings``, as texts by their places.

    Raises:
        DarkMinerError: if there is no such method or input, or the value is not one it takes.
    """
    from dark_miner.darkminer.config import PRESETS
    from dark_miner.darkminer.errors import DarkMinerError
    from dark_miner.darkminer.settings import changed_by
    from dark_miner.nodes.checks import checked

    changes: dict[str, dict[str, Any]] = {}
    for text in texts:
        place, equals, value = text.partition("=")
        name, _, at = place.strip().partition(".")
        if not equals or name not in methods or not at:
            raise DarkMinerError(
                f"--set {text}: write METHOD.INPUT=VALUE, with a method of {', '.join(methods)}."
            )
        method, own = methods[name], changes.setdefault(name, {})
        if method.preset:
            own.setdefault("settings", {})[at] = value
            continue
        fields = widgets(node_of(method.node)) if method.node else {}
        if at not in fields or at in PARTS:
            known = ", ".join(n for n in fields if n not in PARTS) or "none"
            raise DarkMinerError(f"--set {text}: {name} has no input {at}; it has: {known}.")
        own[at] = checked(fields[at], read(fields[at].io_type, value, text))
    for name, own in changes.items():
        if "settings" in own:
            changed_by(PRESETS[methods[name].preset], own["settings"])
    return changes


def read(kind: str, value: str, text: str) -> Any:
    """A value of an input, from the command line.

    Raises:
        DarkMinerError: if it is no number where one is wanted.
    """
    from dark_miner.darkminer.errors import DarkMinerError

    kinds: dict[str, Any] = {"INT": int, "FLOAT": float}
    try:
        return kinds.get(kind, str)(value.strip())
    except ValueError:
        raise DarkMinerError(f"--set {text}: {value!r} is no number.") from None


def asked(args: argparse.Namespace) -> dict[str, Any]:
    """All that figures depend on, as JSON has it."""
    left_out = ("only", "whole", "write", "out", "batch", "style", "object", "attack_steps", "card")
    told = {k: v for k, v in vars(args).items() if k not in left_out}
    return json.loads(json.dumps(told, default=lambda file: str(Path(file).resolve())))


def keep_to(folder: Path, told: Mapping[str, Any]) -> None:
    """Write what was asked for, or hold it against what the folder's rows were made with.

    Raises:
        DarkMinerError: if that differs: such rows may not stand side by side.
    """
    from dark_miner.darkminer.errors import DarkMinerError

    file, rows = folder / "asked.json", [*folder.glob("*.safetensors"), *folder.glob("*.png")]
    if not file.is_file() or not rows:
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
        return
    before = json.loads(file.read_text(encoding="utf-8"))
    for name in sorted({*before, *told}):
        if before.get(name) != told.get(name):
            raise DarkMinerError(
                f"{folder} holds rows of another {name} ({before.get(name)}, now "
                f"{told.get(name)}), beside which no others may stand: name another folder by "
                "--out."
            )
