"""Whatever comes into whichever input of whichever node: one sentence, before anything runs."""

import importlib
import math
import re

import pytest
import torch

from .conftest import pack

pytestmark = pytest.mark.host

WRONG = {
    "nothing": None,
    "text": "text",
    "number": 3,
    "table": {},
    "list": [],
    "object": object(),
    "latent": {"samples": torch.zeros(1, 4, 8, 8)},
    "tensor": torch.zeros(2, 5),
}
MAY_BE_NONE = ("LORA_MODEL", "DARKMINER_EMBEDDINGS")
NODES = (
    "ImagePoolBuilder", "DarkMinerConceptContexts", "DarkMinerVocabularyBank", "MineEmbedding",
    "VerifyDeltaCLIP", "AttackErasure", "CircumventLoRA", "DarkMinerChase", "DarkMinerRoundOpen",
    "DarkMinerRoundClose", "DarkMinerLoop", "EraseConcepts", "CombineErasures", "SaveErasureLoRA",
    "DarkMinerSettings", "RedTeam", "LoadErasureLoRA", "SaveReportCard",
    "CompareErasure", "MeasureVerification", "ScaleConditioning",
    "MeasureFidelity",
    "ErasedStableDiffusion", "UnifiedConceptEditing", "ConceptAblation", "ConceptSlider",
    "SafeLatentDiffusion", "SaliencyUnlearning", "StereoErasure", "PromptFilter",
)  # fmt: skip


def fields(node):
    return {field.id: field for field in node.define_schema().inputs}


def lists(node, given):
    """The same as the host hands it over to a node that takes lists."""
    many = getattr(node.define_schema(), "is_input_list", False)
    return {k: [v] for k, v in given.items()} if many else given


def good(node, sockets):
    """A value for every input of a node, settings left unconnected."""
    return {
        name: sockets[f.io_type]
        if f.io_type in sockets
        else f.default
        if getattr(f, "default", None) is not None
        else (
            True if f.io_type == "BOOLEAN" else 0.5 if f.io_type == "FLOAT" else [*f.options, ""][0]
        )
        for name, f in fields(node).items()
        if name != "settings"
    }


def sentence(node, given):
    """What a node refuses its inputs with."""
    with pytest.raises(pack("darkminer.errors").DarkMinerError) as caught:
        node.execute(**lists(node, given))
    return str(caught.value)


def one_sentence(text, node_id, name):
    assert text.startswith(f"{node_id}: {name} "), text
    assert text.endswith(".") and "\n" not in text
    assert not re.search(r"(object has no attribute|0x[0-9a-f]{6}|Config\.)", text), text


TEXTS_ONLY = ("DarkMinerSettings", "LoadErasureLoRA")


@pytest.mark.parametrize("node_id", [n for n in NODES if n not in TEXTS_ONLY])
def test_a_wrong_thing_in_any_socket_is_one_sentence(nodes, sockets, node_id):
    node, tried = nodes[node_id], 0
    for name, field in fields(node).items():
        if field.io_type not in sockets:
            continue
        for what, value in WRONG.items():
            unconnected = field.optional and field.io_type in MAY_BE_NONE or field.lazy
            if what == "nothing" and unconnected:
                continue
            text = sentence(node, {**good(node, sockets), name: value})
            one_sentence(text, node_id, name)
            tried += 1
    assert tried


BAD_VALUES = {
    "INT": (None, "3", 1.5, True, [3], -1, 10**30, math.nan),
    "FLOAT": (None, "1.0", True, [1.0], -1.0, math.nan, math.inf, -math.inf, 10.0**6),
    "STRING": (None, 3, ["a"], "None", "['a']", "{'a': 1}"),
    "BOOLEAN": (None, "true", 1),
    "COMBO": (None, 3, "no such choice", ["a"]),
}


@pytest.mark.parametrize("node_id", NODES)
def test_a_wrong_value_of_any_input_is_one_sentence(nodes, sockets, node_id):
    node = nodes[node_id]
    for name, field in fields(node).items():
        for value in BAD_VALUES.get(field.io_type, ()):
            if field.io_type == "FLOAT" and isinstance(value, float) and math.isfinite(value):
                if field.min is None or field.min <= value <= field.max:
                    continue
            one_sentence(sentence(node, {**good(node, sockets), name: value}), node_id, name)


def test_every_node_is_in_the_table(nodes):
    assert set(NODES) == {name for name, node in nodes.items() if fields(node)}


@pytest.mark.parametrize("node_id", ["DarkMinerLoop", "EraseConcepts"])
def test_a_whole_erasure_is_found_by_what_people_search_for(nodes, node_id):
    """The node search looks into what the host hands on of the schema."""
    info = nodes[node_id].GET_NODE_INFO_V1()
    found = " ".join(info["search_aliases"])
    for word in ("erase", "unlearn", "forget", "remove style", "concept", "safety"):
        assert word in found


