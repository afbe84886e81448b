"""Safetensors files: the library reads what is written here, and rubbish costs a sentence."""

import io
import json
import os
import struct
import tracemalloc

import pytest
import torch
from dark_miner.darkminer.files import atomic
from dark_miner.darkminer.files.bounds import MAX_JSON, Damaged, json_bytes, parsed_json
from dark_miner.darkminer.files.tensor_file import DTYPES, read_tensors, tensor_parts
from safetensors.torch import load, save


def every_kind():
    gen = torch.Generator().manual_seed(0)
    tensors = {
        name: (torch.randn(3, 5, generator=gen) * 50).to(dtype)
        for name, dtype in DTYPES.items()
    }  # fmt: skip
    tensors["scalar"] = torch.tensor(-0.0)
    tensors["empty"] = torch.zeros(0, 4)
    tensors["turned"] = torch.arange(12.0).view(3, 4).T
    tensors["widened"] = torch.ones(1, 1).expand(5, 7)
    tensors["smallest"] = torch.tensor([1e-45, float("inf"), -1e-310], dtype=torch.float64)
    tensors["one"], tensors["other"] = torch.arange(6.0).view(2, 3).unbind()
    return tensors


def written(tensors, metadata=None):
    return b"".join(tensor_parts(tensors, metadata))


def read(data):
    return read_tensors(io.BufferedReader(io.BytesIO(data)), len(data))  # type: ignore[arg-type]


def bits(tensor):
    return tensor.dtype, tensor.shape, tensor.contiguous().flatten().view(torch.uint8).tolist()


def all_bits(tensors):
    return {name: bits(tensor) for name, tensor in tensors.items()}


def test_tensors_of_every_kind_come_back_bit_for_bit():
    found = read(written(every_kind(), {"a": "b", "c": "\u00e9\n\"'"}))
    assert all_bits(found.tensors) == all_bits(every_kind())
    assert found.metadata == {"a": "b", "c": "\u00e9\n\"'"}


def test_the_library_reads_what_is_written_and_the_other_way_round():
    tensors = {k: v.contiguous().clone() for k, v in every_kind().items()}
    assert all_bits(load(written(tensors))) == all_bits(tensors)
    assert all_bits(read(save(tensors, {"x": "y"})).tensors) == all_bits(tensors)
    assert written(tensors) == written(dict(reversed(tensors.items())))


def test_each_tensor_begins_at_a_multiple_of_its_width():
    data = written(every_kind())
    (length,) = struct.unpack("<Q", data[:8])
    assert length % 8 == 0
    for name, said in json.loads(data[8 : 8 + length]).items():
        assert said["data_offsets"][0] % DTYPES[said["dtype"]].itemsize == 0, name


@pytest.mark.parametrize("bad", [torch.zeros(2, dtype=torch.complex64), torch.zeros(2).to_sparse()])
def test_what_no_file_here_holds_is_not_written(bad):
    with pytest.raises((Damaged, RuntimeError)):
        written({"bad": bad})


def test_a_file_cut_anywhere_or_with_more_behind_it_is_damaged():
    data = written({"a": torch.ones(3), "b": torch.ones(2, dtype=torch.int64)}, {"x": "y"})
    for length in range(len(data)):
        with pytest.raises(Damaged):
            read(data[:length])
    with pytest.raises(Damaged):
        read(data + b"\0")


def crafted(header, size=0):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(size)


def one(**changes):
    return {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes}


@pytest.mark.parametrize(
    "data, reason",
    [
        (struct.pack("<Q", 1 << 63) + b"{}", "does not fit"),
        (struct.pack("<Q", MAX_JSON + 1) + bytes(MAX_JSON + 9), "does not fit"),
        (crafted([]), "is no object"),
        (crafted(b"\xff\xfe"), "is no JSON"),
        (crafted(b'{"a":1,"a":2}'), "names a key twice"),
        (crafted(b"[" * 100_000), "is no JSON|nested"),
        (crafted(b'{"a":' * 40 + b"1" + b"}" * 40), "nested more than 32"),
        (crafted(b"[" + b"0," * (1 << 20) + b"0]"), "values, more than"),
        (crafted({"a": 1}), "does not say what 'a' is"),
        (crafted(one(more=1), 8), "does not say what 'a' is"),
        (crafted(one(dtype="C64"), 8), "has dtype 'C64'"),
        (crafted(one(dtype=["F32"]), 8), "has dtype"),
        (crafted(one(shape=[-2]), 8), "no shape"),
        (crafted(one(shape=[2.0]), 8), "no shape"),
        (crafted(one(shape=[True]), 8), "no shape"),
        (crafted(one(shape=[1] * 9), 8), "no shape"),
        (crafted(one(shape=[1 << 41]), 8), "no shape"),
        (crafted(one(shape=[1 << 40, 1 << 40])), "not as large as its bytes"),
        (crafted(one(shape=[1 << 38], data_offsets=[0, 1 << 40])), "its header says"),
        (crafted(one(data_offsets=[8, 0]), 8), "not as large"),
        (crafted(one(data_offsets=[0, 8, 8]), 8), "no place"),
        (crafted(one(data_offsets=[4, 12]), 12), "do not follow"),
        (crafted(one() | {"b": one()["a"]}, 8), "do not follow"),
        (crafted(one(), 9), "9 bytes of tensors where its header says 8"),
        (crafted(one(shape=[0, *[1 << 40] * 4], data_offsets=[0, 0])), "cannot be made"),
        (crafted(one() | {"__metadata__": {"a": 1}}, 8), "metadata"),
        (crafted(one() | {"__metadata__": []}, 8), "metadata"),
        (crafted(one(dtype="BOOL", data_offsets=[0, 2])) + b"\1\7", "truth value"),
        (crafted({"a": {"dtype": "F32", "shape": [int("9" * 30)], "data_offsets": [0, 8]}}), "30"),
    ],
)  # fmt: skip
def test_a_header_that_promises_what_is_not_there_is_damage(data, reason):
    with pytest.raises(Damaged, match=reason):
        read(data)


