"""Room on the disk: told before a run begins, and refused where it is not there."""

import shutil
from dataclasses import replace

import pytest
from dark_miner.darkminer.config import FAST, PAPER
from dark_miner.darkminer.errors import DarkMinerError
from dark_miner.darkminer.method.loop import new_adapters
from dark_miner.darkminer.model.adapter import LoraConfig
from dark_miner.darkminer.room import lora_bytes, require_room, run_bytes, size_text

from . import toy


def test_a_lora_takes_what_its_weights_take():
    for config in (LoraConfig(rank=2), LoraConfig(rank=3, layers="blocks")):
        model = toy.model()
        size = lora_bytes(model.network, replace(PAPER, lora=config))
        adapters = new_adapters(model, config, seed=0)
        assert size == sum(p.numel() * p.element_size() for p in adapters.parameters())


def test_more_of_anything_takes_more_room():
    model, anchor = toy.model(), toy.context(0)

    def of(config, pool=8):
        return run_bytes(model, config, toy.pool(pool), anchor)

    one = of(replace(FAST, max_rounds=1))
    for more in (
        replace(FAST, max_rounds=2),
        replace(FAST, lora=replace(FAST.lora, rank=32)),
        replace(FAST, bank=replace(FAST.bank, size=161)),
        replace(FAST, text_words=49),
        replace(FAST, mine=replace(FAST.mine, count=3)),
    ):
        assert of(more) > one
    assert of(FAST, pool=9) > one
    assert of(replace(FAST, max_rounds=None)) == one, "a run without an end: its first round"


def test_a_disk_that_is_too_small_is_refused_with_both_sizes(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    require_room(tmp_path, free // 2)
    require_room(tmp_path / "not" / "yet", free // 2)
    with pytest.raises(
        DarkMinerError, match=r"^Keeping this run takes about .* are free"
    ) as caught:
        require_room(tmp_path, 100 * free)
    assert size_text(100 * free) in str(caught.value) and "run_folder to off" in str(caught.value)


@pytest.mark.parametrize("size, text", [
    (1, "1 kB"), (12_345, "13 kB"), (1_500_000, "1.5 MB"), (34_000_000, "34 MB"), (3.1e9, "3.1 GB"),
])  # fmt: skip
def test_sizes_are_told_as_a_person_reads_them(size, text):
    assert size_text(size) == text
