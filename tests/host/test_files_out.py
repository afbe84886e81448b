"""Files that the nodes write: names, permissions, and what the file says of itself."""

import importlib
import json
import os

import pytest
from safetensors import safe_open

from ..test_lora_file import lora
from ..test_lora_metadata import runs
from .conftest import script
from .test_nodes import SAMPLING, models_and_pool, node
from .test_pictures import next_prompt

pytestmark = pytest.mark.host

TRAIN = {"seed": 3, **SAMPLING, "anchor": ["anchor", 0], "negative": ["no", 0], "steps": 2}
FEW = {
    "anchor_prompt": "a drawing", "negative_prompt": "", "preset": "fast", "max_rounds": 1,
    "seed": 3, **SAMPLING, "threshold": "-1", "mine_steps": 2, "count": 1, "circumvent_steps": 2,
    "chase_steps": 2, "bank_size": 4,
}  # fmt: skip
MODELS = {"model": ["m", 0], "clip": ["m", 1], "vae": ["m", 2]}
CONCEPT = "ink"
STAGES = ("CircumventLoRA", "DarkMinerChase")
NODES = (*STAGES, "DarkMinerLoop", "EraseConcepts")


def save(link, prefix="loras/out_%concept%"):
    return node("SaveErasureLoRA", lora=link, filename_prefix=prefix)


@pytest.fixture(scope="module")
def files(comfy):
    """Kind of node -> the file of what it trained; a second erasure on an erased MODEL."""
    work = models_and_pool(CONCEPT)
    pool, vision = {"pool": ["pool", 0]}, {"clip_vision": ["m", 3]}
    mine = {
        "model": ["m", 0], **pool, "anchor": ["anchor", 0], "preset": "fast", "seed": 3,
        "steps": 2, "count": 1,
    }  # fmt: skip
    work |= {
        "anchor": node("CLIPTextEncode", clip=["m", 1], text="a drawing"),
        "no": node("CLIPTextEncode", clip=["m", 1], text=""),
        "words": node("DarkMinerConceptContexts", clip=["m", 1], **pool, seed=3),
        # The paper's loop opens without the concept's own contexts, which would name it.
        "open": node("DarkMinerRoundOpen", max_rounds=1),
        "mine": node("MineEmbedding", **mine, embeddings=["open", 2]),
        "CircumventLoRA": node(
            "CircumventLoRA", model=["m", 0], **pool, embeddings=["mine", 1], preset="paper",
            **TRAIN,
        ),
        "DarkMinerChase": node(
            "DarkMinerChase", model=["m", 0], **pool, embeddings=["words", 0], **TRAIN
        ),
        "DarkMinerLoop": node("DarkMinerLoop", **MODELS, **pool, **vision, **FEW),
        "EraseConcepts": node(
            "EraseConcepts", **MODELS, **vision, concepts="ink\nnoto", template="a * drawing",
            size=5, width=32, height=32, **FEW,
        ),
    }  # fmt: skip
    links = {name: [name, 1] for name in NODES} | {"each": ["EraseConcepts", 2]}
    for name, link in links.items():
        work[f"save_{name}"] = save(link)
    outputs = comfy.run(work)
    found = {}
    for name in links:
        texts = outputs[f"save_{name}"]["text"]
        found[name] = [comfy.output / text for text in texts]
    return found


def fields(path):
    with safe_open(path, "pt") as file:
        return file.metadata()


def test_every_node_writes_one_schema(files):
    said = {name: fields(files[name][0]) for name in files}
    assert len({frozenset(about) for about in said.values()}) == 1
    for name in NODES[:3]:
        (run,) = runs(said[name])
        assert run["node"] == name and run["seed"] == 3
        assert run["pool"]["pictures"] == 5 and run["pool"]["prompt"] == "a ink drawing"
        assert run["sampling"]["steps"] == SAMPLING["sampling_steps"]
        assert run["anchor"] and run["negative"] is not None
    (loop,) = runs(said["DarkMinerLoop"])
    assert loop["anchor"] == "a drawing" and loop["negative"] == ""
    assert len(loop["encoder"]["clip_vision"]) == 12 and loop["bank"] >= 4
    assert loop["settings"]["mine"]["steps"] == 2 and loop["settings"]["bank"]["size"] == 4
    trained = {"lora", "retain"}
    assert runs(said["CircumventLoRA"])[0]["settings"].keys() == trained | {"circumvent"}
    assert runs(said["DarkMinerChase"])[0]["settings"].keys() == trained | {"chase"}
    assert [run["concept"] for run in runs(said["EraseConcepts"])] == ["ink", "noto"]


def test_the_concept_reaches_the_file_through_the_stages(files):
    for name in NODES[:3]:
        assert fields(files[name][0])["darkminer_concept"] == CONCEPT
        assert files[name][0].name.startswith("out_ink_")
    assert files["EraseConcepts"][0].name.startswith("out_ink-and-noto_")