def test_a_promise_of_a_terabyte_takes_no_memory():
    data = crafted(one(shape=[1 << 38], data_offsets=[0, 1 << 40]))
    tracemalloc.start()
    with pytest.raises(Damaged):
        read(data)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": [-float("inf")]}, {1, 2}])
def test_json_that_no_reader_takes_is_not_written(value):
    with pytest.raises(Damaged):
        json_bytes(value)


@pytest.mark.parametrize("text", [b"NaN", b"Infinity", b"1e999", b"-1e999", b"9" * 25, b"{", b""])
def test_numbers_without_a_value_are_not_read(text):
    with pytest.raises(Damaged):
        parsed_json(text)


def test_any_text_and_any_float_comes_back_from_json():
    value = {"\ud800": ["\0\n", "\U0001f3a8"], "x": [5e-324, -0.0, 0.1, 1.7976931348623157e308]}
    back = parsed_json(json_bytes(value))
    assert back == value and str(back["x"][1]) == "-0.0"


class Calls:
    """Which of the system's calls were made, in their order."""

    def __init__(self, monkeypatch, fail=()):
        self.made, self._names = [], {}
        for name in ("open", "write", "fsync", "replace", "link"):
            monkeypatch.setattr(os, name, self._watched(name, getattr(os, name), dict(fail)))

    def _watched(self, name, call, fail):
        def watched(*args, **kwargs):
            if name in fail:
                raise fail[name]
            done = call(*args, **kwargs)
            if name == "open":
                self._names[done] = os.path.basename(args[0])
            what = self._names.get(args[0]) if name in ("write", "fsync") else args
            self.made.append((name, what))
            return done

        return watched


def test_bytes_are_on_the_disk_before_they_have_their_name(tmp_path, monkeypatch):
    calls = Calls(monkeypatch)
    atomic.write_whole(tmp_path / "x", [b"abc", memoryview(b"def")])
    assert [name for name, _ in calls.made] == [
        "open", "write", "write", "fsync", "replace", "open", "fsync"
    ]  # fmt: skip
    assert calls.made[3][1].endswith(".tmp") and calls.made[-1][1] == tmp_path.name
    assert (tmp_path / "x").read_bytes() == b"abcdef"


def test_of_two_writers_one_creates_a_file(tmp_path):
    atomic.create_whole(tmp_path / "x", [b"first"])
    with pytest.raises(FileExistsError):
        atomic.create_whole(tmp_path / "x", [b"second"])
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"first"]


def test_a_file_is_created_where_there_are_no_hard_links(tmp_path, monkeypatch):
    Calls(monkeypatch, {"link": OSError(1, "Operation not permitted")}.items())
    atomic.create_whole(tmp_path / "x", [b"first"])
    with pytest.raises(FileExistsError):
        atomic.create_whole(tmp_path / "x", [b"second"])
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"first"]


def test_windows_waits_for_a_file_that_is_being_looked_at(tmp_path, monkeypatch):
    replace, refused = os.replace, [PermissionError(13, "in use")] * 3

    def busy(*args):
        if refused:
            raise refused.pop()
        replace(*args)

    monkeypatch.setattr(atomic, "_WINDOWS", True)
    monkeypatch.setattr(os, "replace", busy)
    atomic.write_whole(tmp_path / "x", [b"abc"])
    assert (tmp_path / "x").read_bytes() == b"abc"


def test_a_disk_that_cannot_be_asked_to_write_is_written_to(tmp_path, monkeypatch):
    Calls(monkeypatch, {"fsync": OSError(22, "Invalid argument")}.items())
    atomic.write_whole(tmp_path / "x", [b"abc"])
    assert (tmp_path / "x").read_bytes() == b"abc"
