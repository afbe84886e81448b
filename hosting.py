"""A real host for programs that are not started by it: benchmarks, tests, the fleet."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent


def use_host(host: str | None = None) -> Path:
    """Put the host first on the path, as its own ``main.py`` would have it.

    The pack's own root must not be on the path: its folder ``nodes/`` would hide the host's
    ``nodes.py``.

    Args:
        host: the host's folder; the environment variable COMFYUI_PATH when not given.

    Returns:
        the host's folder.

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
    return Path(folder)
