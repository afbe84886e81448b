"""Settings that know their own rules: read from texts, and held against each other at the end."""

from dataclasses import replace

import pytest
from dark_miner.darkminer.config import FAST, PAPER, PRESETS, EraseConfig
from dark_miner.darkminer.errors import SettingError
from dark_miner.darkminer.settings import asked, changed, changed_by, places, rules, written


def value_of(config, place):
    for name in place.split("."):
        config = getattr(config, name)
    return config


def test_every_setting_has_a_place_in_the_order_of_the_fields():
    found = list(places(EraseConfig))
    assert found[:5] == [*rules(EraseConfig), "lora.rank"] and found[-1] == "retain.keep_images"
    assert len(found) > 80 and all(hasattr(*places(EraseConfig)[p]) for p in found)


@pytest.mark.parametrize("preset", PRESETS)
def test_what_is_written_reads_back(preset):
    config = PRESETS[preset]
    texts = {place: written(value_of(config, place)) for place in places(EraseConfig)}
    for start in PRESETS.values():
        assert changed_by(start, texts) == config


@pytest.mark.parametrize(
    "place, text, value",
    [
        ("retain.weight", "0", 0.0), ("chase.unrelated", "0", 0), ("max_rounds", "0", 0),
        ("max_rounds", "none", None), ("circumvent.preserved", "none", ()),
        ("chase.soft_prompts", "[2, 8]", (2, 8)), ("chase.soft_prompts", " None ", ()),
        ("circumvent.preserved", "c0, -C", ("c0", "-c")), ("mine.steps", "1e3", 1000),
        ("verify.threshold", "AUTO", "auto"), ("verify.threshold", "-0.5", -0.5),
        ("circumvent.fresh", "on", True), ("mine.optimizer", "SGD", "sgd"),
        ("reference_prompt", " a photo ", "a photo"),
    ],
)  # fmt: skip
def test_a_text_is_read_as_its_setting(place, text, value):
    found = value_of(changed(FAST, place, text), place)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    "place, text, words",
    [
        ("mine.steps", "0", "at least 1"), ("mine.steps", "2.5", "a whole number, at least 1"),
        ("mine.steps", "Infinity", "a whole number"), ("mine.lr", "nan", "a number, above 0"),
        ("mine.lr", "NaN", "finite and above 0"), ("mine.lr", "[" * 100_000, "a number, above 0"),
        ("mine.lr", "true", "a number, above 0"), ("text_start", "maybe", '"on" or "off".'),
        ("chase.soft_prompts", "0, 4", "at least 1"), ("circumvent.preserved", "c1", "each"),
        ("max_rounds", "", 'a whole number, at least 0, or "none"'),
        ("verify.threshold", "7", "between -1 and 1"), ("lora.layers", "all", '"values" or'),
        ("lora", "1", "a setting there is"), ("mine.x", "1", "a setting there is"),
    ],
)  # fmt: skip
def test_a_wrong_text_is_named_by_its_place(place, text, words):
    with pytest.raises(SettingError) as caught:
        changed(FAST, place, text)
    assert caught.value.setting == place and words in str(caught.value)


def test_stages_of_one_kind_are_told_apart():
    for stage in ("start", "circumvent"):
        with pytest.raises(SettingError) as caught:
            changed(FAST, f"{stage}.lr", "0")
        assert caught.value.setting == f"{stage}.lr"


def test_settings_are_held_against_each_other_only_together():
    both = changed_by(FAST, {"mine.k": "2", "mine.batch": "2"})
    assert (both.mine.k, both.mine.batch) == (2, 2)
    off = changed_by(FAST, {"text_start": "off", "chase.steps": "0"})
    assert not off.text_start and off.chase.steps == 0
    for texts, place in (
        ({"mine.k": "2"}, "mine.batch"), ({"text_start": "off"}, "text_start"),
    ):  # fmt: skip
        with pytest.raises(SettingError) as caught:
            changed_by(FAST, texts)
        assert caught.value.setting == place
    assert changed_by(PAPER, {}) == PAPER
    assert changed(FAST, "max_rounds", "3") == replace(FAST, max_rounds=3)


def test_words_say_what_is_to_be_written():
    said = {place: asked(*where) for place, where in places(EraseConfig).items()}
    assert said["bank.quantile"] == "a number, between 0 and 1"
    assert said["chase.soft_prompts"] == 'a list, each a whole number, at least 1, or "none"'
    assert said["verify.threshold"] == 'a number, between -1 and 1, or "auto"'
    assert said["reference_prompt"] == "a text"
