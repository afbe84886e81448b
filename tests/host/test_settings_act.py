"""Nodes that take settings from Dark Miner Settings keep to them, and to nothing else."""

import json

import pytest
import torch
from safetensors.torch import load_file

from .by_settings import (
    SETTINGS,
    SHORT,
    SHORTEST,
    UNTOUCHED,
    by_settings,
    settings_of,
    with_settings,
)
from .conftest import pack
from .test_inputs import fields, good, lists, sentence
from .test_nodes import SAMPLING, graph, loop, node, saved
from .test_settings import error_of

pytestmark = pytest.mark.host


KEPT = ["run_folder", "max_minutes"]
"""What has come in since; no setting."""


def test_whatever_settings_take_the_place_of_must_stand_as_new(nodes, sockets):
    replaced, tried = pack("nodes.fields").replaced, 0
    for name, kind in nodes.items():
        declared = fields(kind)
        if "settings" not in declared:
            continue
        given = {**good(kind, sockets), "settings": sockets["DARKMINER_SETTINGS"]}
        newer = list(declared)[list(declared).index("settings") + 1 :]
        assert newer in ([], KEPT), "behind all others: saved widgets keep their place"
        for own, others in replaced(name).items():
            if own not in declared:
                continue
            field = declared[own]
            options = getattr(field, "options", None)
            value = options[-1] if options else "0.5" if field.io_type == "STRING" else 1
            text = sentence(kind, {**given, own: value})
            assert f"{own} is {value!r} here and settings is connected: set " in text
            assert all(other in fields(nodes[SETTINGS]) and other in text for other in others)
            tried += 1
    assert tried > 70


def test_a_bank_that_settings_give_no_weight_is_said_before_it_is_made(nodes, sockets):  # fmt: skip
    none = settings_of(retain_weight="0", chase_unrelated="0")
    for name in ("DarkMinerLoop", "EraseConcepts"):
        given = {**good(nodes[name], sockets), "settings": none}
        given = {k: v for k, v in given.items() if k not in ("lora", "embeddings")}
        text = sentence(nodes[name], given)
        assert "bank_size 160" in text and "set bank_size to 0" in text
    given = {**good(nodes["CircumventLoRA"], sockets), "settings": none}
    assert "bank asks for a vocabulary bank and settings give" in sentence(
        nodes["CircumventLoRA"], given
    )


@pytest.mark.parametrize(
    "texts, counts",
    [
        ({"repair_steps": "3"}, True),
        ({"repair_steps": "3", "repair_unrelated": "0"}, False),
        ({"repair_steps": "3", "repair_weight": "0"}, False),
        ({"chase_unrelated": "4"}, True),
        ({"chase_unrelated": "4", "chase_steps": "0"}, False),
        ({"retain_weight": "1"}, True),
    ],
)
def test_a_bank_counts_where_anything_looks_at_it(nodes, hosted, texts, counts):
    """Of whole runs and of a bank that is connected alike."""
    settings = settings_of(**{"retain_weight": "0", "chase_unrelated": "0", **texts})
    agreement = pack("nodes.agreement")
    for check in (
        lambda: agreement.check_own_bank(settings),
        lambda: agreement.check_bank({"bank": (1,), "settings": settings}),
    ):
        try:
            check()
        except pack("darkminer.errors").DarkMinerError as error:
            assert not counts and "repair" in str(error)
        else:
            assert counts


def test_rounds_alone_make_no_bank_that_only_the_opening_looks_at(hosted):
    without = pack("nodes.erase.continuing").without_opening
    assert without(settings_of(retain_weight="0")).bank.size == 0
    assert without(settings_of()).bank == settings_of().bank


@pytest.fixture(scope="module")
def world(hosted):
    """The gallery's models, a pool of five pictures, and prompts."""
    kinds = {kind.define_schema().node_id: kind for kind in pack("nodes").NODES}
    model, clip, vae, vision = pack("demo.models").load_demo_models()
    text = pack("nodes.host.text")

    class World:
        models = {"model": model, "clip": clip, "vae": vae}
        vision_encoder = {"clip_vision": vision}
        anchor, negative = text.conditioning(clip, "a drawing"), text.conditioning(clip, "")

        @staticmethod
        def run(name, **given):
            return kinds[name].execute(**given).args

        @staticmethod
        def pool(**given):
            inputs = {
                **World.models, "concept": "ink", "template": "a * drawing", "size": 5,
                "width": 32, "height": 32, "seed": 0, **given,
            }  # fmt: skip
            return World.run("ImagePoolBuilder", **lists(kinds["ImagePoolBuilder"], inputs))[0][0]

        @staticmethod
        def erase(pool, **given):
            prompts = {"anchor_prompt": "a drawing", "negative_prompt": ""}
            return World.run(
                "DarkMinerLoop", **World.models, **World.vision_encoder, pool=pool, **prompts,
                **{"preset": "fast", "max_rounds": 0, "seed": 3, **UNTOUCHED, **given},
                run_folder="off",
            )  # fmt: skip

    return World


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_an_empty_settings_node_gives_the_presets_lora(world, monkeypatch):
    own = {"sampling_steps": "", "sampling_cfg": "", "sampling_batch": ""}
    short = settings_of(**SHORTEST | own)
    monkeypatch.setitem(pack("darkminer.config").PRESETS, "fast", short)
    pool = world.pool(**SAMPLING)
    plain = world.erase(pool)[1]
    assert same(plain, world.erase(pool, settings=settings_of())[1])


