"""Dark Miner Settings on a real host: every setting by itself, and nodes that keep to it."""

import pytest

from .by_settings import SETTINGS, by_settings, settings_of, with_settings
from .conftest import pack, script
from .test_inputs import fields
from .test_nodes import loop, models_and_pool, node
from .test_queue import concepts

pytestmark = pytest.mark.host


def refused(preset="fast", **texts):
    with pytest.raises(pack("darkminer.errors").DarkMinerError) as caught:
        settings_of(preset, **texts)
    text = str(caught.value)
    assert text.startswith(f"{SETTINGS}: ") and text.endswith(".") and "Config" not in text
    return text


# The node by itself


def test_every_setting_of_a_run_has_an_input_in_the_order_of_its_stages(nodes):
    config, own = pack("darkminer.config"), pack("darkminer.settings")
    found = fields(nodes[SETTINGS])
    where = own.places(config.EraseConfig)
    assert list(found) == ["preset", *(place.replace(".", "_") for place in where)]
    for place, (kind, name) in where.items():
        field = found[place.replace(".", "_")]
        assert (field.io_type, field.default, field.optional) == ("STRING", "", True)
        assert own.rules(kind)[name].about[1:] in field.tooltip, place
        for preset in config.PRESETS.values():
            value = preset
            for step in place.split("."):
                value = getattr(value, step)
            assert own.written(value) in field.placeholder and own.written(value) in field.tooltip


def test_rare_inputs_are_folded_away(comfy):
    """By an option that the host hands on as it is; a host that knows none shows them all."""
    known = comfy.ask(lambda client: client.object_info())
    shown = {}
    for name in (SETTINGS, "DarkMinerLoop", "EraseConcepts"):
        options = {**known[name]["input"]["required"], **known[name]["input"].get("optional", {})}
        widgets = [n for n, spec in options.items() if "default" in spec[1] or "options" in spec[1]]
        shown[name] = [n for n in widgets if not options[n][1].get("advanced")]
    assert shown["DarkMinerLoop"] == [
        "anchor_prompt", "negative_prompt", "preset", "max_rounds", "seed", "exclude_words",
    ]  # fmt: skip
    assert shown["EraseConcepts"][5:] == shown["DarkMinerLoop"]
    assert shown[SETTINGS][:2] == ["preset", "max_rounds"] and len(shown[SETTINGS]) < 20


def test_empty_is_the_preset(hosted):
    for name, preset in pack("darkminer.config").PRESETS.items():
        assert settings_of(name) == preset
        assert settings_of(name, mine_steps="", chase_soft_prompts="  ", max_rounds="") == preset


def test_zero_is_zero_and_none_is_none(hosted):
    made = settings_of(
        retain_weight="0", chase_unrelated="0", chase_steps="0", max_rounds="0", bank_size="0",
        circumvent_alpha_p="0", circumvent_preserved="none", text_words="0",
    )  # fmt: skip
    assert (made.retain.weight, made.chase.unrelated, made.chase.steps) == (0.0, 0, 0)
    assert (made.max_rounds, made.bank.size, made.text_words) == (0, 0, 0)
    assert made.circumvent.preserved == () and made.start.preserved == ("c0", "0c", "-c")
    assert settings_of(max_rounds="none").max_rounds is None
    assert settings_of("paper", max_rounds="48").max_rounds == 48


@pytest.mark.parametrize(
    "texts, words",
    [
        ({"mine_steps": "0"}, "mine_steps is '0': it must be at least 1."),
        ({"mine_lr": "fast"}, "mine_lr is 'fast': it must be a number, above 0."),
        ({"start_lr": "0"}, "start_lr is '0': it must be above 0."),
        ({"circumvent_lr": "-1"}, "circumvent_lr is '-1': it must be above 0."),
        ({"mine_batch": "9"}, "mine_batch is '9': it must be at most k (3)."),
        ({"mine_k": "2"}, "mine_batch is '3' in the preset 'fast', which does not go with"),
        ({"text_start": "off"}, "text_start is 'off': it must be on where a chase is asked for"),
        ({"preset": "paper", "chase_steps": "9"}, "text_start is 'off' in the preset 'paper'"),
        ({"sampling_sampler": "eular"}, "sampling_sampler is 'eular': it must be one of euler, "),
        ({"sampling_scheduler": "odd"}, "sampling_scheduler is 'odd': it must be one of "),
        ({"bank_quantile": "x" * 500}, "bank_quantile is 'xxx"),
    ],
)
def test_a_wrong_value_is_one_sentence_with_the_inputs_name(hosted, texts, words):
    text = refused(**texts)
    assert words in text and len(text) < 1000 and "chase.steps" not in text


# What a queued workflow says


def error_of(comfy, prompt):
    with pytest.raises(script("comfy_server").ServerError) as caught:
        comfy.run(prompt)
    return str(caught.value)


@pytest.mark.parametrize(
    "texts, words",
    [
        ({"mine_steps": "many"}, "mine_steps is 'many': it must be a whole number, at least 1"),
        ({"mine_steps": 0}, "mine_steps is '0': it must be at least 1"),
        ({"max_rounds": None}, "max_rounds is 'None', which is how a null"),
        ({"chase_soft_prompts": {"__value__": ["a"]}}, "chase_soft_prompts is"),
        ({"text_start": "off"}, "text_start is 'off'"),
        ({"preset": "slow"}, "preset is 'slow': choose one of fast, paper"),
    ],
)
def test_wrong_settings_are_refused_when_queued_and_said_once(comfy, texts, words):
    text = error_of(comfy, by_settings(**texts))
    assert "refused the workflow" in text and text.count(words) == 1


@pytest.mark.parametrize(
    "make", [loop, concepts, lambda **changes: mining(**changes)], ids=["loop", "concepts", "mine"]
)
def test_a_preset_beside_settings_is_refused_when_queued(comfy, make):
    prompt = make(preset="paper")
    name = next(n for n in ("loop", "list", "mine") if n in prompt)
    text = error_of(comfy, with_settings(prompt, [name]))
    assert "refused the workflow" in text
    assert "preset is 'paper' here and settings is connected: set preset in Dark Miner" in text


def mining(**changes):
    prompt = models_and_pool()
    prompt["anchor"] = node("CLIPTextEncode", clip=["m", 1], text="a drawing")
    inputs = {"preset": "fast", "seed": 3, **changes}
    prompt["mine"] = node(
        "MineEmbedding", model=["m", 0], pool=["pool", 0], anchor=["anchor", 0], **inputs
    )
    prompt["plot"] = node("PreviewAny", source=["mine", 2])
    return prompt


def test_settings_by_links_are_looked_at_when_they_come(comfy):
    """Which a linked text changes is not known when queued: off may go with a chase of none."""
    prompt = by_settings("loras/linked", text_start="off", max_rounds="0", bank_size="0",
                         mine_tokens="0")  # fmt: skip
    prompt["save"]["inputs"]["save_empty"] = True  # neither text start nor rounds
    prompt["text"] = node("PrimitiveString", value="0")
    prompt["settings"]["inputs"]["chase_steps"] = ["text", 0]
    comfy.run(prompt)
    prompt["text"]["inputs"]["value"] = "7"
    assert "DarkMinerSettings: text_start is 'off': it must be on" in error_of(comfy, prompt)
