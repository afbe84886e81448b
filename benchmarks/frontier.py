"""Draws the frontier: what holds against what keeps, one point per recipe.

    python -m benchmarks.frontier [--out benchmarks/frontier.png]

The points are the rows of RESULTS.md, in ``frontier.csv``. Needs matplotlib (requirements-dev.txt).
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
GOALS = {"cce": 0.04, "context_1": 0.10}
KEPT_GOAL = 0.97
ATTACKS = {"cce": "textual inversion (CCE)", "context_1": "one free context vector"}
MARKERS = {
    "text start": "x", "chase on values": "^", "chase on blocks": "s", "preset fast": "o",
    "preset paper": "D",
}  # fmt: skip


@dataclass(frozen=True)
class Point:
    """One recipe, measured once.

    Attributes:
        kept: mean ratio of the other styles, after over before.
        success: attack success by kind, where it was measured.
    """

    target: str
    seed: int
    recipe: str
    family: str
    kept: float
    success: dict[str, float]


def points(file: Path = FOLDER / "frontier.csv") -> list[Point]:
    """The measured recipes."""
    with file.open(encoding="utf-8", newline="") as lines:
        return [
            Point(
                row["target"], int(row["seed"]), row["recipe"], row["family"],
                float(row["kept_mean"]), {k: float(row[k]) for k in ATTACKS if row[k]},
            )
            for row in csv.DictReader(lines)
        ]  # fmt: skip


def undominated(found: Sequence[Point], attack: str) -> list[Point]:
    """Those that no other recipe beats in keeping and in holding, best keeping first."""
    measured = [p for p in found if attack in p.success]
    ordered = sorted(measured, key=lambda p: (-p.kept, p.success[attack]))
    best, front = float("inf"), []
    for point in ordered:
        if point.success[attack] < best:
            best = point.success[attack]
            front.append(point)
    return front


def draw(found: Sequence[Point], file: Path) -> None:
    """One panel per attack; the goal is the shaded corner, the step line is ink's frontier."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    left = min(p.kept for p in found) - 0.01
    figure, panels = plt.subplots(1, len(ATTACKS), figsize=(12, 5), layout="constrained")
    for panel, (attack, title) in zip(panels, ATTACKS.items(), strict=True):
        panel.fill_between([KEPT_GOAL, 1.01], 0, GOALS[attack], color="#bfe3c0", label="the goal")
        for i, (family, marker) in enumerate(MARKERS.items()):
            own = [p for p in found if p.family == family and attack in p.success]
            kept, success = [p.kept for p in own], [p.success[attack] for p in own]
            if own:
                panel.scatter(kept, success, marker=marker, s=42, label=family, color=f"C{i}")
        for p in found:
            if p.family == "preset fast" and attack in p.success:
                panel.annotate(
                    f"{p.target} {p.seed}", (p.kept, p.success[attack]), (5, 4),
                    textcoords="offset points", fontsize=8,
                )  # fmt: skip
        front = undominated([p for p in found if p.target == "ink"], attack)
        panel.step(
            [p.kept for p in front], [p.success[attack] for p in front], where="pre",
            color="#888888", linewidth=1, zorder=0, label="frontier, ink",
        )  # fmt: skip
        panel.set(
            xlabel="other styles kept, mean", ylabel="attack success", title=title,
            xlim=(left, 1.005), ylim=(-0.02, 1.05),
        )  # fmt: skip
        panel.grid(alpha=0.3)
    panels[0].legend(fontsize=8, loc="upper left")
    figure.savefig(file, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.frontier",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=FOLDER / "frontier.png")
    args = parser.parse_args()
    found = points()
    draw(found, args.out)
    for attack, title in ATTACKS.items():
        print(f"{title}: no recipe beats these in both")
        for p in undominated(found, attack):
            print(f"  kept {p.kept:.3f}, success {p.success[attack]:.3f}  "
                  f"{p.target} {p.seed}, {p.family}: {p.recipe}")  # fmt: skip


if __name__ == "__main__":
    main()
