"""The way in: puts the pack under the name that a host gives it, and begins."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path

ROOT, NAME = Path(__file__).resolve().parents[1], "dark_miner"

if __name__ == "__main__":
    spec = importlib.util.spec_from_file_location(
        NAME, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    assert spec is not None and spec.loader is not None
    sys.modules[NAME] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[NAME])
    sys.exit(importlib.import_module(f"{NAME}.fleet.command").main())
