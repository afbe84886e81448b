"""What a file says of itself: one schema, enough to run again."""

import json
from dataclasses import asdict, fields, replace

import pytest
from dark_miner.darkminer.config import FAST, PAPER
from dark_miner.darkminer.files.lora_metadata import (
    SCHEMA,
    Origin,
    joint_metadata,
    metadata,
    with_newest,
)
from dark_miner.darkminer.model.sampling import SamplingConfig
from dark_miner.darkminer.types import EmbeddingPool, RoundRecord

from .test_lora_file import state

ORIGIN = Origin(
    node="DarkMinerLoop", concept="ink", anchor="a photo", negative="", sampling=SamplingConfig(),
    encoder={"clip_vision": "abc"}, pool={"pictures": 8, "prompt": "a ink photo"},
    exclude=("ball",), keep=("0123",), bank=6,
)  # fmt: skip
POOL = EmbeddingPool(round=2, history=(RoundRecord(1, (0.5,), 0.2, True),), concept="ink")


def about(pool=POOL, settings=PAPER, fingerprint="abc", **changes):
    return metadata(
        state(), pool, seed=7, settings=settings, fingerprint=fingerprint, family="sd_v1",
        origin=replace(ORIGIN, **changes),
    )  # fmt: skip


def runs(fields):
    return json.loads(fields["darkminer_runs"])


def test_everything_that_a_run_was_given_can_be_read_back():
    said = about()
    assert said["darkminer_schema"] == SCHEMA == "1"
    (run,) = runs(said)
    assert run["anchor"] == "a photo" and run["negative"] == ""
    assert SamplingConfig(**run["sampling"]) == ORIGIN.sampling
    assert run["encoder"] == {"clip_vision": "abc"} and run["pool"] == ORIGIN.pool
    assert (run["exclude"], run["keep"], run["bank"]) == (["ball"], ["0123"], 6)
    assert (run["seed"], run["rounds"], run["concept"]) == (7, 2, "ink")
    assert run["settings"] == json.loads(json.dumps(asdict(PAPER)))
    for name in ("anchor", "negative", "sampling", "encoder", "pool", "settings", "history"):
        assert json.loads(said[f"darkminer_{name}"]) == run[name]


def test_every_node_writes_the_same_fields():
    """A stage's settings stand where a loop's do, under the stage's name."""
    loop = about()
    stage = about(settings={"circumvent": asdict(FAST.circumvent)}, node="CircumventLoRA")
    bare = metadata(state(), POOL, seed=7, settings={}, fingerprint="", family="")
    joint = joint_metadata([loop, stage], 16)
    assert loop.keys() == stage.keys() == bare.keys() == joint.keys()
    assert len({tuple(sorted(run)) for f in (loop, stage, bare, joint) for run in runs(f)}) == 1
    known = {f.name for f in fields(FAST)}
    assert all(run["settings"].keys() <= known for run in runs(joint))
    assert all(isinstance(v, str) for f in (loop, stage, bare, joint) for v in f.values())


def test_the_concept_survives_embeddings_that_name_none():
    said = about(pool=replace(POOL, concept=""))
    assert said["darkminer_concept"] == "ink" and said["modelspec.title"] == "erase ink"


def test_a_continued_lora_keeps_what_it_was():
    first = about(pool=replace(POOL, concept="noto"), node="CircumventLoRA")
    same = about(before=about())
    other = about(before=first)
    assert same["darkminer_concept"] == "ink" and len(runs(same)) == 2
    assert other["darkminer_concept"] == "noto and ink"
    assert [run["node"] for run in runs(other)] == ["CircumventLoRA", "DarkMinerLoop"]
    assert json.loads(other["darkminer_concepts"]) == ["noto", "ink"]
    assert other["darkminer_rounds"] == "2" and other["darkminer_seed"] == "7"


def test_a_joint_file_tells_of_its_parts():
    one, two = about(), about(pool=replace(POOL, concept="noto"), fingerprint="abc+def")
    joint = joint_metadata([one, two, {}], 24)
    assert joint["darkminer_concept"] == "ink and noto"
    assert joint["darkminer_seed"] == "7, 7, ?" and joint["ss_network_dim"] == "24"
    assert joint["darkminer_base_fingerprint"] == "abc"
    assert [run["base_fingerprint"] for run in runs(joint)] == ["abc", "abc+def"]
    assert joint_metadata([{}, {}], 2)["modelspec.title"] == "erase"


@pytest.mark.parametrize(
    "rubbish", ["", "{", "7", "null", "[" * 100_000, '[["x"]]', '[{"concept": 3}]']
)
def test_rubbish_in_an_earlier_files_fields_stops_nothing(rubbish):
    before = {"darkminer_runs": rubbish, "darkminer_concepts": rubbish, "darkminer_concept": "noto"}
    said = about(before=before)
    assert said["darkminer_concept"] == "noto and ink" and runs(said)[-1]["node"] == "DarkMinerLoop"
    assert joint_metadata([before, before], 2)["darkminer_concept"] == "noto"


def test_what_no_file_can_hold_is_escaped():
    said = about(pool=replace(POOL, concept="\ud800"), anchor="\ud800")
    assert said["darkminer_concept"] == "\\ud800"
    "".join(said.values()).encode()


def test_the_newest_record_can_be_completed():
    first = about(before=about())
    said = with_newest(first, rounds=3)
    assert [run["rounds"] for run in runs(said)] == [2, 3]
    assert {k: v for k, v in said.items() if k != "darkminer_runs"} == {
        k: v for k, v in first.items() if k != "darkminer_runs"
    }
    assert with_newest({}, rounds=3) == {}
