"""Settings that know their own rules: read from texts, and held against each other at the end."""

from dataclasses import fields, replace

import pytest
from dark_miner.darkminer.attacks.common import AttackConfig
from dark_miner.darkminer.attacks.verdict import AttackVerdictConfig
from dark_miner.darkminer.config import FAST, PAPER, PRESETS, EraseConfig
from dark_miner.darkminer.errors import SettingError
from dark_miner.darkminer.method.chase import ChaseConfig
from dark_miner.darkminer.method.circumvent import CircumventConfig
from dark_miner.darkminer.method.mine import MineConfig
from dark_miner.darkminer.method.verify import VerifyConfig
from dark_miner.darkminer.settings import asked, changed, changed_by, places, rules, written


def value_of(config, place):
    for name in place.split("."):
        config = getattr(config, name)
    return config


def test_every_setting_has_a_place_in_the_order_of_the_fields():
    found = list(places(EraseConfig))
    assert found[:5] == [*rules(EraseConfig), "lora.rank"] and found[-1] == "guard.draws"
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


@pytest.mark.parametrize(
    "kind, name, value, words",
    [
        (MineConfig, "steps", "7", "a whole number, at least 1"),
        (MineConfig, "steps", 2.5, "a whole number, at least 1"),
        (MineConfig, "steps", 2.0, "a whole number, at least 1"),
        (MineConfig, "steps", True, "a whole number, at least 1"),
        (MineConfig, "steps", None, "a whole number, at least 1"),
        (MineConfig, "lr", True, "a number, above 0"), (MineConfig, "lr", "1", "a number, above 0"),
        (MineConfig, "lr", None, "a number, above 0"),
        pytest.param(MineConfig, "lr", 10**400, "a number, above 0", id="no float holds it"),
        (MineConfig, "optimizer", 1, '"sgd" or "adam"'),
        (MineConfig, "reachable", 0, '"on" or "off"'),
        (CircumventConfig, "fresh", 1, '"on" or "off"'),
        (CircumventConfig, "preserved", "c0", "a list"),
        (CircumventConfig, "preserved", ("c0", 1), "a list"),
        (ChaseConfig, "soft_prompts", 4, "a list"),
        (ChaseConfig, "soft_prompts", (1, 2.0), "a list"),
        (ChaseConfig, "soft_prompts", (1, True), "a list"),
        (VerifyConfig, "threshold", True, 'between -1 and 1, or "auto"'),
        (VerifyConfig, "threshold", "hot", 'between -1 and 1, or "auto"'),
        (EraseConfig, "max_rounds", "none", 'at least 0, or "none"'),
        (EraseConfig, "reference_prompt", None, "a text"),
        (EraseConfig, "mine", None, "a MineConfig"),
        (EraseConfig, "start", MineConfig(), "a CircumventConfig"),
        (AttackConfig, "steps", "7", "a whole number, at least 1"),
        (AttackConfig, "lr", float("nan"), "finite and above 0"),
        (AttackVerdictConfig, "vectors", (1, 0), "at least 1"),
        (AttackVerdictConfig, "limit", "0.5", "a number, between 0 and 1"),
    ],
)  # fmt: skip
def test_a_value_of_another_kind_is_refused_by_name(kind, name, value, words):
    with pytest.raises(SettingError) as caught:
        kind(**{name: value})
    said = str(caught.value)
    assert caught.value.setting == f"{kind.__name__}.{name}" and words in said
    assert repr(value)[:60] in said and len(said) < 200


STAGES = dict.fromkeys(kind for kind, _ in places(EraseConfig).values())


@pytest.mark.parametrize("kind", [*STAGES, AttackConfig])
def test_no_setting_takes_a_value_of_another_kind(kind):
    for one in fields(kind):
        for wrong in (object(), b"1", {}, [[1]], 1j):
            with pytest.raises(SettingError):
                kind(**{one.name: wrong})


def test_what_json_gives_becomes_what_the_setting_is():
    made = ChaseConfig(lr=1, soft_prompts=[2, 8])  # type: ignore[arg-type]
    assert made == ChaseConfig(lr=1.0, soft_prompts=(2, 8))
    assert (type(made.lr), type(made.soft_prompts)) == (float, tuple)
    assert VerifyConfig(threshold=1).threshold == 1.0 and EraseConfig(max_rounds=None)
    assert hash(made) == hash(ChaseConfig(lr=1.0, soft_prompts=(2, 8)))


@pytest.mark.parametrize(
    "place, value",
    [
        ("mine.lr", 0.1234567), ("mine.lr", 1 / 3), ("mine.lr", 1e-12), ("mine.clip", 16777217.0),
        ("mine.clip", 1.7976931348623157e308), ("mine.steps", 12345678901), ("mine.lr", 5e-324),
        ("verify.threshold", 0.1 + 0.2), ("reference_prompt", " a photo\n"),
    ],
)  # fmt: skip
def test_every_digit_is_written(place, value):
    owner, _, name = place.rpartition(".")
    part = getattr(PAPER, owner) if owner else PAPER
    made = replace(part, **{name: value})
    config = replace(PAPER, **{owner: made}) if owner else made
    assert changed(PAPER, place, written(value_of(config, place))) == config
