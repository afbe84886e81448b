"""A run's folder: what is saved is read, where it lies, and what it is called."""

import json
import os
from dataclasses import dataclass, replace

import pytest
import torch
from dark_miner.darkminer.config import FAST, PAPER, EraseConfig
from dark_miner.darkminer.errors import DarkMinerError
from dark_miner.darkminer.files import run_folder, run_state
from dark_miner.darkminer.files.run_folder import RunFolder, read_run, run_place
from dark_miner.darkminer.files.run_records import (
    BANK,
    EMBEDDINGS,
    FIGURES,
    LAST,
    POOL,
    REPORT,
    STAGE,
    VERDICTS,
    Record,
    adapters,
    settings,
)
from dark_miner.darkminer.standing import OptimizerState, StageState, generator_state

from .run_values import files, forge, names, number_of, saved, three, weights
from .test_converting import ADAPTERS, RETAIN, VERDICT, bits
from .test_converting import EMBEDDINGS as FOUND
from .test_converting import POOL as PICTURES

__all__ = ["three"]

posix = pytest.mark.skipif(os.name != "posix", reason="forks")


def test_everything_a_run_has_comes_back_to_the_last_bit(tmp_path):
    stage = StageState(
        "chase", 2, "", 7, 0.5, weights(2), {"chase": generator_state(torch.Generator())},
        {"t": OptimizerState("SGD")},
    )  # fmt: skip
    values = {
        settings(EraseConfig): FAST, POOL: PICTURES, BANK: RETAIN, EMBEDDINGS: FOUND,
        adapters(0): ADAPTERS, adapters(12): weights(1), STAGE: stage, LAST: VERDICT,
        VERDICTS: (VERDICT,), REPORT: {"score": 0.1, "words": ["a", None, True]},
    }  # fmt: skip
    with RunFolder.open(tmp_path, "runs/ink") as folder:
        assert folder.state is None
        folder.save(values)
    for state in (RunFolder.open(tmp_path, "runs/ink").state, read_run(tmp_path, "runs/ink")):
        for record, value in values.items():
            assert record in state
            assert bits(state.read(record)) == bits(value), record.name
        assert state.rounds("adapters") == [0, 12] and FIGURES not in state
        assert state.notes == []


def test_a_save_writes_what_is_new_and_keeps_one_state_before_it(tmp_path, three):
    assert names(three) == [
        "adapters.1-000001.safetensors", "adapters.2-000002.safetensors",
        "adapters.3-000003.safetensors", "embeddings-000002.safetensors",
        "embeddings-000003.safetensors", "figures-000002.safetensors",
        "figures-000003.safetensors", "pool-000001.safetensors", "report-000002.json",
        "report-000003.json", "state-000002.json", "state-000003.json",
    ]  # fmt: skip
    with RunFolder.open(tmp_path, "ink") as folder:
        assert number_of(folder.state) == 3
        folder.save({REPORT: {"round": 4}}, drop=[adapters(1), FIGURES])
        assert adapters(1) not in folder.state and adapters(2) in folder.state
        assert "adapters.1-000001.safetensors" in names(three)  # the state before has it
        folder.save({})
    assert "adapters.1-000001.safetensors" not in names(three)
    assert read_run(tmp_path, "ink").read(REPORT) == {"round": 4}


def test_what_people_may_want_to_read_is_plain_json(three):
    said = json.loads((three / "report-000003.json").read_text())
    assert said == {"kind": "Any", "value": {"round": 3}}
    state = json.loads((three / "state-000003.json").read_text())
    assert state["schema"] == run_state.SCHEMA == 1 and state["records"].keys() == {
        "pool", "embeddings", "adapters.1", "adapters.2", "adapters.3", "figures", "report"
    }  # fmt: skip


def test_what_is_not_there_or_of_another_kind_is_one_sentence(tmp_path, three):
    state = read_run(tmp_path, "ink")
    with pytest.raises(DarkMinerError, match="'ink' holds no adapters.9: name the folder"):
        state.read(adapters(9))
    with pytest.raises(DarkMinerError, match="it holds 'ImagePool', not RetainSet"):
        state.read(Record("pool", type(RETAIN)))
    with pytest.raises(DarkMinerError, match="'none' holds no run"):
        read_run(tmp_path, "none")
    assert not (tmp_path / "none").exists()


