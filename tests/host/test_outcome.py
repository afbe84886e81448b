"""Both loops say the same of what came out, and an erasure of nothing is not saved as one."""

import importlib
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from .test_nodes import HELD_OUT, SAMPLING, failing, graph, loop, node, saved

pytestmark = pytest.mark.host

SAME = ("darkminer_history", "darkminer_empty", "darkminer_outcome", "darkminer_rounds")


def told(prompt, name, score, summary):
    """The prompt with a node's score and summary shown."""
    return prompt | {
        "score": node("PreviewAny", source=[name, score]),
        "say": node("PreviewAny", source=[name, summary]),
    }


def by_loop(**changes):
    return told(loop("loras/out", **changes), "loop", 5, 6)


def by_graph(**changes):
    return told(graph("loras/out_graph") | changes, "close", 3, 4)


def finds_nothing():
    """Preset paper: nothing is trained before the first verification, which no score passes."""
    few = {"preset": "paper", "threshold": "1", "chase_steps": 0, "bank_size": 0}
    one, visible = by_loop(**few), by_graph()
    for name in ("words", "bank", "start", "chase"):
        del visible[name]
    for name in ("mine", "verify", "train"):
        visible[name]["inputs"]["preset"] = "paper"
    visible["open"]["inputs"] = {"max_rounds": 2}
    visible["verify"]["inputs"]["threshold"] = "1"
    del visible["train"]["inputs"]["bank"]
    return one, visible


def about(path):
    with safe_open(path, "pt") as file:
        return file.metadata()


def compared(comfy, one, visible):
    """What both saved and said, once it is the same."""
    first, other = (comfy.run(prompt) for prompt in (one, visible))
    assert first["score"]["text"] == other["score"]["text"]
    assert first["say"]["text"] == other["say"]["text"]
    paths = [saved(comfy, outputs) for outputs in (first, other)]
    tensors = [load_file(p) for p in paths]
    assert tensors[0].keys() == tensors[1].keys()
    assert all(torch.equal(tensors[0][k], tensors[1][k]) for k in tensors[0])
    for key in SAME:
        assert about(paths[0])[key] == about(paths[1])[key], key
    return first["say"]["text"][0], about(paths[0]), tensors[0]


def test_both_loops_look_at_what_they_hand_on(comfy):
    said, metadata, _ = compared(comfy, by_loop(), by_graph())
    assert said.startswith('"ink" is still there after 2 rounds (score ')
    assert metadata["darkminer_history"].count('"round"') == 3
    assert metadata["darkminer_empty"] == "false" and metadata["darkminer_rounds"] == "2"


def test_both_loops_refuse_to_save_an_erasure_of_nothing(comfy):
    for prompt in finds_nothing():
        refused = failing(comfy, prompt)
        assert "SaveErasureLoRA: lora is empty and is not saved: nothing was found" in refused
        assert "threshold 1.00" in refused and "save_empty" in refused


def test_both_loops_save_it_where_that_is_asked_for(comfy):
    one, visible = finds_nothing()
    for prompt in (one, visible):
        prompt["save"]["inputs"]["save_empty"] = True
    said, metadata, tensors = compared(comfy, one, visible)
    assert said.startswith("Nothing was found that produces the concept (score ")
    assert metadata["darkminer_empty"] == "true" and metadata["darkminer_rounds"] == "1"
    assert not any(bool(t.any()) for k, t in tensors.items() if k.endswith("lora_up.weight"))
    assert len(tensors) == 3 * 22


def test_a_no_after_the_chase_is_a_success_in_both_loops(comfy):
    visible = by_graph()
    visible["verify"]["inputs"]["threshold"] = "1"
    said, metadata, _ = compared(comfy, by_loop(threshold="1"), visible)
    assert said.startswith('"ink" is gone: nothing is found any more')
    assert metadata["darkminer_empty"] == "false"


def test_an_attacks_verdict_closes_a_round_that_leaves_no_record(comfy):
    """AttackErasure in the place of VerifyDeltaCLIP: no threshold is known, and none is named."""
    prompt = by_graph()
    prompt["open"]["inputs"]["max_rounds"] = 1
    prompt["attack"] = node(
        "AttackErasure", model=["m", 0], vae=["m", 2], pool=["pool", 0], anchor=["anchor", 0],
        seed=0, **SAMPLING, clip_vision=["m", 3], negative=["no", 0], exclude_words=HELD_OUT,
        lora=["open", 1], steps=2, pictures=4, limit=1.0,
    )  # fmt: skip
    prompt["close"]["inputs"] |= {
        "verified": ["attack", 0], "score": ["attack", 1], "judged": ["mine", 1],
    }  # fmt: skip
    (said,) = comfy.run(prompt)["say"]["text"]
    assert said.startswith('"ink" is gone: nothing is found any more')
    assert "threshold" not in said


@pytest.fixture(scope="module")
def tools(hosted):
    names = {
        "lora_file": "darkminer.files.lora_file", "circumvent_": "darkminer.method.circumvent",
        "types": "darkminer.types", "circumvent": "nodes.erase.circumvent",
        "lora": "nodes.host.lora", "report": "nodes.erase.report",
        "loop": "darkminer.method.loop", "adapter": "darkminer.model.adapter",
    }  # fmt: skip
    found = {k: importlib.import_module(f"dark_miner.{v}") for k, v in names.items()}
    return SimpleNamespace(**found)


def test_the_model_of_an_erasure_of_nothing_is_the_one_that_went_in(tools):
    model = importlib.import_module("dark_miner.demo.models").load_demo_models()[0]
    names = tools.lora.names_of(model)
    network = model.model.diffusion_model
    zeros = {}
    for path, stem in names.items():
        out, inner = network.get_submodule(path).weight.shape
        zeros[f"{stem}.lora_up.weight"] = torch.zeros(out, 2)
        zeros[f"{stem}.lora_down.weight"] = torch.ones(2, inner)
        zeros[f"{stem}.alpha"] = torch.tensor(2.0)
    done = tools.circumvent_.TrainResult(tools.types.EmbeddingPool(), [])
    lora = tools.lora_file.LoraDict(zeros)
    assert tools.circumvent.training_output(model, lora, done).args[0] is model
    zeros[f"{stem}.lora_up.weight"] = torch.ones(out, 2)
    lora = tools.lora_file.LoraDict(zeros)
    assert tools.circumvent.training_output(model, lora, done).args[0] is not model


def test_the_report_picture_has_a_row_for_the_last_verification_and_says_what_came_out(tools):
    verdict = tools.types.Verdict((0.5,), 0.2, True, torch.rand(1, 8, 8, 3), torch.rand(1, 8, 8, 3))
    up, down = {"a": torch.ones(2, 1)}, {"a": torch.ones(1, 2)}
    pool = tools.types.EmbeddingPool(round=1)
    state = tools.adapter.AdapterState(1, 1.0, up, down)
    one = tools.loop.Erasure(state, pool, (verdict,))
    two = tools.loop.Erasure(state, pool, (verdict,), last=verdict)
    first, other = (tools.report.report_picture(done) for done in (one, two))
    assert other.shape[1] > first.shape[1] and other.shape[2] == first.shape[2]
    nothing = tools.loop.Erasure(
        tools.adapter.AdapterState(1, 1.0, {"a": torch.zeros(2, 1)}, down), pool,
        (tools.types.Verdict((0.1,), 0.2, False, verdict.target, verdict.reference),),
    )  # fmt: skip
    picture = tools.report.report_picture(nothing)
    below = 104  # where the rows end
    assert bool((picture[0, below:] < 0.5).any()), "the words below the rows"
