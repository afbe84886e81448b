"""What holds against what keeps: which recipes no other beats."""

from dark_miner.benchmarks.frontier import MARKERS, Point, points, undominated


def point(kept, cce=None):
    return Point("ink", 0, f"{kept}", "text start", kept, {} if cce is None else {"cce": cce})


def test_undominated_by_hand():
    """.95/.5 loses to .97/.4 in both; .97/.6 to .97/.4; an unmeasured one is no point."""
    best, worse, same, gentle, hard, unknown = (
        point(0.97, 0.4), point(0.95, 0.5), point(0.97, 0.6), point(1.0, 0.9), point(0.9, 0.0),
        point(1.0),
    )  # fmt: skip
    found = undominated([worse, same, hard, unknown, best, gentle], "cce")
    assert found == [gentle, best, hard]


def test_the_measured_recipes_can_be_drawn():
    found = points()
    assert {p.family for p in found} == set(MARKERS)
    for p in found:
        assert 0.0 <= p.kept <= 1.0 and all(0.0 <= s <= 1.0 for s in p.success.values())
    fast = {(p.target, p.seed) for p in found if p.family == "preset fast"}
    assert fast == {(t, s) for t in ("ink", "noto", "fluent", "rocket") for s in (0, 1)}
