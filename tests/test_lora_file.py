import pytest
import torch
from dark_miner.darkminer.config import PAPER
from dark_miner.darkminer.errors import DarkMinerError
from dark_miner.darkminer.loop import new_adapters
from dark_miner.darkminer.lora_file import (
    LoraDict,
    file_stem,
    from_state_dict,
    metadata,
    save_lora,
    to_state_dict,
)
from dark_miner.darkminer.types import EmbeddingPool, RoundRecord
from safetensors import safe_open

from . import toy

NAMES = toy.model().names


def state():
    adapters = new_adapters(toy.model(), PAPER.circumvent, seed=0)
    for p in adapters.parameters():
        p.data += 0.5
    return adapters.state()


def test_a_file_holds_three_keys_per_layer_and_comes_back_as_it_went(tmp_path):
    tensors = to_state_dict(state(), NAMES)
    assert sorted(tensors) == sorted(
        stem + end
        for stem in NAMES.values()
        for end in (".lora_up.weight", ".lora_down.weight", ".alpha")
    )
    save_lora(tmp_path / "sub" / "x.safetensors", tensors, {"darkminer_concept": "ink"})
    with safe_open(tmp_path / "sub" / "x.safetensors", "pt") as file:
        assert file.metadata() == {"darkminer_concept": "ink"}
        read = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
    back, sent = from_state_dict(read, NAMES), state()
    assert (back.rank, back.alpha) == (sent.rank, sent.alpha)
    assert all(torch.equal(back.up[n], sent.up[n]) for n in NAMES)
    assert all(torch.equal(back.down[n], sent.down[n]) for n in NAMES)
    assert [p.name for p in (tmp_path / "sub").iterdir()] == ["x.safetensors"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"old")
    with pytest.raises(Exception):  # noqa: B017 - safetensors' own kind
        save_lora(path, {"a": torch.zeros(2)}, {"not": 1})  # type: ignore[dict-item]
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "change, sentence",
    [
        (lambda t: {"lora_unet_other.lora_up.weight": torch.zeros(1)}, "no layer of this MODEL"),
        (lambda t: {k: v for k, v in t.items() if "attn1" not in k}, "covers 1 of this MODEL's 2"),
        (
            lambda t: {k: v for k, v in t.items() if k != "lora_unet_attn1_to_v.lora_up.weight"},
            "lacks lora_unet_attn1_to_v.lora_up.weight",
        ),
        (lambda t: t | {"lora_unet_attn1_to_v.alpha": torch.tensor(3.0)}, "mixes ranks"),
    ],
)
def test_what_is_not_this_models_lora_is_refused_in_one_sentence(change, sentence):
    with pytest.raises(DarkMinerError, match=sentence):
        from_state_dict(change(to_state_dict(state(), NAMES)), NAMES)


def test_metadata_says_what_was_done():
    pool = EmbeddingPool(round=2, history=(RoundRecord(1, (0.5,), 0.2, True),), concept="van gogh")
    about = metadata(
        state(), pool, seed=7, settings=PAPER, fingerprint="abc", family="sd_v1"
    )  # fmt: skip
    assert about["darkminer_concept"] == "van gogh"
    assert about["darkminer_rounds"] == "2"
    assert about["ss_network_dim"] == "8"
    assert '"scores": [0.5]' in about["darkminer_history"]
    assert all(isinstance(v, str) for v in about.values())


def test_a_lora_dict_is_a_dict_that_carries_metadata():
    lora = LoraDict({"a": torch.ones(1)}, {"x": "y"})
    assert isinstance(lora, dict) and lora.metadata == {"x": "y"}
    assert LoraDict({}).metadata == {}


def test_file_stem():
    assert file_stem("Van Gogh's style!") == "van-gogh-s-style"
    assert file_stem("?") == "concept"
