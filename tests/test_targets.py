"""What the gallery's benchmark erases, and how it asks."""

import argparse
from dataclasses import replace

import pytest
import torch
from dark_miner.benchmarks.quality import chosen_config
from dark_miner.benchmarks.targets import OBJECT, Target, spelled_out
from dark_miner.darkminer.config import FAST, PAPER
from dark_miner.demo.gallery import HELD_OUT, OBJECTS, STYLES


def test_a_style_is_asked_for_with_every_object():
    ink = Target("ink")
    texts, companions = ink.prompts(2, 2)
    assert len(texts) == 2 * 2 * len(OBJECTS) == len(companions)
    assert texts[0] == f"a ink picture of a {OBJECTS[0]}" and companions[1] == 1
    assert all("ink" in t.split() for t in texts)
    assert ink.template == "a * drawing"
    assert "ink" not in ink.other_styles() and len(ink.other_styles()) == len(STYLES) - 1
    assert len(ink.others("noto")) == len(OBJECTS) == len(ink.other_objects())


def test_an_object_is_asked_for_in_every_style():
    rocket = Target("rocket", OBJECT)
    texts, companions = rocket.prompts(3, 1)
    assert len(texts) == 3 * 7 * len(STYLES)
    assert texts[1] == f"a {STYLES[1]} picture of a rocket" and companions[8] == 1
    assert rocket.template == "a drawing of a *"
    assert rocket.other_styles() == list(STYLES)
    assert len(rocket.others("ink")) == len(OBJECTS) - 1
    assert OBJECTS.index("rocket") not in rocket.other_objects().tolist()


def test_unasked_prompts_name_nothing_of_the_targets_kind():
    assert Target("ink").unasked(2) == [f"a picture of a {o}" for o in OBJECTS] * 2
    texts = Target("rocket", OBJECT).unasked(1)
    assert len(texts) == 7 * len(STYLES) and set(texts) == {f"a {s} picture" for s in STYLES}


def test_held_out_objects_are_no_targets():
    with pytest.raises(ValueError, match="choose one of"):
        Target(HELD_OUT[0], OBJECT)
    with pytest.raises(ValueError, match="choose one of"):
        Target("cubism")


def test_an_attackers_drawings_of_an_object_show_it_in_every_style():
    images, shown = Target("rocket", OBJECT).drawings(32, 9)
    assert images.shape == (32, 32, 32, 3)
    assert shown[:7] == list(STYLES) and set(shown) == set(STYLES)
    again = Target("rocket", OBJECT).drawings(32, 9)[0]
    assert torch.equal(images, again)
    assert len({tuple(i.flatten().tolist()) for i in images}) == 32


def test_the_target_is_read_from_its_own_answers():
    answers = (torch.zeros(2, len(STYLES)), torch.ones(2, len(OBJECTS)))
    assert Target("ink").found(answers) is answers[0]
    assert Target("rocket", OBJECT).found(answers) is answers[1]
    assert Target("rocket", OBJECT).index == OBJECTS.index("rocket")


def test_a_star_stands_for_every_object_that_may_be_named():
    prompts = spelled_out(["", "a noto drawing", "a noto drawing of a *"])
    assert prompts[0] == "a noto drawing" and prompts[1] == f"a noto drawing of a {OBJECTS[0]}"
    assert len(prompts) == 1 + len(OBJECTS) - len(HELD_OUT)
    assert not any(word in p.split() for p in prompts for word in HELD_OUT)


def chosen(*settings, preset="fast", rounds=None, keep_exact=0.0):
    """The settings that the benchmark's command line asks for."""
    parser = argparse.ArgumentParser(prog="quality")
    args = argparse.Namespace(
        preset=preset, rounds=rounds, keep_exact=keep_exact, settings=list(settings)
    )
    return chosen_config(parser, args)


def test_a_setting_of_a_stage_is_replaced_and_no_other():
    found = chosen("chase.soft_prompts=[2, 8]", "mine.count=3", "verify.threshold=auto")
    assert found.chase.soft_prompts == (2, 8) and found.mine.count == 3
    assert found.verify.threshold == "auto"
    assert chosen("mine.count=3", "mine.count=2").mine == FAST.mine
    assert found.circumvent == FAST.circumvent and found.chase.eta == FAST.chase.eta
    assert chosen() == FAST


def test_rounds_and_exact_keeping_have_options_of_their_own():
    found = chosen(rounds=3, keep_exact=0.5)
    assert found == replace(FAST, max_rounds=3, retain=replace(FAST.retain, keep_exact=0.5))
    assert chosen("max_rounds=none", preset="paper", rounds=3) == PAPER


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("chase.etta=1", "a setting there is"), ("eta=1", "a setting there is"),
        ("chase.eta", "SETTING=VALUE"), ("max_rounds.x=1", "a setting there is"),
        ("chase.eta=far", "a number, at least 0"), ("chase.eta=-1", "at least 0"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_refused(wrong, said, capsys):
    with pytest.raises(SystemExit):
        chosen(wrong)
    error = capsys.readouterr().err
    assert said in error and len(error.strip().splitlines()) == 2, "usage and one sentence"
