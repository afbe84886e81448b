"""Trainings that ran away end as errors with a remedy, never as a LoRA."""

from dataclasses import replace

import pytest
import torch
from dark_miner.darkminer.errors import DivergedError
from dark_miner.darkminer.method.chase import chase
from dark_miner.darkminer.method.circumvent import CircumventConfig, circumvent
from dark_miner.darkminer.method.loop import erase, new_adapters
from dark_miner.darkminer.method.mine import MineConfig, mine
from dark_miner.darkminer.method.optim import LossTrace, require_fallen
from dark_miner.darkminer.model.adapter import LoraConfig
from dark_miner.darkminer.model.interface import TextSpace
from dark_miner.darkminer.types import EmbeddingPool, MinedEmbedding

from . import test_chase as chased
from . import toy
from .test_attacks import Text
from .test_loop import QUICK, start

WILD = CircumventConfig(steps=60, images=1, lr=100.0, lr_late=10.0)


def randomised(model, scale=1.0, alpha=3.0):
    adapters = new_adapters(model, LoraConfig(rank=2, alpha=alpha), seed=0)
    gen = torch.Generator().manual_seed(4)
    for p in adapters.parameters():
        p.data = torch.randn(p.shape, generator=gen) * scale
    return adapters


def test_growth_is_the_products_norm_beside_the_weights():
    model = toy.model()
    adapters = randomised(model)
    state, added, weights = adapters.state(), 0.0, 0.0
    for name in adapters.names:
        added += float((3.0 / 2 * state.up[name] @ state.down[name]).square().sum())
        layer = model.network.get_submodule(name)
        weights += float(layer.base_layer.weight.square().sum())
    assert adapters.growth() == pytest.approx((added / weights) ** 0.5, rel=1e-5)
    assert new_adapters(toy.model(), QUICK.lora, seed=0).growth() == 0.0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_adapters_that_are_not_finite_have_grown_without_bounds(value):
    adapters = randomised(toy.model())
    adapters.parameters()[0].data[0, 0] = value
    trace = LossTrace("circumvent", 2, growth=adapters.growth)
    trace.add(torch.tensor(1.0))
    with pytest.raises(DivergedError, match="circumvent stage of round 2 diverged at step 1"):
        trace.flush()


def test_a_learning_rate_of_100_gives_no_lora():
    model = toy.model()
    adapters = new_adapters(model, toy.LORA, seed=0)
    entries = (MinedEmbedding(toy.context(1)[0], 0, kind="text"),)
    with pytest.raises(DivergedError, match="times the weights .* lower its learning rate"):
        circumvent(model, adapters, EmbeddingPool(entries), toy.context(0), WILD, seed=0)
    before = {k: v.clone() for k, v in toy.model().network.state_dict().items()}
    model = toy.model()
    with pytest.raises(DivergedError, match="learning rate"):
        erase(
            model, toy.encode, toy.pool(), toy.context(0), replace(QUICK, start=WILD), seed=0,
            start=start(),
        )  # fmt: skip
    assert all(torch.equal(before[k], v) for k, v in model.network.state_dict().items())


def test_a_chase_that_ran_away_gives_no_lora():
    model = toy.model()
    adapters = new_adapters(model, QUICK.lora, seed=0)
    config = replace(chased.QUICK, steps=40, lr=100.0, lr_late=100.0)
    with pytest.raises(DivergedError, match="chase stage of round 0"):
        chase(
            model, adapters, chased.start(), toy.pool(), toy.context(9), config, seed=0,
        )  # fmt: skip


class Unbounded(toy.Denoiser):
    """Grows with its context, as networks do that are not a toy."""

    def forward(self, x, timestep, context):
        h = self.inward(x.flatten(2).mT)
        h = h + self.attn2(h, context)
        return self.outward(h).mT.reshape(x.shape)


def test_mining_that_ran_away_is_not_taken_for_nothing_found():
    config = MineConfig(length=3, k=2, batch=2, steps=60, lr=1e4, lr_late=1e4, clip=1e4)
    with pytest.raises(DivergedError, match="mine stage of round 1 .*loss has risen"):
        mine(toy.model(network=Unbounded()), toy.pool(), toy.context(0), config, seed=0, round_=1)


def test_tokens_that_ran_away_are_not_either():
    space = TextSpace(Far(), "a * drawing", ("cat", "dog"))
    config = replace(QUICK.mine, tokens=1, token_words=0, token_lr=1e3)
    model = toy.model(network=Unbounded())
    with pytest.raises(DivergedError, match="mine stage of round 1 .*loss has risen"):
        mine(model, toy.pool(), toy.context(0), config, seed=0, round_=1, text=space)


class Far(Text):
    """A text encoder without bounds."""

    def forward(self, prompts, vectors):
        rows = [torch.stack([v] * len(p.split())) for p, v in zip(
            prompts, vectors.expand(len(prompts), -1), strict=True
        )]  # fmt: skip
        return torch.stack(rows) @ self.mix


def test_a_loss_may_waver_but_not_rise_tenfold():
    require_fallen(torch.tensor(1.0), torch.tensor(9.9), "mine", 1, 5)
    for end in (11.0, float("nan"), float("inf")):
        with pytest.raises(DivergedError, match="round 1 diverged at step 5 .*risen from 1 to"):
            require_fallen(torch.tensor(1.0), torch.tensor(end), "mine", 1, 5)
