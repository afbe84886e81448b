import pytest
import torch
from dark_miner.darkminer.judge.evaluate import (
    Proportion,
    accuracy,
    concept_ratio,
    concept_score,
    kept,
)


def test_wilson_interval_by_hand():
    """Textbook values: 5 of 10 and the two ends."""
    low, high = Proportion(5, 10).interval
    assert (round(low, 4), round(high, 4)) == (0.2366, 0.7634)
    assert Proportion(0, 10).interval == (0.0, pytest.approx(0.2775, abs=1e-4))
    assert Proportion(10, 10).interval == pytest.approx((0.7225, 1.0), abs=1e-4)
    assert Proportion(0, 0).interval == (0.0, 1.0)


def test_ratio_score_and_accuracy():
    p = torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]])
    assert concept_ratio(p, 1) == Proportion(2, 3)
    assert concept_score(p, 1) == pytest.approx(0.5)
    assert accuracy(p, torch.tensor([0, 0, 1])) == Proportion(2, 3)


def test_kept_is_after_by_before():
    assert kept(Proportion(45, 100), Proportion(90, 100)) == pytest.approx(0.5)
    assert kept(Proportion(0, 100), Proportion(0, 100)) == 1.0
