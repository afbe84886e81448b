"""What an erasure is held against: a model that cannot know the target."""

import pytest
import torch
from dark_miner.benchmarks import controls
from dark_miner.benchmarks.never_saw import shown_drawings
from dark_miner.benchmarks.quality import flat, summary, table
from dark_miner.benchmarks.targets import OBJECT, STYLE, Target
from dark_miner.darkminer.judge.evaluate import Proportion
from dark_miner.demo.gallery import OBJECTS, STYLES


class Told:
    """Pictures of which is known what both judges say."""

    def __init__(self, own, among):
        one = torch.nn.functional.one_hot
        ink, n = STYLES.index("ink"), len(own)
        self.own = one(torch.where(torch.tensor(own), ink, 0), 7).float()
        self.among = torch.tensor(among)
        self.companions = torch.arange(n)
        self.unasked, self.unasked_among = self.own, self.among
        self.styles = {"noto": one(torch.tensor([1, 1, 0, 1]), 7).float()}
        self.styles_among = {"noto": torch.tensor([True, False, True, True])}
        self.objects = {"noto": one(torch.arange(4), 48).float()}
        self.labels = {"noto": torch.arange(4)}


def test_a_strict_figure_counts_what_both_judges_say():
    found = summary(Told([True, True, False, True], [True, False, True, False]), Target("ink"))
    assert (found["concept_ratio"].hits, found["concept_ratio_strict"].hits) == (3, 1)
    assert (found["unasked"].hits, found["unasked_strict"].hits) == (3, 1)
    assert (found["kept"]["noto"].hits, found["kept_strict"]["noto"].hits) == (3, 2)
    # Object 2 is held out: it is said in neither way to be ink here, by the classifier.
    assert (found["concept_ratio_held_out"].count, found["concept_ratio_held_out"].hits) == (1, 0)
    assert found["concept_ratio_held_out_strict"].hits == 0


def test_the_table_shows_shares_after_fewer_steps_and_figures_of_one_side():
    before = {"kept": {"noto": Proportion(3, 4)}}
    after = {"kept": {"noto": Proportion(2, 4)}, "cce": Proportion(1, 4),
             "cce_at": {50: Proportion(0, 4)}}  # fmt: skip
    text = table(before, after)
    assert "kept noto" in text and "cce_at 50" in text
    assert flat(after)["cce_at"] == {50: 0.0}


@pytest.mark.parametrize("target", [Target("ink"), Target("rocket", OBJECT)], ids=str)
def test_the_control_is_shown_no_drawing_of_the_target(target):
    shown = shown_drawings(target)
    styles = {STYLES[i] for i in (shown // len(OBJECTS)).tolist()}
    objects = {OBJECTS[i] for i in (shown % len(OBJECTS)).tolist()}
    left_out, whole = (styles, objects) if target.kind == STYLE else (objects, styles)
    everything = STYLES if target.kind == STYLE else OBJECTS
    assert set(everything) - left_out == {target.name}
    assert len(whole) == len(OBJECTS if target.kind == STYLE else STYLES)
    assert len(shown) == len(STYLES) * len(OBJECTS) * (len(everything) - 1) // len(everything)


def test_excess_is_what_a_model_that_never_saw_it_does_not_give(tmp_path, monkeypatch):
    monkeypatch.setattr(controls, "FILE", tmp_path / "controls.json")
    ink = Target("ink")
    figures = {"cce": 0.94, "cce_strict": 0.0, "cce_distance": 0.14, "cce_at": {50: 0.5}}
    controls.write(ink, 0, {"never_saw": figures})
    controls.write(ink, 0, {"original": {"cce": 1.0}})
    erased = {"cce": 0.22, "cce_strict": 0.03, "cce_distance": 0.2, "cce_at": {50: 0.1, 100: 0.2},
              "context_1": 0.9, "kept_mean": 1.0}  # fmt: skip
    found = controls.excess(erased, ink, 0)
    assert found["cce"] == pytest.approx(-0.72) and found["cce_strict"] == pytest.approx(0.03)
    assert found["cce_at"] == {50: pytest.approx(-0.4)}
    assert set(found) == {"cce", "cce_strict", "cce_at"}
    assert controls.excess(erased, ink, 1) == {} == controls.excess(erased, Target("noto"), 0)
    assert controls.read()["style ink"]["0"]["original"] == {"cce": 1.0}