def test_an_erasure_of_an_erased_model_says_what_it_was_made_on(files):
    first, second = (fields(path)["darkminer_base_fingerprint"] for path in files["each"])
    assert len(first) == 12 and second.startswith(f"{first}+") and len(second) == 25
    assert fields(files["DarkMinerLoop"][0])["darkminer_base_fingerprint"] == first


def test_the_workflow_is_in_the_file_and_runs_again(comfy, files):
    """As the host's own save nodes keep it, so that the file can be dropped on the canvas."""
    work = json.loads(fields(files["DarkMinerChase"][0])["prompt"])
    assert work["DarkMinerChase"]["inputs"]["steps"] == 2
    assert all(node.keys() <= {"inputs", "class_type", "_meta"} for node in work.values())
    only = ("m", "pool", "anchor", "no", "words", "DarkMinerChase", "save_DarkMinerChase")
    outputs = comfy.run({name: work[name] for name in only})
    again = comfy.output / outputs["save_DarkMinerChase"]["text"][0]
    one, other = fields(again), fields(files["DarkMinerChase"][0])
    assert one["darkminer_runs"] == other["darkminer_runs"]


def test_the_umask_says_who_may_read_the_file(files):
    umask = os.umask(0)
    os.umask(umask)
    for path in files["DarkMinerLoop"]:
        assert path.stat().st_mode & 0o777 == 0o666 & ~umask


@pytest.mark.parametrize(
    "prefix, reason",
    [
        ("../out", "no name of its own"),
        ("loras/a|b?*", r"holds '\|'"),
        (" ", "a blank at an end"),
        ("x.safetensors", "is put behind"),
        ("loras/con", "keeps for a device"),
        ("\ud800", "no file name may hold"),
        ("a\0b", "no file name may hold"),
        ("x" * 500, "more than 200 bytes"),
    ],
)
def test_a_bad_file_name_is_refused_before_anything_runs(comfy, prefix, reason):
    work = models_and_pool() | {
        "train": node("DarkMinerLoop", **MODELS, pool=["pool", 0], **FEW),
        "save": save(["train", 1], prefix),
    }
    with pytest.raises(script("comfy_server").ServerError, match="refused .*SaveErasureLoRA: fi"):
        comfy.run(work)
    next_prompt(comfy)


def test_a_bad_file_name_that_comes_by_a_link_is_one_sentence(hosted):
    """What a link brings is known when the node runs: its first step is the check."""
    module = importlib.import_module("dark_miner.nodes.erase.save_lora")
    error = importlib.import_module("dark_miner.darkminer.errors").DarkMinerError
    with pytest.raises(error, match="^SaveErasureLoRA: filename_prefix '../out' has a part"):
        module.SaveErasureLoRA.execute(lora=lora(0, 2, 2.0), filename_prefix="../out")


def test_a_folder_that_cannot_be_made_is_one_sentence(hosted, tmp_path):
    import folder_paths

    run = importlib.import_module("dark_miner.nodes.host.run")
    error = importlib.import_module("dark_miner.darkminer.errors").DarkMinerError
    before = folder_paths.get_output_directory()
    folder_paths.set_output_directory(str(tmp_path))
    (tmp_path / "taken").write_bytes(b"")
    try:
        with pytest.raises(error, match="^filename_prefix 'taken/x' names a folder that cannot"):
            run.output_file("taken/x")
    finally:
        folder_paths.set_output_directory(before)


@pytest.mark.parametrize("concept", ["梵高", "x" * 500, "con"])
def test_any_concept_gives_a_file(comfy, concept):
    """Tokens of a concept matter to nothing here; a pool of own pictures draws none."""
    work = models_and_pool(concept)
    work |= {
        "own": node("EmptyImage", width=32, height=32, batch_size=5, color=0xFF0000),
        "anchor": node("CLIPTextEncode", clip=["m", 1], text="a drawing"),
        "no": node("CLIPTextEncode", clip=["m", 1], text=""),
        "mine": node(
            "MineEmbedding", model=["m", 0], pool=["pool", 0], anchor=["anchor", 0],
            preset="paper", seed=3, steps=1,
        ),
        "train": node(
            "CircumventLoRA", model=["m", 0], pool=["pool", 0], embeddings=["mine", 1],
            preset="paper", **TRAIN,
        ),
        "save": save(["train", 1]),
    }  # fmt: skip
    work["pool"]["inputs"]["images"] = ["own", 0]
    outputs = comfy.run(work)
    path = comfy.output / outputs["save"]["text"][0]
    assert path.is_file() and len(path.name.encode()) < 120
    stem = {"梵高": "out_梵高_", "con": "out_concept-con_"}
    assert path.name.startswith(stem.get(concept, "out_xxx"))
    assert runs(fields(path))[0]["concept"] == concept
