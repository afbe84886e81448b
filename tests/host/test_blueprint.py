"""The subgraph blueprint: the server offers it, and it is the visible loop, node for node."""

import json

import pytest
import torch
from safetensors.torch import load_file

from .conftest import script
from .frontend import to_api, with_values
from .test_nodes import HELD_OUT, LENGTH, SAMPLING, graph, node, saved

pytestmark = pytest.mark.host

LINK = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
NAME = "One Dark Miner round"


@pytest.fixture(scope="module")
def offered(comfy):
    """The blueprint as the host's page gets it."""

    async def question(client):
        get, base = client.session.get, f"http://{comfy.address}/global_subgraphs"
        async with get(base) as answer:
            listed = await answer.json()
        ids = {entry["name"]: (key, entry) for key, entry in listed.items()}
        async with get(f"{base}/{ids[NAME][0]}") as answer:
            return ids[NAME][1], await answer.json()

    listed, entry = comfy.ask(question)
    assert listed["source"] == "custom_node" and "custom_nodes." in listed["info"]["node_pack"]
    return json.loads(entry["data"])


def test_the_file_is_what_the_script_makes(comfy):
    script_ = script("make_blueprints")
    definitions = comfy.ask(lambda client: client.object_info())
    for path, text in script_.build(definitions).items():
        assert path.read_text(encoding="utf-8") == text, "run scripts/make_blueprints.py"


def test_every_link_joins_what_it_names(offered, comfy):
    definitions = comfy.ask(lambda client: client.object_info())
    (inner,) = offered["definitions"]["subgraphs"]
    (one,) = offered["nodes"]
    assert one["type"] == inner["id"] and inner["name"] == NAME == one["title"]
    assert [i["name"] for i in one["inputs"]] == [i["name"] for i in inner["inputs"]]
    by_id = {n["id"]: n for n in inner["nodes"]}
    assert {n["type"] for n in inner["nodes"]} <= set(definitions)
    for link in inner["links"]:
        kind = link["type"]
        if link["origin_id"] == -10:
            source = inner["inputs"][link["origin_slot"]]
            assert link["id"] in source["linkIds"]
        else:
            source = by_id[link["origin_id"]]["outputs"][link["origin_slot"]]
            assert link["id"] in source["links"]
        if link["target_id"] == -20:
            target = inner["outputs"][link["target_slot"]]
            assert link["id"] in target["linkIds"]
        else:
            target = by_id[link["target_id"]]["inputs"][link["target_slot"]]
            assert target["link"] == link["id"]
        assert source["type"] == target["type"] == kind
    widgets = [i["name"] for i in one["inputs"] if "widget" in i]
    assert [name for _, name in one["properties"]["proxyWidgets"]] == widgets
    assert len(one["widgets_values"]) == len(widgets)


def flat(inner, definitions, given):
    """What the page queues for the one node: its nodes, with what its inputs are connected to."""
    rows = [[one[k] for k in LINK] for one in inner["links"]]
    inside = [row for row in rows if row[1] != -10 and row[3] != -20]
    cut = {i["id"]: i for i in inner["nodes"]}
    nodes = []
    for one in cut.values():
        kept = {row[0] for row in inside}
        inputs = [{**i, "link": i["link"] if i["link"] in kept else None} for i in one["inputs"]]
        nodes.append({**one, "inputs": inputs})
    prompt = to_api({"nodes": nodes, "links": inside}, definitions)
    for row in rows:
        if row[1] == -10 and (name := inner["inputs"][row[2]]["name"]) in given:
            field = cut[row[3]]["inputs"][row[4]]["name"]
            prompt[str(row[3])]["inputs"][field] = given[name]
    return prompt


def test_it_runs_and_gives_the_visible_loops_lora(offered, comfy):
    """Beside the graph of the same nodes written out, both in one prompt."""
    definitions = comfy.ask(lambda client: client.object_info())
    whole = graph("loras/written_out")
    whole["open"]["inputs"] |= {"max_rounds": 1, "embeddings": ["words", 0]}
    whole["words"]["inputs"]["words"] = 1
    del whole["open"]["inputs"]["lora"], whole["start"], whole["chase"], whole["bank"]
    del whole["train"]["inputs"]["bank"]
    (inner,) = offered["definitions"]["subgraphs"]
    given = {
        "model": ["m", 0], "clip": ["m", 1], "vae": ["m", 2], "clip_vision": ["m", 3],
        "pool": ["pool", 0], "anchor": ["anchor", 0], "negative": ["no", 0],
        "embeddings": ["words", 0], "max_rounds": 1, "seed": 3, "preset": "fast",
        "exclude_words": HELD_OUT, "threshold": "-1",
    }  # fmt: skip
    names = {i["name"] for i in inner["inputs"]}
    assert set(given) | {"lora", "bank", "settings"} == names
    blueprint = with_values(flat(inner, definitions, given), {**SAMPLING, "length": LENGTH,
                                                               "count": 1})  # fmt: skip
    for one in blueprint.values():
        if one["class_type"] in ("MineEmbedding", "CircumventLoRA"):
            one["inputs"]["steps"] = 3 if one["class_type"] == "MineEmbedding" else 4
    whole |= {**blueprint, "save_blueprint": node(
        "SaveErasureLoRA", lora=["14", 0], filename_prefix="loras/blueprint"
    )}  # fmt: skip
    outputs = comfy.run(whole)
    one = load_file(saved(comfy, outputs))
    other = load_file(comfy.output / outputs["save_blueprint"]["text"][0])
    assert one.keys() == other.keys() and any(bool(v.any()) for k, v in one.items() if "up" in k)
    assert all(torch.equal(one[k], other[k]) for k in one)