def test_zero_acts_in_a_whole_run_and_the_file_says_so(world):
    zero = {"retain_weight": "0", "chase_unrelated": "0", "chase_steps": "0", "bank_size": "0"}
    pool = world.pool(**SAMPLING)
    _, lora, found, _, rounds, *_ = world.erase(
        pool, settings=settings_of(**SHORT | zero | {"max_rounds": "0", "mine_tokens": "0"})
    )
    (run,) = json.loads(lora.metadata["darkminer_runs"])
    used = run["settings"]
    assert used["retain"]["weight"] == used["chase"]["unrelated"] == used["chase"]["steps"] == 0
    assert rounds == 0 and run["bank"] is None and used["max_rounds"] == 0
    assert {e.kind for e in found.entries} == {"text"}, "a chase would have left its attackers"
    assert used["sampling"] == run["sampling"] and run["sampling"]["steps"] == 2


def test_a_pool_is_made_as_settings_say(world):
    by_widgets = world.pool(**SAMPLING)
    settings = settings_of(**{k: v for k, v in SHORT.items() if k.startswith("sampling")})
    by_node = world.pool(**UNTOUCHED, settings=settings)
    assert torch.equal(by_node.latents, by_widgets.latents)


def test_stages_that_settings_leave_out_hand_on_what_they_got(world):
    settings = settings_of(**SHORT | {"bank_size": "0", "chase_steps": "0"})
    pool = world.pool(**UNTOUCHED, settings=settings)
    (bank,) = world.run(
        "DarkMinerVocabularyBank", **world.models, **world.vision_encoder, pool=pool, seed=3,
        anchor_prompt="a drawing", negative_prompt="", **UNTOUCHED, settings=settings,
    )  # fmt: skip
    assert len(bank) == 0
    (words,) = world.run(
        "DarkMinerConceptContexts", clip=world.models["clip"], pool=pool, seed=3, settings=settings
    )
    train = {
        "model": world.models["model"], "pool": pool, "anchor": world.anchor, "seed": 3,
        "negative": world.negative, **UNTOUCHED, "bank": bank, "settings": settings,
    }  # fmt: skip
    _, lora, embeddings, loss = world.run(
        "CircumventLoRA", **train, embeddings=words, preset="fast"
    )
    assert len(loss["loss"]) == 4, "start_steps, before the first round"
    _, chased, kept, none = world.run("DarkMinerChase", **train, embeddings=embeddings, lora=lora)
    assert same(chased, lora) and kept is embeddings and not none["loss"]


def test_an_attack_draws_as_settings_say(world):
    settings = settings_of(sampling_steps="1", sampling_cfg="1")
    pool = world.pool(**SAMPLING)
    given = {
        "model": world.models["model"], "vae": world.models["vae"], "pool": pool, "seed": 0,
        "anchor": world.anchor, **world.vision_encoder, "steps": 1, "pictures": 2,
    }  # fmt: skip
    one = {"sampling_steps": 1, "cfg": 1.0, "sampler_name": "euler", "scheduler": "normal"}
    by_node = world.run("AttackErasure", **given, **UNTOUCHED, settings=settings)
    by_widgets = world.run("AttackErasure", **given, **one, batch_size=8)
    assert torch.equal(by_node[2], by_widgets[2]) and by_node[1] == by_widgets[1]


def test_a_list_of_concepts_is_erased_by_settings(world):
    size = {"size": 5, "width": 32, "height": 32}
    _, lora, each, _ = world.run(
        "EraseConcepts", **world.models, **world.vision_encoder, concepts="ink\nnoto",
        template="a * drawing", **size, anchor_prompt="a drawing", negative_prompt="",
        preset="fast", max_rounds=0, seed=3, **UNTOUCHED,
        settings=settings_of(**SHORTEST | {"lora_rank": "2", "lora_alpha": "2"}),
    )  # fmt: skip
    assert len(each) == 2 and lora.metadata["ss_network_dim"] == "4"
    for run in json.loads(lora.metadata["darkminer_runs"]):
        assert run["settings"]["mine"]["steps"] == 3 and run["sampling"]["steps"] == 2


def test_guidance_of_settings_wants_its_other_side(nodes, sockets):
    given = good(nodes["CircumventLoRA"], sockets)
    given = {k: v for k, v in given.items() if k != "negative"}
    fast = pack("darkminer.config").FAST
    text = sentence(nodes["CircumventLoRA"], {**given, "settings": fast})
    assert "sampling_cfg of settings is 7 and negative is not connected" in text