def taken(kind, value, **more):
    """A value as a node's input of this kind takes it."""
    io = importlib.import_module("comfy_api.latest").io
    make = {"IMAGE": io.Image.Input, "CONDITIONING": io.Conditioning.Input}[kind]
    return pack("nodes.checks").checked(make(more.get("name", "it")), value)


def test_grey_pictures_become_rgb_and_alpha_is_dropped(hosted):
    grey = torch.rand(2, 4, 5, 1)
    assert torch.equal(taken("IMAGE", grey), grey.repeat(1, 1, 1, 3))
    rgba = torch.rand(2, 4, 5, 4)
    assert torch.equal(taken("IMAGE", rgba), rgba[..., :3])
    rgb = torch.rand(2, 4, 5, 3)
    assert taken("IMAGE", rgb).data_ptr() == rgb.data_ptr()


@pytest.mark.parametrize(
    "value",
    [
        torch.rand(0, 4, 5, 3),
        torch.rand(2, 4, 5, 0),
        torch.rand(2, 4, 5, 2),
        torch.rand(2, 4, 5, 5),
        torch.rand(4, 5, 3),
        torch.zeros(2, 4, 5, 3, dtype=torch.uint8),
    ],
    ids=lambda v: str(list(v.shape)),
)
def test_what_is_no_picture_is_refused(hosted, value):
    with pytest.raises(pack("darkminer.errors").DarkMinerError, match=r"pictures are \[N, H, W, 3"):
        taken("IMAGE", value)


ONE = torch.zeros(1, 3, 4)


@pytest.mark.parametrize(
    "value, words",
    [
        ([[torch.zeros(2, 3, 4), {}]], "a batch of 2 contexts"),
        ([[ONE, {}], [ONE, {}]], "holds 2 prompts"),
        ([[ONE, {"mask": torch.ones(1, 8, 8)}]], "carries a mask"),
        ([[ONE, {"area": (1, 1, 0, 0)}]], "carries an area"),
        ([[ONE, {"hooks": object()}]], "carries hooks"),
        ([[ONE, {"control": object()}]], "carries a ControlNet"),
        ([[ONE, {"strength": 0.5}]], "carries a strength"),
        ([[ONE, {"start_percent": 0.2, "end_percent": 1.0}]], "a range of timesteps"),
        ([[ONE * math.nan, {}]], "values that are no numbers"),
        ([[torch.zeros(3, 4), {}]], "no CONDITIONING"),
        ([[None, {}]], "no CONDITIONING"),
        ([ONE], "no CONDITIONING"),
    ],
)
def test_a_prompt_of_which_something_would_be_dropped_is_refused(hosted, value, words):
    with pytest.raises(pack("darkminer.errors").DarkMinerError, match=words):
        taken("CONDITIONING", value, name="anchor")


def test_prompts_as_the_hosts_nodes_give_them_are_taken(hosted):
    plain = [[ONE, {"pooled_output": torch.zeros(1, 4), "start_percent": 0.0, "end_percent": 1.0}]]
    for name, value in (
        ("anchor", plain),
        ("keep_1", plain * 3),
        ("negative", plain * 2),
        ("mined", [[torch.zeros(5, 3, 4), {}]]),
    ):
        assert taken("CONDITIONING", value, name=name) is value


@pytest.mark.parametrize(
    "change, words",
    [
        ({"negative": "absent"}, "cfg is 7 and negative is not connected"),
        ({"preset": "paper"}, "bank asks for a vocabulary bank and the preset 'paper'"),
        ({"rank": 3}, "rank is 3 and the connected lora has 2"),
        ({"layers": "values"}, "layers is 'values' and the connected lora has 'blocks'"),
    ],
)
def test_inputs_that_contradict_each_other_are_refused(nodes, sockets, change, words):
    node = nodes["CircumventLoRA"]
    given = {**good(node, sockets), **change}
    given = {k: v for k, v in given.items() if v != "absent"}
    assert words in sentence(node, given)


def test_prompts_bank_and_embeddings_of_another_width_or_size_are_refused(nodes, sockets):
    node, types = nodes["CircumventLoRA"], pack("darkminer.types")
    given = good(node, sockets)
    wide = types.EmbeddingPool((types.MinedEmbedding(torch.zeros(3, 7), 0),), concept="ink")
    bank = sockets["DARKMINER_BANK"]
    large = types.RetainSet(bank.contexts, torch.zeros(2, 1, 8, 16, 16), bank.prompts)
    for change, words in (
        ({"embeddings": wide}, "embeddings is 7 wide"),
        ({"keep_2": [[ONE, {}]]}, "keep_2 is 4 wide"),
        ({"bank": large}, "bank was made with latents of"),
        ({"embeddings": types.EmbeddingPool(concept="noto")}, "embeddings is of 'noto'"),
    ):
        assert words in sentence(node, {**given, **change})


