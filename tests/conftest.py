"""Puts the pack under the name ``dark_miner``, as a host loads it: from its folder, by path."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def _load_pack() -> None:
    if "dark_miner" in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(
        "dark_miner", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    assert spec is not None and spec.loader is not None
    pack = importlib.util.module_from_spec(spec)
    sys.modules["dark_miner"] = pack
    spec.loader.exec_module(pack)


_load_pack()