# One Settings node for a whole graph; the reference apart from the anchor (the paper's table 9)


def graph_by_settings(prefix, **texts):
    """``test_nodes.graph`` with every value from one Settings node."""
    prompt = graph(prefix)
    takes = [n for n in prompt if n in ("pool", "words", "bank", "start", "chase", "mine", "verify",
                                        "train")]  # fmt: skip
    for name in takes:
        inputs = prompt[name]["inputs"]
        own = {"steps", "length", "count", "threshold", "bank_size"}
        prompt[name]["inputs"] = {k: v for k, v in inputs.items() if k not in own}
        if "cfg" in inputs:
            prompt[name]["inputs"] |= UNTOUCHED
    return with_settings(prompt, takes, **SHORT | texts)


def scored(comfy, prompt, link):
    """The LoRA a workflow saves, and its score in the words of PreviewAny."""
    outputs = comfy.run({**prompt, "said": node("PreviewAny", source=link)})
    return load_file(saved(comfy, outputs)), float(outputs["said"]["text"][0])


def test_loop_and_graph_keep_to_one_settings_node_and_to_its_reference(comfy):
    reference = "a noto drawing"
    by_widgets, plain = scored(comfy, loop("loras/by_widgets"), ["loop", 5])
    whole = by_settings("loras/by_settings", reference_prompt=reference)
    by_node, apart = scored(comfy, whole, ["loop", 5])
    stages = graph_by_settings("loras/graph_by_settings", reference_prompt=reference)
    stages["other"] = node("CLIPTextEncode", clip=["m", 1], text=reference)
    stages["verify"]["inputs"]["reference"] = ["other", 0]
    by_graph, the_same = scored(comfy, stages, ["close", 3])
    assert same(by_node, by_widgets), "the same values by widgets and by the node"
    assert same(by_graph, by_node), "the same settings in stages and in one node"
    assert the_same == pytest.approx(apart, abs=1e-6) and abs(apart - plain) > 1e-3


@pytest.mark.parametrize(
    ("chase", "before", "given", "after"),
    [(450, 200, 3, 1), (450, 200, 225, 100), (450, 200, 900, 400), (450, 200, 0, 200),
     (450, 0, 225, 0), (0, 200, 225, 200)],
)  # fmt: skip
def test_repairing_is_as_long_as_the_chase_asks_for(hosted, chase, before, given, after):
    inputs = pack("nodes.inputs")
    base = settings_of(chase_steps=str(chase), repair_steps=str(before), repair_lr_drop="150")
    mending = inputs.repair_config(base.repair, base.chase, given)
    assert mending.steps == after
    if after == 100:
        assert mending.lr_drop == 75
    assert mending == base.repair or given
    config = pack("nodes.erase.loop").changed_config(base, 0, chase_steps=given)
    assert config.repair == mending


def test_loop_and_graph_repair_alike(comfy):
    few = {**SHORTEST, "max_rounds": "2"}
    mending = few | {"repair_steps": "3", "repair_lr_drop": "2", "repair_retain_batch": "2"}
    by_node, _ = scored(comfy, by_settings("loras/repaired", **mending), ["loop", 5])
    plain, _ = scored(comfy, by_settings("loras/not_repaired", **few), ["loop", 5])
    stages = graph_by_settings("loras/repaired_graph", **mending)
    by_graph, _ = scored(comfy, stages, ["close", 3])
    assert same(by_graph, by_node) and not same(plain, by_node)


# What a queued workflow says before anything runs


@pytest.mark.parametrize(
    "name, change, words",
    [
        ("pool", {"sampling_steps": 21}, "sampling_steps is 21 here and settings is connected"),
        ("words", {"words": 5}, "words is 5 here and settings"),
        ("bank", {"bank_size": 6}, "bank_size is 6 here and settings"),
        ("start", {"steps": 4}, "steps is 4 here and settings"),
        ("chase", {"tokens": 4}, "tokens is 4 here and settings"),
        ("mine", {"count": 2}, "count is 2 here and settings"),
        ("verify", {"draws": 2}, "draws is 2 here and settings"),
    ],
)
def test_any_widget_beside_settings_is_refused_when_queued(comfy, name, change, words):
    prompt = graph_by_settings("loras/refused")
    prompt[name]["inputs"] |= change
    text = error_of(comfy, prompt)
    assert "refused the workflow" in text and text.count(words) == 1


@pytest.mark.parametrize(
    "change, words",
    [
        ({"preset": "paper"}, "bank asks for a vocabulary bank and the preset 'paper'"),
        ({"negative": None}, "cfg is 2 and negative is not connected"),
    ],
)
def test_what_links_show_by_being_there_is_known_when_queued(comfy, change, words):
    prompt = graph("loras/refused")
    inputs = prompt["start"]["inputs"] | change
    prompt["start"]["inputs"] = {k: v for k, v in inputs.items() if v is not None}
    text = error_of(comfy, prompt)
    assert "refused the workflow" in text and text.count(words) == 1