SETTINGS = [
    ("VerifyDeltaCLIP", {"threshold": "2"}, "threshold is 2.0: it must be between -1 and 1"),
    ("VerifyDeltaCLIP", {"threshold": "nan"}, "threshold is nan"),
    ("VerifyDeltaCLIP", {"threshold": "hot"}, "threshold is 'hot': write a number"),
    ("DarkMinerLoop", {"preset": "paper", "chase_steps": 5}, "chase_steps asks for a chase"),
    ("DarkMinerLoop", {"preset": "paper", "bank_size": 5}, "bank_size asks for a vocabulary bank"),
    ("EraseConcepts", {"preset": "paper", "chase_steps": 5}, "chase_steps asks for a chase"),
    ("DarkMinerLoop", {"anchor_prompt": "an ink photo"}, "says the concept 'ink' itself"),
    ("DarkMinerVocabularyBank", {"anchor_prompt": "inks"}, "anchor_prompt is 'inks', which says"),
    ("EraseConcepts", {"concepts": "noto\ncat", "anchor_prompt": "cats"}, "the concept 'cat'"),
    ("EraseConcepts", {"size": 2}, "size is 2 and mining needs 3 pictures"),
]


@pytest.mark.parametrize("node_id, change, words", SETTINGS)
def test_a_wrong_setting_is_named_as_the_node_calls_it(nodes, sockets, node_id, change, words):
    node = nodes[node_id]
    given = good(node, sockets)
    for name in ("lora", "embeddings") if node_id == "DarkMinerLoop" else ():
        del given[name]
    text = sentence(node, {**given, **change})
    assert words in text and "Config" not in text and text.startswith(f"{node_id}: ")


def test_every_setting_that_is_named_as_an_input_is_one(nodes):
    for node_id, shown in pack("nodes.fields").SHOWN.items():
        assert set(shown.values()) <= set(fields(nodes[node_id]))
        for setting in shown:
            owner, _, field = setting.partition(".")
            modules = (pack("darkminer.config"), pack("darkminer.attacks.verdict"))
            config = next(getattr(m, owner) for m in modules if hasattr(m, owner))
            assert field in config.__dataclass_fields__, setting


@pytest.mark.parametrize(
    "node_id, setting, words",
    [
        ("MineEmbedding", "MineConfig.lr", "learning_rate is 0.0: it must be above 0."),
        ("DarkMinerLoop", "MineConfig.lr", "mine_learning_rate is 0.0: it must be above 0."),
        ("CircumventLoRA", "LoraConfig.alpha", "rank makes alpha 0.0: it must be above 0."),
        ("EraseConcepts", "CircumventConfig.lr_late", "circumvent_learning_rate makes lr_late"),
        ("DarkMinerLoop", "EraseConfig.text_start", "chase_steps asks for a chase"),
        ("DarkMinerChase", "ChaseConfig.lr", "learning_rate is 0.0"),
        ("ImagePoolBuilder", "SamplingConfig.batch", "batch_size is 0.0"),
    ],
)
def test_a_setting_is_said_in_the_nodes_words(hosted, node_id, setting, words):
    errors = pack("darkminer.errors")
    with pytest.raises(errors.DarkMinerError) as caught, pack("nodes.fields").named(node_id):
        raise errors.SettingError(setting, 0.0, "above 0")
    assert str(caught.value).startswith(f"{node_id}: {words}")


def test_a_setting_that_no_input_shows_is_said_to_be_the_presets(hosted):
    errors = pack("darkminer.errors")
    text = pack("nodes.fields").sentence(
        "MineEmbedding", errors.SettingError("MineConfig.clip", 0.0, "above 0")
    )
    assert "preset's clip of mine is 0.0" in text and "choose another preset" in text
    with pytest.raises(errors.DarkMinerError, match="finite"):
        pack("darkminer.config").MineConfig(clip=math.inf)


def test_a_chase_of_another_rank_is_told_before_and_saved(nodes, sockets):
    """Its settings are those of a whole erasure of its own rank and layers."""
    import json

    node = nodes["DarkMinerChase"]
    given = {k: v for k, v in good(node, sockets).items() if k not in ("lora", "clip")}
    given |= {"rank": 3, "layers": "values", "steps": 1, "sampling_steps": 2}
    lora = node.execute(**given).args[1]
    settings = json.loads(lora.metadata["darkminer_settings"])
    assert settings["lora"]["rank"] == 3 and settings["lora"]["alpha"] == 3.0
    assert settings["lora"]["layers"] == "values" and settings["chase"]["steps"] == 1


def test_what_is_left_at_nothing_stays_as_the_preset_has_it(hosted):
    paper = pack("darkminer.config").PAPER
    changed = pack("nodes.inputs").override(paper.mine, steps=7, lr=0.0, length=None)
    assert (changed.steps, changed.lr, changed.length) == (7, 0.1, 32)


def test_seeds_stay_as_they_are_after_a_run(nodes):
    for node in nodes.values():
        for field in fields(node).values():
            if field.id == "seed":
                assert field.as_dict()["control_after_generate"] == "fixed"
