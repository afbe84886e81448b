"""An erasure's file comes back as it was saved; anything else in its place is refused in words."""

import json
import os
import random
import time

import pytest
import torch
from dark_miner.darkminer.errors import DarkMinerError
from dark_miner.darkminer.files.lora_file import save_lora
from dark_miner.darkminer.files.lora_load import read_lora, rounds_told, run_folder_told

FUZZ_SECONDS = float(os.environ.get("SOAK_FUZZ_SECONDS", "0"))
"""How long to damage files at random, besides a fixed number of times."""
STEM = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_v"
TENSORS = {
    f"{STEM}.lora_up.weight": torch.randn(6, 2, generator=torch.Generator().manual_seed(0)),
    f"{STEM}.lora_down.weight": torch.ones(2, 5),
    f"{STEM}.alpha": torch.tensor(2.0),
}
HISTORY = [{"round": 1, "scores": [0.5, -0.25], "threshold": 0.1, "verified": True}]
RUN = {"concept": "ink", "rounds": 1, "history": HISTORY}


def about(*runs):
    return {"darkminer_runs": json.dumps(list(runs)), "darkminer_schema": "1"}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "erase.safetensors"
    save_lora(path, TENSORS, about(RUN))
    return path


def test_tensors_and_metadata_come_back(file):
    lora = read_lora(file)
    assert about(RUN).items() <= lora.metadata.items()
    assert lora.keys() == TENSORS.keys()
    assert all(torch.equal(lora[k], TENSORS[k]) for k in TENSORS)


def test_a_file_behind_a_link_is_read(file, tmp_path):
    link = tmp_path / "link.safetensors"
    link.symlink_to(file)
    assert read_lora(link).keys() == TENSORS.keys()


@pytest.mark.parametrize("run, folder", [
    ({**RUN, "run_folder": "darkminer/ink"}, "darkminer/ink"), (RUN, ""),
    ({**RUN, "run_folder": 3}, ""),
])  # fmt: skip
def test_the_newest_run_says_which_folder_kept_it(run, folder):
    assert run_folder_told(about({**RUN, "run_folder": "darkminer/older"}, run)) == folder
    assert run_folder_told({}) == ""


def test_rounds_and_scores_come_from_the_newest_run():
    older = {**RUN, "rounds": 7, "history": []}
    told = rounds_told(about(older, RUN))
    assert (told.concept, told.round, told.entries) == ("ink", 1, ())
    assert told.history[0].scores == (0.5, -0.25) and told.history[0].verified


@pytest.mark.parametrize("metadata, words", [
    ({}, "does not say which one concept"), (about(), "does not say which one concept"),
    (about(RUN, {**RUN, "concept": "noto"}), "does not say which one concept"),
    (about({**RUN, "concept": 3}), "does not say which one concept"),
    ({"darkminer_runs": "{"}, "does not say which one concept"),
    (about({**RUN, "rounds": "1"}), "record of its rounds is damaged"),
    (about({**RUN, "rounds": True}), "record of its rounds is damaged"),
    (about({**RUN, "history": [{"round": 1}]}), "record of its rounds is damaged"),
    (about({**RUN, "history": [{**HISTORY[0], "scores": ["x"]}]}), "record of its rounds is"),
    (about({**RUN, "history": None}), "record of its rounds is damaged"),
])  # fmt: skip
def test_metadata_that_say_something_else_are_refused(metadata, words):
    with pytest.raises(DarkMinerError, match=words):
        rounds_told(metadata)


@pytest.mark.parametrize("data", [b"", b"\0" * 7, b"\xff" * 64, b"PK\x03\x04" + b"\0" * 99])
def test_what_is_no_safetensors_file_is_refused(tmp_path, data):
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    with pytest.raises(DarkMinerError, match="no sound safetensors file"):
        read_lora(path)


def test_a_folder_a_pipe_and_nothing_are_refused(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (tmp_path, pipe, tmp_path / "none"):
        with pytest.raises(DarkMinerError, match="no sound safetensors file"):
            read_lora(path)


def damaged(data, draw):
    """The bytes of a file, cut, changed, swollen or shuffled somewhere."""
    made = bytearray(data)
    kind = draw.randrange(5)
    at = draw.randrange(len(made))
    if kind == 0:
        return bytes(made[:at])
    if kind == 1:
        made[at] ^= 1 << draw.randrange(8)
    elif kind == 2:
        made[at:at] = draw.randbytes(draw.randrange(1, 64))
    elif kind == 3:
        made[at : at + draw.randrange(1, 64)] = draw.randbytes(draw.randrange(1, 64))
    else:
        header = int.from_bytes(made[:8], "little")
        digits = [i for i in range(8, 8 + header) if chr(made[i]).isdigit()]
        made[draw.choice(digits)] = ord(draw.choice('0123456789-.e[]{}"'))
    return bytes(made)


def test_damage_anywhere_is_refused_or_changes_values_alone(file, tmp_path):
    """Never another error, and never a file that takes more memory than it is long."""
    data, draw, path = file.read_bytes(), random.Random(0), tmp_path / "damaged.safetensors"
    until, tried = time.monotonic() + FUZZ_SECONDS, 0
    while tried < 500 or time.monotonic() < until:
        tried += 1
        path.write_bytes(damaged(data, draw))
        try:
            lora = read_lora(path)
            rounds_told(lora.metadata)
        except DarkMinerError as error:
            assert "\n" not in str(error)
        else:
            assert sum(t.numel() * t.element_size() for t in lora.values()) <= len(data) + 64
