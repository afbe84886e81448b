"""Adapters added to the weights for a while."""

import pytest
import torch
from dark_miner.darkminer.errors import DivergedError
from dark_miner.darkminer.method.loop import new_adapters
from dark_miner.darkminer.method.mine import MineConfig, mine
from dark_miner.darkminer.model.adapter import LoraConfig, frozen_digest
from dark_miner.darkminer.model.merged import merged
from peft.tuners.lora import LoraLayer

from . import toy


def adapted(dtype=torch.float32):
    model = toy.model()
    model.network.to(dtype)
    adapters = new_adapters(model, LoraConfig(rank=4, alpha=8.0), seed=0)
    gen = torch.Generator().manual_seed(1)
    for p in adapters.parameters():
        p.data = torch.randn(p.shape, generator=gen) * 0.3
    return model, adapters


def question(seed=2):
    gen = torch.Generator().manual_seed(seed)
    x = torch.randn(3, toy.CHANNELS, toy.SIDE, toy.SIDE, generator=gen)
    return x, torch.tensor([1.0, 4.0, 9.0]), toy.context(5).expand(3, -1, -1)


def lora_layers(model):
    return [m for m in model.network.modules() if isinstance(m, LoraLayer)]


def test_merged_predicts_the_same_without_adapter_layers():
    model, _ = adapted()
    before = model.denoise(*question())
    with merged(model.network) as count:
        assert count == 2 and not lora_layers(model)
        torch.testing.assert_close(model.denoise(*question()), before)
    assert torch.equal(model.denoise(*question()), before)


def test_everything_is_as_before_also_after_an_error():
    model, adapters = adapted()
    digest, state = frozen_digest(model.network), adapters.state()
    with pytest.raises(KeyError), merged(model.network), merged(model.network):
        raise KeyError
    assert frozen_digest(model.network) == digest
    assert len(lora_layers(model)) == 2
    assert all(torch.equal(adapters.state().up[n], state.up[n]) for n in adapters.names)
    assert all(p.requires_grad for p in adapters.parameters())


def test_adapters_that_are_off_stay_off():
    model, adapters = adapted()
    with adapters.off():
        off = model.denoise(*question())
        with merged(model.network) as count:
            assert count == 0
            assert torch.equal(model.denoise(*question()), off)


def test_coarse_weights_are_not_touched():
    model, _ = adapted(torch.bfloat16)
    with merged(model.network) as count:
        assert count == 0 and len(lora_layers(model)) == 2


def test_adapters_on_some_rows_are_not_touched():
    model, adapters = adapted()
    layer = model.network.get_submodule("attn1.to_v")
    (name,) = layer.active_adapters
    layer.lora_B[name] = torch.nn.Sequential(layer.lora_B[name])  # no plain up-projection
    before = model.denoise(*question())
    with merged(model.network) as count:
        assert count == 1
        torch.testing.assert_close(model.denoise(*question()), before)


def test_mining_leaves_no_gradient_on_the_adapters():
    model, adapters = adapted()
    digest = frozen_digest(model.network)
    config = MineConfig(length=4, steps=2)
    mine(model, toy.pool(), toy.context(0), config, seed=0, round_=1)
    assert all(p.grad is None and p.requires_grad for p in adapters.parameters())
    with pytest.raises(DivergedError):
        broken = MineConfig(length=4, steps=40, lr=1e35, clip=1e7)
        mine(model, toy.pool(), toy.context(0), broken, seed=0, round_=1)
    assert frozen_digest(model.network) == digest and len(lora_layers(model)) == 2
