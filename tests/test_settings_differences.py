"""In what a run that goes on differs from the one that was begun."""

from dataclasses import replace

import pytest
from dark_miner.darkminer.config import FAST, PAPER
from dark_miner.darkminer.errors import DarkMinerError
from dark_miner.darkminer.files.settings_differences import MAY_CHANGE, Difference, differences
from dark_miner.darkminer.settings import changed


def test_settings_that_are_the_same_differ_in_nothing():
    assert differences(FAST, replace(FAST)) == []


def test_what_differs_is_named_with_both_values_in_the_order_of_the_settings():
    ours = changed(changed(FAST, "max_rounds", "none"), "chase.soft_prompts", "1, 2")
    ours = changed(ours, "mine.reachable", "off")
    found = differences(FAST, ours)
    assert found == [
        Difference("max_rounds", "1", "none"),
        Difference("mine.reachable", "on", "off"),
        Difference("chase.soft_prompts", "1, 4, 16", "1, 2"),
    ]
    assert found[1].words == "mine.reachable was on and is off"
    assert [one.may_change for one in found] == [True, False, False]


def test_only_what_changes_nothing_that_was_done_may_change():
    assert MAY_CHANGE == {"max_rounds", "verify.threshold", "guard.max_drift"}
    for place in MAY_CHANGE:
        (one,) = differences(PAPER, changed(PAPER, place, "1"))
        assert one.place == place and one.may_change


def test_values_that_few_digits_do_not_tell_apart_have_all_of_them():
    ours = replace(PAPER, mine=replace(PAPER.mine, lr=PAPER.mine.lr * (1 + 1e-12)))
    (one,) = differences(PAPER, ours)
    assert one.theirs == repr(PAPER.mine.lr) != one.ours


@pytest.mark.parametrize("ours", [PAPER.mine, PAPER.circumvent])
def test_settings_of_another_stage_cannot_be_compared(ours):
    with pytest.raises(DarkMinerError, match="^EraseConfig and .*Config cannot be compared"):
        differences(PAPER, ours)
