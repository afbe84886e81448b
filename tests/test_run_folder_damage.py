"""A run's folder: whatever happens to its files, or whoever made them, one save is lost at most."""

import errno
import itertools
import json
import os
import random
import struct

import pytest
from dark_miner.darkminer.errors import DarkMinerError
from dark_miner.darkminer.files import run_state
from dark_miner.darkminer.files.run_folder import RunFolder, read_run
from dark_miner.darkminer.files.run_records import (
    REPORT,
    adapters,
)

from .run_values import files, forge, names, number_of, saved, three, weights
from .test_converting import bits

__all__ = ["three"]

posix = pytest.mark.skipif(os.name != "posix", reason="forks")


def cuts(size):
    """Lengths at which a file is cut: all of a short one, some of a long one."""
    return range(size) if size < 300 else sorted({0, 1, 7, 8, 9, size // 2, size - 1})


def test_a_newest_file_cut_anywhere_gives_the_state_before_and_says_so(tmp_path, three):
    whole = files(three)
    for name in (name for name in whole if name.endswith(("3.json", "3.safetensors"))):
        for length in cuts(len(whole[name])):
            (three / name).write_bytes(whole[name][:length])
            state = read_run(tmp_path, "ink")
            assert number_of(state) == 2, (name, length)
            assert len(state.notes) == 1 and repr(name) in state.notes[0]
            assert state.notes[0].endswith(": the state before it is used.")
        (three / name).write_bytes(whole[name])
    assert number_of(read_run(tmp_path, "ink")) == 3


def test_a_bit_that_flips_anywhere_is_noticed(tmp_path, three):
    whole, dice = files(three), random.Random(0)
    for name in (name for name in whole if "3." in name and name != "state-000003.json"):
        for _ in range(60):
            spoilt = bytearray(whole[name])
            spoilt[dice.randrange(len(spoilt))] ^= 1 << dice.randrange(8)
            (three / name).write_bytes(spoilt)
            assert number_of(read_run(tmp_path, "ink")) == 2, name
        (three / name).write_bytes(whole[name])
    for at in range(0, len(whole["state-000003.json"]), 7):
        spoilt = bytearray(whole["state-000003.json"])
        spoilt[at] ^= 1 << dice.randrange(7)
        (three / "state-000003.json").write_bytes(spoilt)
        state = read_run(tmp_path, "ink")
        assert number_of(state) in (2, 3) and len(state.notes) == 3 - number_of(state)


def test_files_that_have_changed_places_are_noticed(tmp_path, three):
    whole = files(three)
    newest = [name for name in whole if "3." in name and name != "state-000003.json"]
    for one, other in itertools.combinations(newest, 2):
        (three / one).write_bytes(whole[other])
        (three / other).write_bytes(whole[one])
        assert number_of(read_run(tmp_path, "ink")) == 2, (one, other)
        for name in (one, other):
            (three / name).write_bytes(whole[name])
    assert number_of(read_run(tmp_path, "ink")) == 3


@posix
@pytest.mark.parametrize("make", [
    None, os.mkdir, os.mkfifo, lambda p: os.symlink("/dev/zero", p),
    lambda p: os.symlink("report-000002.json", p),
])  # fmt: skip
@pytest.mark.parametrize("name", ["report-000003.json", "state-000003.json", "embeddings-000003."])
def test_a_file_that_has_become_something_else_is_damage(tmp_path, three, name, make):
    (path,) = (p for p in three.iterdir() if p.name.startswith(name))
    path.unlink()
    if make is not None:
        make(path)
    assert number_of(read_run(tmp_path, "ink")) == 2


def test_a_run_goes_on_from_the_state_before_and_never_takes_a_number_twice(tmp_path, three):
    (three / "embeddings-000003.safetensors").write_bytes(b"")
    with RunFolder.open(tmp_path, "ink") as folder:
        assert number_of(folder.state) == 2
        folder.save(saved(3))
        assert folder.state.number == 4 and number_of(folder.state) == 3
    assert [name for name in names(three) if name.startswith("state")] == [
        "state-000002.json", "state-000004.json"
    ]  # fmt: skip
    assert "report-000003.json" not in names(three)


def test_what_both_states_need_and_is_damaged_is_named(tmp_path, three):
    path = three / "pool-000001.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    said = (
        f"^'pool-000001.safetensors' of the run folder 'ink' is damaged .it has {len(whole) - 1} "
        f"bytes where {len(whole)} were written.: bring back a copy of it, or begin anew in "
    )
    with pytest.raises(DarkMinerError, match=said):
        read_run(tmp_path, "ink")
    with pytest.raises(DarkMinerError, match=said):
        RunFolder.open(tmp_path, "ink")
    state = read_run(tmp_path, "ink", only={"adapters.3"})  # hours of work are not lost with it
    assert bits(state.read(adapters(3))) == bits(weights(3))
    path.write_bytes(whole)
    assert number_of(RunFolder.open(tmp_path, "ink").state) == 3


def test_a_disk_that_cannot_read_a_file_gives_the_state_before(tmp_path, three, monkeypatch):
    def worn(path, entry):
        if path.name == "embeddings-000003.safetensors":
            raise OSError(errno.EIO, "Input/output error")
        check(path, entry)

    check = run_state._require_whole
    monkeypatch.setattr(run_state, "_require_whole", worn)
    assert number_of(read_run(tmp_path, "ink")) == 2


def test_a_file_that_changes_after_it_was_looked_at_is_not_believed(tmp_path, three):
    state = read_run(tmp_path, "ink")
    path = three / "adapters.3-000003.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    with pytest.raises(DarkMinerError, match="is damaged .its bytes are not those"):
        state.read(adapters(3))


def test_a_newer_schema_is_refused_in_one_sentence_and_nothing_is_touched(tmp_path, three):
    forge(three, change=lambda s: s.update(schema=2, version="9.1"))
    before = files(three)
    for opened in (read_run, RunFolder.open):
        with pytest.raises(DarkMinerError) as caught:
            opened(tmp_path, "ink")
        assert str(caught.value) == (
            "The run folder 'ink' has schema 2, written by version 9.1 of this pack, and this "
            "version reads up to schema 1: update the pack, or name another folder."
        )
    assert files(three) == before
    forge(three, change=lambda s: s.update(schema=1))
    RunFolder.open(tmp_path, "ink").close()  # and the folder was given back


@pytest.mark.parametrize("entry, reason", [
    ({"file": "../x-000001.json"}, "none of this folder"),
    ({"file": "/etc/passwd"}, "none of this"),
    ({"file": "pool-000001.safetensors"}, "none of this"), ({"file": 3}, "none of this"),
    ({"file": "report-000009.json"}, "none of this"), ({"file": "state-000002.json"}, "none of"),
    ({"size": -1}, "size of report"), ({"size": 1 << 60}, "size of report"),
    ({"size": True}, "size of report"), ({"sha256": "x" * 64}, "digest of report"),
    ({"sha256": 0}, "digest of report"), ({"sha256": "0" * 64}, "its bytes are not"),
])  # fmt: skip
def test_a_state_that_leads_elsewhere_is_damaged(tmp_path, three, entry, reason):
    forge(three, entry=entry)
    state = read_run(tmp_path, "ink")
    assert number_of(state) == 2 and reason in state.notes[0]


@pytest.mark.parametrize("change", [
    lambda s: s.update(records=[]), lambda s: s.update(records={"../x": {}}),
    lambda s: s.update(records={"state": s["records"]["report"]}), lambda s: s.update(number=9),
    lambda s: s.update(records={"report": None}), lambda s: s.update(schema="1"),
    lambda s: s.update(schema=0), lambda s: s.pop("schema"), lambda s: s.pop("records"),
    lambda s: s.update(records=dict.fromkeys(map("a{}".format, range(10_001)), {})),
])  # fmt: skip
def test_a_state_that_is_none_is_damaged(tmp_path, three, change):
    forge(three, change=change)
    state = read_run(tmp_path, "ink")
    assert number_of(state) == 2 and "is damaged" in state.notes[0]


@pytest.mark.parametrize("text", [
    b"", b"[]", b"null", b"[" * 100_000, b'"' + b"x" * 100 + b'"', b"{}", b"\xff", b" " * (1 << 23),
    b'{"a":NaN}', b'{"sha256":1,"sha256":2}',
])  # fmt: skip
def test_rubbish_instead_of_a_state_is_damaged(tmp_path, three, text):
    (three / "state-000003.json").write_bytes(text)
    assert number_of(read_run(tmp_path, "ink")) == 2


def safetensors_of(record, tensors=b"", **header):
    text = json.dumps({"__metadata__": {"darkminer_record": json.dumps(record)}, **header}).encode()
    return struct.pack("<Q", len(text)) + text + tensors


@pytest.mark.parametrize("name, data", [
    ("report", b"[]"), ("report", b'{"kind":"Any"}'), ("report", b'{"kind":1,"value":1}'),
    ("report", b'{"kind":"Any","value":' + b"[" * 60 + b"]" * 60 + b"}"),
    ("report", b'{"kind":"Any","value":1e999}'), ("report", b'{"kind":"\\ud800","value":1}'),
    ("adapters.3", b""), ("adapters.3", b"\xff" * 100), ("adapters.3", safetensors_of({})),
    ("adapters.3", safetensors_of("\ud800")), ("adapters.3", struct.pack("<Q", 2) + b"{}"),
    ("adapters.3", safetensors_of({"kind": "AdapterState", "value": {}})),
    ("adapters.3", safetensors_of({"kind": "AdapterState", "value": {
        "rank": 1, "alpha": 1.0, "up": {"a": {"tensor": "up.a"}}, "down": {"a": {}}}})),
    ("adapters.3", safetensors_of({"kind": "AdapterState", "value": {}}, a={
        "dtype": "F32", "shape": [1 << 38], "data_offsets": [0, 1 << 40]})),
])  # fmt: skip
def test_a_record_of_a_strangers_is_one_sentence(tmp_path, three, name, data):
    (path,) = three.glob(f"{name}-000003.*")
    path.write_bytes(data)
    forge(three)
    record = REPORT if name == "report" else adapters(3)
    with pytest.raises(DarkMinerError, match=f"^'{path.name}' of the run folder 'ink' is damaged"):
        read_run(tmp_path, "ink").read(record)
