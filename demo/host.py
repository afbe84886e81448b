"""Finds the host for the scripts of this folder; inside a running ComfyUI nothing is needed."""

import importlib.util
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def use_host(path: str | None = None) -> None:
    """Makes `import comfy` find the ComfyUI folder that COMFYUI_PATH (or `path`) names.

    The repository's own root leaves sys.path: its nodes/ would shadow the host's nodes.py.
    Without a GPU the host is told so before it looks for one.

    Raises:
        SystemExit: no ComfyUI there.
    """
    if "comfy" in sys.modules:
        return
    folder = Path(path or os.environ.get("COMFYUI_PATH", ""))
    if not (folder / "comfy" / "sd.py").is_file():
        raise SystemExit("Set COMFYUI_PATH to the folder of a ComfyUI installation.")
    sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != ROOT]
    sys.path.insert(0, str(folder.resolve()))
    if importlib.util.find_spec("comfy") is None:
        raise SystemExit(f"{folder} cannot be imported as ComfyUI.")
    import torch
    from comfy.cli_args import args

    if not torch.cuda.is_available():
        args.cpu = True
