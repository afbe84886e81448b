"""A small run for the tests of its folder: values that say by themselves which save they are of."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch
from dark_miner.darkminer.files import run_state
from dark_miner.darkminer.files.run_folder import RunFolder
from dark_miner.darkminer.files.run_records import (
    EMBEDDINGS,
    FIGURES,
    POOL,
    REPORT,
    adapters,
)
from dark_miner.darkminer.model.adapter import AdapterState
from dark_miner.darkminer.standing import Figures
from dark_miner.darkminer.types import EmbeddingPool, ImagePool, MinedEmbedding, RoundRecord


def pool():
    return ImagePool(torch.ones(2, 4, 2, 2), torch.ones(2, 4, 4, 3, dtype=torch.uint8), "ink", "a",
                     0, "abc")  # fmt: skip


def weights(number, size=3):
    return AdapterState(
        2, 1.0, {"a": torch.full((size, 2), float(number))}, {"a": torch.ones(2, 3)}
    )


def saved(number, size=3):
    """What the save of this number writes; the same number stands in each of its records."""
    found = MinedEmbedding(torch.full((2, 3), float(number)), number)
    return {
        EMBEDDINGS: EmbeddingPool((found,), number, (RoundRecord(1, (0.5,), 0.1, True),), "ink"),
        adapters(number): weights(number, size),
        FIGURES: Figures({"mine 1": [float(number)] * 100}),
        REPORT: {"round": number},
        **({POOL: pool()} if number == 1 else {}),
    }


def number_of(state):
    """The save that a state is of; fails where its records are of different ones."""
    number = state.read(REPORT)["round"]
    embeddings = state.read(EMBEDDINGS)
    assert embeddings.round == embeddings.entries[0].round == number
    assert float(embeddings.entries[0].context.mean()) == number
    assert state.read(FIGURES).losses == {"mine 1": [float(number)] * 100}
    assert state.rounds("adapters") == list(range(1, number + 1))
    for round_ in state.rounds("adapters")[-3:]:
        assert float(state.read(adapters(round_)).up["a"].mean()) == round_
    assert state.read(POOL).concept == "ink"
    return number


def files(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if not p.name.startswith("lock-")}


def names(folder):
    return sorted(files(folder))


@pytest.fixture
def three(tmp_path):
    """The folder of a run that was saved three times."""
    with RunFolder.open(tmp_path, "ink") as folder:
        for number in (1, 2, 3):
            folder.save(saved(number))
    return tmp_path / "ink"


def forge(folder, number=None, change=lambda said: None, entry=None):
    """Another state with the digests that it should have."""
    number = number or max(int(p.name[6:12]) for p in folder.glob("state-*.json"))
    path = folder / f"state-{number:06d}.json"
    said = json.loads(path.read_text())
    del said["sha256"]
    for record in said["records"].values():
        data = (folder / record["file"]).read_bytes()
        record.update(size=len(data), sha256=hashlib.sha256(data).hexdigest())
    if entry:
        said["records"]["report"].update(entry)
    change(said)
    said["sha256"] = run_state._digest(said)
    path.write_text(json.dumps(said))
