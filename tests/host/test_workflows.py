"""Every workflow on a real server: both formats agree, all validate, the demo ones run."""

import asyncio
import importlib
import json
import os
import sys
from pathlib import Path

import pytest

from .conftest import script
from .frontend import to_api, with_values

ROOT = Path(__file__).resolve().parents[2]
API = ROOT / "workflows" / "api"
NAMES = sorted(path.stem for path in API.glob("*.json"))
DEMO = [name for name in NAMES if name.startswith("erase_demo")]
GALLERY = [*DEMO, "red_team_loop"]
FILES = {
    "ckpt_name": "checkpoints", "unet_name": "diffusion_models", "vae_name": "vae",
    "clip_name1": "text_encoders", "clip_name2": "text_encoders", "lora_name": "loras",
    "clip_name": "clip_vision",
}  # fmt: skip

pytestmark = [
    pytest.mark.host,
    pytest.mark.skipif("COMFYUI_PATH" not in os.environ, reason="COMFYUI_PATH names no ComfyUI"),
]


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def place_empty_models(base, api=API):
    """A server only lists files that exist: empty ones with the names that the workflows use."""
    for path in api.glob("*.json"):
        for node in read(path).values():
            for field, folder in FILES.items():
                if field in node["inputs"]:
                    file = base / "models" / folder / node["inputs"][field]
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.touch()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    module, base = script("comfy_server"), tmp_path_factory.mktemp("base")
    module.prepare_base(base, ROOT)
    place_empty_models(base)
    output = base / "output"
    host = Path(os.environ["COMFYUI_PATH"])
    with module.Server(host, sys.executable, base, output, cpu=True) as running:
        running.output = output
        yield running


def ask(server, question):
    """Run ``question(client)`` against the server."""

    async def talk():
        async with script("comfy_server").Client(server.address) as client:
            return await question(client)

    return asyncio.run(talk())


@pytest.fixture(scope="module")
def definitions(server):
    return ask(server, lambda client: client.object_info())


def bare(prompt):
    return {i: {"class_type": n["class_type"], "inputs": n["inputs"]} for i, n in prompt.items()}


@pytest.mark.parametrize("name", NAMES)
def test_template_and_api_version_are_the_same_workflow(definitions, name):
    graph = read(ROOT / "workflows" / f"{name}.json")
    assert bare(to_api(graph, definitions)) == bare(read(API / f"{name}.json"))


def for_host(text, definitions):
    """A file as a host writes it whose picture nodes put nothing out (newer ones hand them on)."""
    graph = json.loads(text)
    for node in graph.get("nodes", ()):
        known = definitions.get(node["type"])
        if known and not known["output"] and not any(row["links"] for row in node["outputs"]):
            node["outputs"] = []
    return script("make_workflows").dump(graph)


def test_files_are_what_the_generator_writes(definitions):
    stale = []
    for path, text in script("make_workflows").build(definitions).items():
        stored = path.read_text(encoding="utf-8")
        if text not in (stored, for_host(stored, definitions)):
            stale.append(path.name)
    assert not stale, f"run scripts/make_workflows.py: {stale}"


def test_help_pages_are_those_of_the_schemas(definitions):
    pages = script("make_help").build(definitions)
    assert set(pages) == set((ROOT / "js" / "docs").glob("*.md"))
    stale = [path.name for path, text in pages.items() if path.read_text("utf-8") != text]
    assert not stale, f"run scripts/make_help.py: {stale}"
    shown = {path.stem for path in (ROOT / "js" / "docs" / "pictures").iterdir()}
    assert shown == {path.stem for path in pages}, "run scripts/make_help_pictures.py"


@pytest.mark.parametrize("name", NAMES)
def test_links_join_sockets_of_one_type(name):
    graph = read(ROOT / "workflows" / f"{name}.json")
    nodes = {node["id"]: node for node in graph["nodes"]}
    for number, origin, slot, target, target_slot, kind in graph["links"]:
        outgoing = nodes[origin]["outputs"][slot]
        incoming = nodes[target]["inputs"][target_slot]
        assert number in outgoing["links"]
        assert incoming["link"] == number
        assert outgoing["type"] == incoming["type"] == kind or "*" in (
            outgoing["type"],
            incoming["type"],
        )


@pytest.mark.parametrize("name", NAMES)
def test_nodes_do_not_overlap_and_groups_hold_their_nodes(name):
    graph = read(ROOT / "workflows" / f"{name}.json")
    boxes = [
        (*n["pos"], n["pos"][0] + n["size"][0], n["pos"][1] + n["size"][1]) for n in graph["nodes"]
    ]
    for number, a in enumerate(boxes):
        for b in boxes[number + 1 :]:
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
    for group in graph["groups"]:
        left, top, width, height = group["bounding"]
        inside = [
            left < a[0] and top < a[1] and a[2] < left + width and a[3] < top + height
            for a in boxes
        ]
        assert any(inside)


@pytest.mark.parametrize("name", NAMES)
def test_a_template_opens_at_a_size_that_can_be_read(name):
    # Below this the canvas draws no text: 14 pixels become less than 8 (its own least size).
    graph = read(API.parent / f"{name}.json")
    scale, (left, top) = graph["extra"]["ds"]["scale"], graph["extra"]["ds"]["offset"]
    assert scale >= 0.6
    note = next(node for node in graph["nodes"] if node["type"] == "MarkdownNote")
    first = min((n for n in graph["nodes"] if n is not note), key=lambda n: n["pos"])
    for node in (note, first):
        x, y = node["pos"]
        width, height = node["size"]
        assert x + left >= 0 and y + top >= 0
        assert (x + width + left) * scale <= 1500 and (y + height + top) * scale <= 900


