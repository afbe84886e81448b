import hashlib
import os

import pytest
import torch
from dark_miner.darkminer.config import PAPER
from dark_miner.darkminer.errors import DarkMinerError
from dark_miner.darkminer.files.lora_file import (
    LoraDict,
    combine,
    for_diffusers,
    from_state_dict,
    save_lora,
    to_state_dict,
)
from dark_miner.darkminer.files.lora_metadata import metadata
from dark_miner.darkminer.files.tensor_file import tensor_parts
from dark_miner.darkminer.method.loop import new_adapters
from dark_miner.darkminer.types import EmbeddingPool, RoundRecord
from safetensors import safe_open

from . import toy

NAMES = toy.model().names
CHOICES = [list(NAMES)]


def state():
    adapters = new_adapters(toy.model(), PAPER.lora, seed=0)
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
        assert file.metadata().pop("darkminer_concept") == "ink"
        read = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
    back, sent = from_state_dict(read, NAMES, CHOICES), state()
    assert (back.rank, back.alpha) == (sent.rank, sent.alpha)
    assert all(torch.equal(back.up[n], sent.up[n]) for n in NAMES)
    assert all(torch.equal(back.down[n], sent.down[n]) for n in NAMES)
    assert [p.name for p in (tmp_path / "sub").iterdir()] == ["x.safetensors"]


@pytest.mark.parametrize("rows", [3, 40_000])
def test_a_files_hashes_are_those_that_lora_managers_compute(tmp_path, rows):
    """The SHA-256 behind the header, and the older one of what stands at 1 MiB."""
    path, base = tmp_path / "x.safetensors", {"ss_network_dim": "2", "darkminer_seed": "7"}
    gen = torch.Generator().manual_seed(0)
    tensors = {"b": torch.randn(rows, 8, generator=gen), "a": torch.ones(2, dtype=torch.bfloat16)}
    save_lora(path, tensors, base)
    with safe_open(path, "pt") as file:
        said = file.metadata()
    data = path.read_bytes()
    assert (
        said["sshs_model_hash"]
        == hashlib.sha256(data[8 + int.from_bytes(data[:8], "little") :]).hexdigest()
    )
    plain = tmp_path / "plain.safetensors"
    plain.write_bytes(b"".join(map(bytes, tensor_parts(tensors, {"ss_network_dim": "2"}))))
    with open(plain, "rb") as file:
        file.seek(0x100000)
        assert said["sshs_legacy_hash"] == hashlib.sha256(file.read(0x10000)).hexdigest()[:8]
    assert said.items() >= base.items()


def test_two_erasures_of_one_checkpoint_are_two_files_to_a_manager(tmp_path):
    def hash_of(tensors, about):
        save_lora(tmp_path / "x.safetensors", tensors, about)
        with safe_open(tmp_path / "x.safetensors", "pt") as file:
            return file.metadata()["sshs_model_hash"]

    one = to_state_dict(state(), NAMES)
    other = {name: tensor + 1.0 for name, tensor in one.items()}
    assert hash_of(one, {}) == hash_of(dict(reversed(one.items())), {"darkminer_seed": "1"})
    assert hash_of(one, {}) != hash_of(other, {})


@pytest.mark.parametrize("umask, mode", [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_the_umask_says_who_may_read_a_file(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        save_lora(tmp_path / "x.safetensors", to_state_dict(state(), NAMES), {})
    finally:
        os.umask(before)
    assert (tmp_path / "x.safetensors").stat().st_mode & 0o777 == mode


def test_a_file_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "taken").write_bytes(b"")
    for path in (tmp_path / "taken" / "x.safetensors", tmp_path / f"{'x' * 300}.safetensors"):
        with pytest.raises(DarkMinerError, match="cannot be written .*: make room"):
            save_lora(path, to_state_dict(state(), NAMES), {})
    assert [p.name for p in tmp_path.iterdir()] == ["taken"]


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
        (lambda t: dict(lora(0, 2, 2.0)), "no layer of this MODEL"),
        (
            lambda t: {k: v for k, v in t.items() if "attn1" not in k},
            r"covers 1 .*\(2 of this",
        ),
        (
            lambda t: {k: v for k, v in t.items() if k != "lora_unet_attn1_to_v.lora_up.weight"},
            "lacks 'lora_unet_attn1_to_v.lora_up.weight'",
        ),
        (lambda t: t | {"lora_unet_attn1_to_v.alpha": torch.tensor(3.0)}, "mixes ranks"),
    ],
)
def test_what_is_not_this_models_lora_is_refused_in_one_sentence(change, sentence):
    with pytest.raises(DarkMinerError, match=sentence):
        from_state_dict(change(to_state_dict(state(), NAMES)), NAMES, CHOICES)


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


