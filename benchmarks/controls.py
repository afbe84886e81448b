"""What models that know the target, or cannot know it, score: the figures of ``controls.json``.

`python -m benchmarks.never_saw judge` writes them; `benchmarks.quality` holds an erasure against
them. For each target and seed there are four: ``never_saw`` (a UNet trained without the target),
``original`` (the shipped one), ``drawings`` (real ones of the target, through the autoencoder) and
``others`` (real drawings that do not show it).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .targets import Target

FILE = Path(__file__).with_name("controls.json")


def read() -> dict[str, Any]:
    """Target -> seed -> name of the control -> its figures."""
    return json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}


def write(target: Target, seed: int, figures: dict[str, dict[str, Any]]) -> None:
    """Put a target's controls into the file, beside those of other targets and seeds."""
    known = read()
    known.setdefault(str(target), {}).setdefault(str(seed), {}).update(figures)
    FILE.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def excess(record: dict[str, Any], target: Target, seed: int) -> dict[str, Any]:
    """attack(erased) - attack(never saw) of every attack that both have, by both judges.

    Returns:
        ``{}`` where the target has no control at this seed; shares after fewer steps as
        ``{steps: difference}``.
    """
    control = read().get(str(target), {}).get(str(seed), {}).get("never_saw", {})
    found: dict[str, Any] = {}
    for key, value in record.items():
        if not key.startswith(("cce", "context_")) or key.endswith("_distance"):
            continue
        if isinstance(value, dict):
            other = {str(k): v for k, v in control.get(key, {}).items()}
            both = {k: v - other[str(k)] for k, v in value.items() if str(k) in other}
            found |= {key: both} if both else {}
        elif key in control:
            found[key] = value - control[key]
    return found