@pytest.mark.parametrize("name", [path.stem for path in (ROOT / "workflows").glob("*.json")])
def test_each_template_has_a_picture(name):
    Image = pytest.importorskip("PIL.Image")
    with Image.open(ROOT / "workflows" / f"{name}.jpg") as picture:
        assert picture.format == "JPEG"
        assert min(picture.size) >= 256


@pytest.mark.parametrize("name", NAMES)
def test_a_model_that_may_be_missing_is_offered(name):
    asked, offered = set(), set()
    for node in read(ROOT / "workflows" / f"{name}.json")["nodes"]:
        files = node["properties"].get("models", [])
        offered |= {(file["directory"], file["name"]) for file in files}
        assert all(f["url"].startswith("https://") and f["url"].endswith(f["name"]) for f in files)
    for node in read(API / f"{name}.json").values():
        asked |= {(folder, node["inputs"][field]) for field, folder in FILES.items()
                  if field in node["inputs"] and folder != "loras"}  # fmt: skip
    assert offered == asked


def test_the_server_offers_the_templates(server):
    async def listed(client):
        async with client.session.get(f"http://{server.address}/workflow_templates") as answer:
            return await answer.json()

    names = {path.stem for path in (ROOT / "workflows").glob("*.json")}
    assert set(ask(server, listed)["dark-miner"]) == names


@pytest.mark.parametrize("name", [name for name in NAMES if name not in GALLERY])
def test_the_server_accepts_it(server, name):
    """Accepted whole; the run then stops at the first loader, whose file is empty."""
    module, prompt = script("comfy_server"), read(API / f"{name}.json")
    failed = []

    def watch(kind, data):
        if kind == "execution_error":
            failed.append(data["node_type"])

    with pytest.raises(module.ServerError) as caught:
        ask(server, lambda client: client.run(prompt, watch))
    assert "refused" not in str(caught.value)
    assert failed and "Loader" in failed[0]


FEW = {  # hardly any steps, and a verification that always says to go on
    "size": 6,
    "pictures": 1,
    "sampling_steps": 2,
    "batch_size": 8,
    "steps": 2,
    "max_rounds": 2,
    "mine_steps": 2,
    "count": 2,
    "circumvent_steps": 2,
    "chase_steps": 2,
    "bank_size": 8,
    "threshold": "-1",
}


def loras(output):
    return set((output / "loras").rglob("*.safetensors"))


def run_short(server, name):
    """Run a demo workflow with few steps: its outputs by class and the LoRA file it wrote."""
    prompt, before = with_values(read(API / f"{name}.json"), FEW), loras(server.output)
    outputs = ask(server, lambda client: client.run(prompt))
    (written,) = loras(server.output) - before
    pictures = [
        entry
        for node_id, output in outputs.items()
        if prompt[node_id.split(".")[0]]["class_type"] == "PreviewImage"
        for entry in output["images"]
    ]
    return written, pictures


def test_the_demo_runs_and_both_ways_give_the_same_lora(server):
    torch = pytest.importorskip("torch")
    load = pytest.importorskip("safetensors.torch").load_file
    tensors = []
    for name in DEMO:
        written, pictures = run_short(server, name)
        assert pictures
        tensors.append(load(written))
        assert all(key.startswith("lora_unet_") for key in tensors[-1])
        ups = [t for key, t in tensors[-1].items() if "lora_up" in key]
        assert any(torch.count_nonzero(up) for up in ups)
    first, second = tensors
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_an_attack_goes_into_another_round_and_onto_a_card(server):
    """With the attack alone that searches nothing; the prompts as they are get the concept."""
    only = {"p4d_k": False, "udatk": False, "ringabell": False, "recall": False, "completion": True}
    prompt, before = with_values(read(API / "red_team_loop.json"), FEW | only), loras(server.output)
    outputs = ask(server, lambda client: client.run(prompt))
    (written,) = loras(server.output) - before
    kinds = {i: node["class_type"] for i, node in prompt.items()}
    card = next(outputs[i]["text"][0] for i, kind in kinds.items() if kind == "SaveReportCard")
    assert written.name.startswith("red_team_ink_") and card == "report/card_ink_00001_.html"
    record = read((server.output / card).with_suffix(".json"))
    assert list(record["models"]) == ["before", "after"]
    assert record["models"]["before"]["lora"] == "" != record["models"]["after"]["lora"]
    assert record["models"]["before"]["attacks"]["words"]["success"]["share"] > 0


def test_the_visible_demo_has_the_rounds_of_its_preset():
    presets = importlib.import_module("dark_miner.darkminer.config").PRESETS
    prompt = read(API / "erase_demo_as_graph.json")
    nodes = {node["class_type"]: node["inputs"] for node in prompt.values()}
    preset = presets[nodes["MineEmbedding"]["preset"]]
    assert nodes["DarkMinerRoundOpen"]["max_rounds"] == preset.max_rounds
    assert nodes["VerifyDeltaCLIP"]["threshold"] == str(preset.verify.threshold)


def test_the_demo_never_names_held_out_things():
    held_out = importlib.import_module("dark_miner.demo.gallery").HELD_OUT
    for name in DEMO:
        for node in read(API / f"{name}.json").values():
            words = node["inputs"].get("exclude_words")
            if words is not None:
                assert set(words.split(", ")) == set(held_out)
