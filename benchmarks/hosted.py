"""Loads the pack beside a real host, as the host would: by path, under a name of its own."""

from __future__ import annotations

import importlib
import importlib.util
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

    Args:
        host: the host's folder; the environment variable COMFYUI_PATH when not given.

    Raises:
        SystemExit: if no host is named or the folder holds none.
    """
    if NAME not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            NAME, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
        )
        assert spec is not None and spec.loader is not None
        pack = importlib.util.module_from_spec(spec)
        sys.modules[NAME] = pack
        spec.loader.exec_module(pack)
    importlib.import_module(f"{NAME}.hosting").use_host(host)
    return sys.modules[NAME]
