"""The prompt filter's rule on embeddings of two numbers."""

import pytest
import torch
from dark_miner.darkminer.compare.prompt_filter import judge
from dark_miner.darkminer.errors import DarkMinerError, NotFiniteError

EAST, NORTH = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 3.0]])
BETWEEN = torch.tensor([[3.0, 4.0]])  # cosine .6 to the east, .8 to the north


def test_the_nearest_concept_decides_by_its_cosine():
    found = judge(BETWEEN, {"east": EAST, "north": NORTH}, 0.7)
    assert found.cosines == pytest.approx({"north": 0.8, "east": 0.6}) and found.nearest == "north"
    assert found.blocked and not judge(BETWEEN, {"east": EAST}, 0.7).blocked
    assert "blocked" in found.words and "'north' 0.800, 'east' 0.600" in found.words


def test_the_threshold_itself_blocks_and_opposites_do_not():
    assert judge(EAST, {"east": EAST}, 1.0).blocked
    found = judge(-EAST, {"east": EAST}, 0.0)
    assert found.cosines == pytest.approx({"east": -1.0}) and not found.blocked
    assert found.words.startswith("passed")


def test_one_part_of_a_long_prompt_or_of_a_long_concept_is_enough():
    long = torch.cat([EAST, BETWEEN])
    assert judge(long, {"north": NORTH}, 0.75).blocked
    assert not judge(EAST, {"north": NORTH}, 0.75).blocked
    assert judge(NORTH, {"long": long}, 0.75).blocked


def test_nothing_listed_and_no_numbers_are_no_pass():
    with pytest.raises(DarkMinerError, match="empty: write at least one"):
        judge(EAST, {}, 0.5)
    for bad in (float("nan"), float("inf")):
        with pytest.raises(NotFiniteError):
            judge(EAST * bad, {"north": NORTH}, 0.5)
        with pytest.raises(NotFiniteError):
            judge(EAST, {"north": NORTH * bad}, 0.5)
