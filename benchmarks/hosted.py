"""Loads the pack beside a real host, as the host would: by path, under a name of its own."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
NAME = "dark_miner"


def script(name: str) -> Any:
    """A module of scripts/, which is no package."""
    folder = str(ROOT / "scripts")
    sys.path.insert(0, folder)
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(folder)


def load_pack(host: str | None = None) -> ModuleType:
    """Put the host first on the path and load the pack as ``dark_miner``.

    The pack's own root must not be on the path: its folder ``nodes/`` would hide the host's
    ``nodes.py``.

    Args:
        host: the host's folder; the environment variable COMFYUI_PATH when not given.

    Raises:
        SystemExit: if no host is named or the folder holds none.
    """
    host = host or os.environ.get("COMFYUI_PATH", "")
    if not host or not (Path(host) / "comfy" / "sd.py").is_file():
        raise SystemExit(
            "No ComfyUI found: set COMFYUI_PATH to its folder (scripts/setup.sh installs one)."
        )
    sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != ROOT]
    folder = str(Path(host).resolve())
    sys.path[:] = [folder, *(p for p in sys.path if p != folder)]
    import comfy.options

    comfy.options.enable_args_parsing(False)
    import torch
    from comfy.cli_args import args

    if not torch.cuda.is_available():
        args.cpu = True
    if NAME not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            NAME, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
        )
        assert spec is not None and spec.loader is not None
        pack = importlib.util.module_from_spec(spec)
        sys.modules[NAME] = pack
        spec.loader.exec_module(pack)
    return sys.modules[NAME]
