"""Value rows are found by structure alone, whatever a family calls its layers."""

import pytest
import torch
from dark_miner.darkminer.errors import DarkMinerError
from dark_miner.darkminer.model.adapter import Adapters, frozen_digest
from dark_miner.darkminer.model.value_rows import ValueRows, value_rows
from dark_miner.darkminer.rng import generator
from torch import nn


def module(**layers):
    made = nn.Module()
    for name, value in layers.items():
        setattr(made, name, nn.Linear(*value) if isinstance(value, tuple) else value)
    return made


@pytest.mark.parametrize(
    "attention, expected",
    [
        (dict(to_q=(8, 8), to_k=(8, 8), to_v=(8, 6)), [("to_v", 0, 6, 6)]),
        (dict(q_proj=(8, 8), k_proj=(8, 8), v_proj=(8, 8)), [("v_proj", 0, 8, 8)]),
        (
            dict(
                to_q=(8, 8), to_k=(8, 8), to_v=(8, 8),
                add_q_proj=(8, 8), add_k_proj=(8, 8), add_v_proj=(8, 8),
            ),
            [("to_v", 0, 8, 8), ("add_v_proj", 0, 8, 8)],
        ),
        (dict(w1q=(8, 8), w1k=(8, 8), w1v=(8, 8), w1o=(8, 8)), [("w1v", 0, 8, 8)]),
        (dict(query=(8, 8), key=(8, 8), value=(8, 8)), [("value", 0, 8, 8)]),
        (dict(qkv=(8, 24), proj=(8, 8)), [("qkv", 16, 24, 24)]),
        (dict(Wqkv=(8, 24)), [("Wqkv", 16, 24, 24)]),
        (dict(qkv=(8, 16), n_kv_heads=2, head_dim=2), [("qkv", 12, 16, 16)]),
        (dict(to_kvq=(8, 24)), [("to_kvq", 8, 16, 24)]),
        (dict(vkq=(8, 16), n_kv_heads=2, head_dim=2), [("vkq", 0, 4, 16)]),
        (dict(vqk=(8, 24)), [("vqk", 0, 8, 24)]),
        (dict(q_proj=(8, 8), vk_proj=(8, 16)), [("vk_proj", 0, 8, 16)]),
        (dict(q_linear=(8, 8), kv_linear=(8, 16)), [("kv_linear", 8, 16, 16)]),
        (
            dict(linear1=(8, 56), linear2=(40, 8), num_heads=2),
            [("linear1", 16, 24, 56)],
        ),
    ],
)  # fmt: skip
def test_values_are_found_in_every_layout(attention, expected):
    network = module(block=module(attn=module(**attention), mlp=module(fc1=(8, 32), fc2=(32, 8))))
    wanted = [ValueRows(f"block.attn.{name}", *rows) for name, *rows in expected]
    assert value_rows(network) == wanted


def test_a_feed_forward_of_two_layers_is_no_attention():
    network = module(a=module(linear1=(8, 32), linear2=(32, 8)), b=module(qkv=(8, 24)))
    assert [r.path for r in value_rows(network)] == ["b.qkv"]


def test_a_network_without_attention_is_refused_with_what_it_has():
    with pytest.raises(DarkMinerError, match=r"has modules .*Linear.* with linear layers fc1, fc2"):
        value_rows(module(mlp=module(fc1=(8, 32), fc2=(32, 8))))


class Fused(nn.Module):
    """Self-attention from one fused layer."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(6, 18)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return torch.softmax(q @ k.mT, dim=-1) @ v


def trained(seed=0):
    torch.manual_seed(0)
    network = Fused()
    adapters = Adapters.inject(network, ["qkv"], 2, 4.0, generator(seed, 0, "adapter"))
    optimizer = torch.optim.Adam(adapters.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        network(torch.ones(2, 3, 6)).square().sum().backward()
        optimizer.step()
    return network, adapters


def test_only_the_value_rows_of_a_fused_layer_are_trained():
    network, adapters = trained()
    up = adapters.state().up["qkv"]
    assert up.shape == (18, 2) and not up[:12].any() and up[12:].all()
    assert [p.shape for p in adapters.parameters()] == [(2, 6), (6, 2)]
    weights = adapters.state()
    plain = Fused()
    plain.load_state_dict({k: v for k, v in fused_weights(network).items()})
    plain.qkv.weight.data += 2.0 * weights.up["qkv"] @ weights.down["qkv"]
    x = torch.randn(1, 3, 6)
    assert torch.allclose(network(x), plain(x), atol=1e-6)


def fused_weights(network):
    layer = network.qkv.get_base_layer()
    return {"qkv.weight": layer.weight, "qkv.bias": layer.bias}


def test_a_fused_state_comes_back_and_the_frozen_weights_stay():
    torch.manual_seed(0)
    digest = frozen_digest(Fused())
    network, adapters = trained()
    assert frozen_digest(network) == digest
    other = Fused()
    taken = Adapters.inject(other, ["qkv"], 2, 4.0, generator(5, 0, "adapter"))
    taken.load(adapters.state())
    assert torch.equal(taken.state().up["qkv"], adapters.state().up["qkv"])
    taken.remove()
    assert type(other.qkv) is nn.Linear


def test_a_lora_that_changes_queries_is_refused():
    _, adapters = trained()
    state = adapters.state()
    state.up["qkv"][0, 0] = 1.0
    with pytest.raises(DarkMinerError, match="more than the values at qkv"):
        adapters.load(state)
