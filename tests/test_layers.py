"""Which layers an erasure adapts, whatever a family calls them."""

import pytest
import torch
from dark_miner.darkminer.errors import DarkMinerError
from dark_miner.darkminer.method.loop import new_adapters
from dark_miner.darkminer.model.adapter import LoraConfig
from dark_miner.darkminer.model.layers import adapted_layers, layers_of
from torch import nn

from . import toy


def module(**children):
    made = nn.Module()
    for name, child in children.items():
        setattr(made, name, nn.Linear(4, child) if isinstance(child, int) else child)
    return made


def network(*blocks):
    return module(time_embed=4, blocks=nn.ModuleList(blocks), out=4)


@pytest.mark.parametrize(
    "block, values, further",
    [
        (
            module(
                norm1=nn.LayerNorm(4),
                attn1=module(to_q=4, to_k=4, to_v=4, to_out=nn.Sequential(nn.Linear(4, 4))),
                ff=module(net=nn.Sequential(nn.Linear(4, 16), nn.GELU(), nn.Linear(16, 4))),
            ),
            ["attn1.to_v"],
            ["attn1.to_out.0", "ff.net.0", "ff.net.2"],
        ),
        (
            module(
                img_mod=module(lin=24), adaLN_modulation=nn.Sequential(nn.SiLU(), nn.Linear(4, 24)),
                img_attn=module(qkv=12, proj=4), img_mlp=nn.Sequential(nn.Linear(4, 16)),
            ),
            ["img_attn.qkv"],
            ["img_attn.proj", "img_mlp.0"],
        ),
        (
            module(attn=module(w1q=4, w1k=4, w1v=4, w1o=4), modCX=module(a=4), mlp=module(c_fc1=8)),
            ["attn.w1v"],
            ["attn.w1o", "mlp.c_fc1"],
        ),
        (
            module(cross=module(q_linear=4, kv_linear=8, proj=4), mlp=module(fc1=8, fc2=4)),
            ["cross.kv_linear"],
            ["cross.proj", "mlp.fc1", "mlp.fc2"],
        ),
    ],
)  # fmt: skip
def test_blocks_are_values_output_projections_and_feed_forward(block, values, further):
    whole = network(block)
    assert adapted_layers(whole, "values") == [f"blocks.0.{v}" for v in values]
    found = set(adapted_layers(whole, "blocks"))
    assert found == {f"blocks.0.{p}" for p in (*values, *further)}


def test_a_block_without_attention_is_left_alone():
    whole = network(module(a=module(qkv=12), fc=4), module(fc=4))
    assert adapted_layers(whole, "blocks") == ["blocks.0.a.qkv", "blocks.0.fc"]


def test_a_network_without_blocks_adapts_its_values():
    assert adapted_layers(toy.Denoiser(), "blocks") == ["attn1.to_v", "attn2.to_v"]


def test_a_network_without_attention_is_refused_with_what_was_found():
    for layers in ("values", "blocks"):
        with pytest.raises(DarkMinerError, match="Linear"):
            adapted_layers(nn.Sequential(nn.Linear(2, 2)), layers)


def test_a_loras_layers_say_which_setting_made_it():
    whole = network(module(a=module(qkv=12, proj=4), fc=4))
    for layers in ("values", "blocks"):
        assert layers_of(adapted_layers(whole, layers), whole) == layers
    with pytest.raises(DarkMinerError, match="adapts 1 layers"):
        layers_of(["blocks.0.fc"], whole)


def test_unknown_layers_are_refused_by_the_settings():
    with pytest.raises(DarkMinerError, match=r"layers is 'all'.*\"values\" or \"blocks\""):
        LoraConfig(layers="all")  # type: ignore[arg-type]


def test_adapters_sit_on_the_layers_of_the_settings():
    class Denoiser(toy.Denoiser):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList([module(attn=toy.Attention(8, 8), fc=4)])

    for layers, names in (
        ("values", ["attn1.to_v", "attn2.to_v", "blocks.0.attn.to_v"]),
        ("blocks", ["attn1.to_v", "attn2.to_v", "blocks.0.attn.to_v", "blocks.0.fc"]),
    ):
        adapters = new_adapters(
            toy.model(network=Denoiser()), LoraConfig(rank=2, layers=layers), seed=0
        )
        assert adapters.names == names
        assert not any(bool(torch.any(up)) for up in adapters.state().up.values())
        adapters.remove()