def test_a_value_with_nan_is_refused_and_the_state_stays(tmp_path, three):
    before = files(three)
    with RunFolder.open(tmp_path, "ink") as folder:
        spoilt = replace(weights(4), up={"a": torch.full((3, 2), float("nan"))})
        with pytest.raises(DarkMinerError, match=r"adapters.4 cannot be kept .*up.a .*not finite"):
            folder.save({REPORT: {"round": 4}, adapters(4): spoilt})
        assert files(three) == before and number_of(folder.state) == 3
        folder.save(saved(4))
    assert number_of(read_run(tmp_path, "ink")) == 4


def test_a_setting_of_a_newer_pack_has_its_default_and_is_said(tmp_path):
    @dataclass(frozen=True)
    class EraseConfig(type(PAPER)):  # an older pack's had fewer
        pass

    with RunFolder.open(tmp_path, "ink") as folder:
        folder.save({Record("settings", dict[str, int]): {"max_rounds": 3}})
        path = tmp_path / "ink" / "settings-000001.json"
        path.write_text(path.read_text().replace("dict[str, int]", "EraseConfig"))
        forge(tmp_path / "ink")
    state = read_run(tmp_path, "ink")
    assert state.read(settings(type(PAPER))) == replace(PAPER, max_rounds=3)
    assert "settings: mine is not in the run folder and has its default." in state.notes


@pytest.mark.parametrize("name", ["../ink", "/tmp/ink", "a/../../b", "C:\\ink", "nul", "", "ink."])
def test_a_name_that_leads_elsewhere_is_refused_and_nothing_is_made(tmp_path, name):
    with pytest.raises(DarkMinerError, match="^run folder "):
        RunFolder.open(tmp_path / "runs", name)
    assert list(tmp_path.iterdir()) == []


@posix
def test_a_link_that_leads_out_is_refused(tmp_path):
    root, outside = tmp_path / "runs", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (root / "out").symlink_to(outside)
    (root / "up").symlink_to("..")
    (root / "self").symlink_to(".")
    (root / "real").mkdir()
    (root / "within").symlink_to("real")
    for name in ("out", "out/ink", "up", "up/outside", "self"):
        with pytest.raises(DarkMinerError, match="is a link that leads out of its folder"):
            run_place(root, name)
    assert run_place(root, "within/ink") == (root / "real/ink").resolve()
    (tmp_path / "link").symlink_to(root)  # the root itself may be one
    assert run_place(tmp_path / "link", "ink") == (root / "ink").resolve()


def test_a_folder_of_other_things_is_refused(tmp_path):
    place = tmp_path / "pictures"
    place.mkdir()
    (place / ".DS_Store").touch()
    RunFolder.open(tmp_path, "pictures").close()
    (place / "a.png").touch()
    with pytest.raises(DarkMinerError, match="'pictures' holds 'a.png' and no run: name an empty"):
        RunFolder.open(tmp_path, "pictures")
    (tmp_path / "file").touch()
    with pytest.raises(DarkMinerError, match="'file' cannot be written"):
        RunFolder.open(tmp_path, "file")


@pytest.mark.parametrize(
    "name", ["State", "state", "lock", "con", "aux.1", "a/b", "a.b.c", "", "ä"]
)
def test_a_record_has_a_name_that_is_a_files_everywhere(name):
    with pytest.raises(ValueError, match="is no name of a record"):
        Record(name, int)


def test_a_folder_is_read_while_it_is_written(tmp_path, three, monkeypatch):
    """The states that were listed may be gone when they are looked at."""
    folder, first = RunFolder.open(tmp_path, "ink"), run_state._first_whole

    def slow(*args):
        if folder.state.number < 6:
            folder.save(saved(folder.state.number + 1))
            folder.save(saved(folder.state.number + 1))
        return first(*args)

    monkeypatch.setattr(run_state, "_first_whole", slow)
    assert number_of(read_run(tmp_path, "ink")) == 7
    assert run_folder.last_state is run_state.last_state
