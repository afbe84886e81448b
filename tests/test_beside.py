"""An erasure beside another LoRA: what is left of each one's effect."""

import pytest
from dark_miner.benchmarks.beside import effects


def test_effects_by_hand():
    """The erasure takes .8 alone and .6 beside the other, which gives .5 alone and .4 beside it."""
    none = {"concept": 1.0, "other": 0.1}
    alone = {"concept": 0.2, "other": 0.6}
    left = effects(alone, {"concept": 0.4, "other": 0.5}, none)
    assert left == {"erasure": pytest.approx(0.75), "other": pytest.approx(0.8)}
