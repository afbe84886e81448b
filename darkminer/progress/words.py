"""Numbers and times of a run, as short as a person reads them."""

from __future__ import annotations

import math
from collections.abc import Sequence


def loss_text(value: float) -> str:
    """A loss: three digits that count, "0.314", "12.4", "1250"."""
    if not math.isfinite(value) or not 1e-4 <= abs(value) < 1e6:
        return f"{value:.2g}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def about(seconds: float) -> str:
    """A time as roughly as it is known: "a few seconds", "about 40 s", "about 1 h 20 min"."""
    if seconds < 10:
        return "a few seconds"
    if seconds < 55:
        return f"about {round(seconds / 10) * 10} s"
    minutes = seconds / 60
    if minutes < 10:
        return f"about {max(1, round(minutes))} min"
    if minutes < 57.5:
        return f"about {round(minutes / 5) * 5} min"
    hours, tens = divmod(round(minutes / 10), 6)
    return f"about {hours} h {tens * 10} min" if tens else f"about {hours} h"


def duration(seconds: float) -> str:
    """How long something took: "4.2 s", "3 min 10 s", "2 h 5 min"."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def fallen(losses: Sequence[float]) -> str:
    """How a training's loss has moved: the means of its first and of its last tenth."""
    if not losses:
        return "nothing to train"
    tenth = max(1, len(losses) // 10)
    first, last = sum(losses[:tenth]) / tenth, sum(losses[-tenth:]) / tenth
    return f"{len(losses)} steps · loss {loss_text(first)} to {loss_text(last)}"