def delta(lora, stem):
    """What a LoRA adds to a layer's weight."""
    up, down = lora[f"{stem}.lora_up.weight"], lora[f"{stem}.lora_down.weight"]
    return float(lora[f"{stem}.alpha"]) / len(down) * up @ down


def lora(seed, rank, alpha, stems=("lora_unet_a", "lora_unet_b"), concept=""):
    gen = torch.Generator().manual_seed(seed)
    tensors = {}
    for stem in stems:
        tensors[f"{stem}.lora_up.weight"] = torch.randn(6, rank, generator=gen)
        tensors[f"{stem}.lora_down.weight"] = torch.randn(rank, 4, generator=gen)
        tensors[f"{stem}.alpha"] = torch.tensor(float(alpha))
    return LoraDict(tensors, {"darkminer_concept": concept})


def test_a_combined_lora_adds_what_its_parts_add():
    one, two = lora(0, 2, 2.0, concept="ink"), lora(1, 3, 6.0, concept="noto")
    joint = combine([one, two])
    assert len(joint) == len(one)
    for stem in ("lora_unet_a", "lora_unet_b"):
        assert joint[f"{stem}.lora_down.weight"].shape == (5, 4)
        assert torch.allclose(delta(joint, stem), delta(one, stem) + delta(two, stem), atol=1e-5)
    assert joint.metadata["darkminer_concept"] == "ink and noto"
    assert joint.metadata["ss_network_dim"] == joint.metadata["ss_network_alpha"] == "5"


def test_layers_that_one_part_leaves_alone_stay_the_others():
    one, two = lora(0, 2, 2.0), lora(1, 3, 6.0, stems=("lora_unet_b",))
    joint = combine([one, two])
    assert torch.allclose(delta(joint, "lora_unet_a"), delta(one, "lora_unet_a"), atol=1e-5)
    both = delta(one, "lora_unet_b") + delta(two, "lora_unet_b")
    assert torch.allclose(delta(joint, "lora_unet_b"), both, atol=1e-5)
    assert joint["lora_unet_a.lora_down.weight"].shape == (5, 4)


def test_a_combined_lora_can_be_continued():
    names = {"a": "lora_unet_a", "b": "lora_unet_b"}
    read = from_state_dict(combine([lora(0, 2, 2.0), lora(1, 3, 3.0)]), names, [list(names)])
    assert (read.rank, read.alpha) == (5, 5.0)


@pytest.mark.parametrize(
    "others, sentence",
    [
        ([], "nothing to combine"),
        ([lora(1, 2, 2.0, stems=("lora_unet_c",))], "2, 1 layers and none in common"),
    ],
)
def test_what_cannot_be_combined_is_refused_in_one_sentence(others, sentence):
    with pytest.raises(DarkMinerError, match=sentence):
        combine([lora(0, 2, 2.0), *others])


def test_diffusers_gets_the_value_rows_of_sd3_under_its_own_names():
    stems = [
        "lora_unet_joint_blocks_0_x_block_attn_qkv",
        "lora_unet_joint_blocks_0_context_block_attn_qkv",
        "lora_unet_joint_blocks_1_x_block_attn2_qkv",
    ]
    whole = {
        "lora_unet_joint_blocks_0_x_block_attn_proj": "0.attn.to_out.0",
        "lora_unet_joint_blocks_0_context_block_attn_proj": "0.attn.to_add_out",
        "lora_unet_joint_blocks_1_x_block_attn2_proj": "1.attn2.to_out.0",
        "lora_unet_joint_blocks_1_x_block_mlp_fc1": "1.ff.net.0.proj",
        "lora_unet_joint_blocks_1_context_block_mlp_fc2": "1.ff_context.net.2",
    }
    fused = lora(0, 2, 3.0, [*stems, *whole])
    named = for_diffusers(fused)
    block = "transformer.transformer_blocks"
    layers = [f"{block}.0.attn.to_v", f"{block}.0.attn.add_v_proj", f"{block}.1.attn2.to_v"]
    others = {stem: f"{block}.{name}" for stem, name in whole.items()}
    every = [*layers, *others.values()]
    assert sorted(named) == sorted(f"{n}.lora_{h}.weight" for n in every for h in "AB")

    def made(name):
        return named[f"{name}.lora_B.weight"] @ named[f"{name}.lora_A.weight"]

    for stem, name in zip(stems, layers, strict=True):
        assert torch.allclose(made(name), delta(fused, stem)[4:], atol=1e-6)
    for stem, name in others.items():
        assert torch.allclose(made(name), delta(fused, stem), atol=1e-6)


def test_diffusers_reads_every_other_family_as_it_is():
    unet = lora(0, 2, 2.0)
    assert for_diffusers(unet) == unet
