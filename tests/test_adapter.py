import pytest
import torch
from dark_miner.darkminer.errors import DarkMinerError
from dark_miner.darkminer.model.adapter import Adapters, frozen_digest
from dark_miner.darkminer.rng import generator

from . import toy

NAMES = ["attn1.to_v", "attn2.to_v"]


def inject(network, rank=2, seed=0):
    return Adapters.inject(network, NAMES, rank, 4.0, generator(seed, 0, "adapter"))


def inputs(seed=0):
    gen = torch.Generator().manual_seed(seed)
    x = torch.randn(2, toy.CHANNELS, toy.SIDE, toy.SIDE, generator=gen)
    return x, torch.tensor([1.0, 5.0]), toy.context(0).expand(2, -1, -1)


def train_a_little(adapters, network):
    optimizer = torch.optim.SGD(adapters.parameters(), lr=0.5)
    for _ in range(3):
        network(*inputs()).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()


def test_fresh_adapters_change_nothing_and_trained_ones_do():
    network = toy.Denoiser()
    before = network(*inputs())
    adapters = inject(network)
    assert torch.equal(network(*inputs()), before)
    train_a_little(adapters, network)
    assert not torch.allclose(network(*inputs()), before)


def test_off_is_the_original_exactly_and_on_comes_back_also_after_an_error():
    network = toy.Denoiser()
    before = network(*inputs())
    adapters = inject(network)
    train_a_little(adapters, network)
    trained = network(*inputs())
    with pytest.raises(RuntimeError, match="stop"), adapters.off():
        assert torch.equal(network(*inputs()), before)
        with adapters.off():
            pass
        assert torch.equal(network(*inputs()), before), "the inner block must not switch it on"
        raise RuntimeError("stop")
    assert torch.equal(network(*inputs()), trained)


def test_only_the_adapters_tensors_can_be_trained_and_the_rest_does_not_move():
    network = toy.Denoiser()
    digest = frozen_digest(network)
    adapters = inject(network)
    trainable = {id(p) for p in network.parameters() if p.requires_grad}
    assert trainable == {id(p) for p in adapters.parameters()}
    train_a_little(adapters, network)
    assert frozen_digest(network) == digest
    adapters.remove()
    assert frozen_digest(network) == digest


def test_the_digest_sees_a_weight_that_moved():
    network = toy.Denoiser()
    digest = frozen_digest(network)
    network.attn1.to_v.weight.data[0, 0] += 1e-3
    assert frozen_digest(network) != digest


def test_state_moves_to_a_fresh_network_bit_for_bit():
    network = toy.Denoiser()
    adapters = inject(network)
    train_a_little(adapters, network)
    other = toy.Denoiser()
    taken = inject(other, seed=9)
    taken.load(adapters.state())
    assert torch.equal(other(*inputs()), network(*inputs()))


def test_a_state_is_a_copy():
    network = toy.Denoiser()
    adapters = inject(network)
    state = adapters.state()
    before = state.up["attn2.to_v"].clone()
    train_a_little(adapters, network)
    assert torch.equal(state.up["attn2.to_v"], before)


def test_remove_restores_the_network():
    network = toy.Denoiser()
    kinds = [type(m) for m in network.modules()]
    before = network(*inputs())
    adapters = inject(network)
    train_a_little(adapters, network)
    adapters.remove()
    assert [type(m) for m in network.modules()] == kinds
    assert torch.equal(network(*inputs()), before)


def test_start_values_come_from_the_seed():
    one, same, other = (inject(toy.Denoiser(), seed=s).state() for s in (0, 0, 1))
    assert torch.equal(one.down["attn1.to_v"], same.down["attn1.to_v"])
    assert not torch.equal(one.down["attn1.to_v"], other.down["attn1.to_v"])


def test_a_state_of_another_rank_is_refused():
    adapters = inject(toy.Denoiser(), rank=3)
    with pytest.raises(DarkMinerError, match="rank 2.*rank 3"):
        adapters.load(inject(toy.Denoiser()).state())
