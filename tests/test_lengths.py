"""Contexts of different lengths side by side, in every stage that takes several."""

import math
from dataclasses import replace

import torch
from dark_miner.darkminer.method.bank import BankConfig, build_bank
from dark_miner.darkminer.method.chase import ChaseConfig, chase
from dark_miner.darkminer.method.circumvent import CircumventConfig, circumvent
from dark_miner.darkminer.method.loop import new_adapters
from dark_miner.darkminer.method.retain import DriftSampler, Retain, RetainConfig
from dark_miner.darkminer.method.text_start import text_pool
from dark_miner.darkminer.rng import generator
from dark_miner.darkminer.types import RetainSet
from torch import nn

from . import toy

LENGTHS = (3, 5, 3, 7)
TRAINING = CircumventConfig(
    steps=150, lr_drop=150, images=1, optimizer="adam", lr=0.02, lr_late=0.02, alpha_p=0.0
)  # fmt: skip
CHASE = ChaseConfig(
    steps=40, lr_drop=40, life=20, soft_prompts=(1, 2, 4), tokens=0, images=1, batch=1, replay=1,
    concept_batch=1, noisy=16, unrelated=2,
)  # fmt: skip
RETAIN = RetainConfig(weight=2.0, batch=4, refresh=50, noisy=2, keep_weight=2.0, keep_images=1)


def contexts():
    return tuple(toy.context(40 + i, length)[0] for i, length in enumerate(LENGTHS))


def bank():
    gen = torch.Generator().manual_seed(1)
    latents = torch.randn(len(LENGTHS), 1, toy.CHANNELS, toy.SIDE, toy.SIDE, generator=gen)
    return RetainSet(contexts(), latents, tuple("abcd"))


def start():
    own = [toy.context(20, 5)[0], toy.context(21, 6)[0]]
    return text_pool("concept", ["a concept photo", "a concept"], own, [None, toy.context(22)[0]])


def drift(model, adapters, context):
    x = torch.ones(1, toy.CHANNELS, toy.SIDE, toy.SIDE)
    t = torch.full((1,), 3.0)
    with adapters.off():
        before = model.denoise(x, t, context[None])
    return float((model.denoise(x, t, context[None]) - before).detach().square().sum())


def test_a_bank_of_prompts_of_several_lengths_keeps_them_all():
    prompts = list("abcd")
    made = build_bank(
        toy.model(), toy.encode, prompts, contexts(), toy.pool(), BankConfig(size=4), seed=0,
        always=4,
    )  # fmt: skip
    assert made.prompts == tuple(prompts) and len(made) == 4
    assert all(torch.equal(a, b) for a, b in zip(made.contexts, contexts(), strict=True))


def test_drift_is_measured_under_each_entrys_own_context():
    model = toy.model()
    adapters = new_adapters(model, toy.LORA, seed=0)
    sampler = DriftSampler(model, adapters, bank(), 0.0, generator(0, 1, "probe"))
    sampler.refresh()
    assert sorted(sampler.draw(4, generator(0, 0, "draw")).tolist()) == [0, 1, 2, 3]
    for context, noisy, timestep, said in zip(
        contexts(), sampler._probe.noisy, sampler._probe.timestep, sampler._teacher, strict=True
    ):
        alone = model.denoise(noisy[None], timestep[None], context[None])[0]
        assert torch.allclose(said, alone, atol=1e-6)


def test_circumventing_keeps_bank_and_keep_prompts_of_several_lengths():
    def kept(**more):
        model = toy.model()
        adapters = new_adapters(model, toy.LORA, seed=0)
        retain = Retain(RETAIN, **more)
        circumvent(model, adapters, start(), toy.context(0), TRAINING, seed=0, retain=retain)
        return sum(drift(model, adapters, c) for c in contexts())

    plain = kept()
    assert kept(bank=bank()) < 0.8 * plain
    assert kept(keep=[c[None] for c in contexts()]) < 0.8 * plain


def chased(model, config=CHASE, **more):
    adapters = new_adapters(model, toy.LORA, seed=0)
    done = chase(
        model, adapters, start(), toy.pool(), toy.context(0), config, seed=0,
        retain=Retain(replace(RETAIN, refresh=10), **more),
    )  # fmt: skip
    return adapters, done


def test_a_chase_keeps_bank_and_keep_prompts_of_several_lengths():
    model = toy.model()
    adapters, done = chased(model, bank=bank(), keep=[c[None] for c in contexts()])
    assert len(done.losses) == CHASE.steps and all(math.isfinite(v) for v in done.losses)
    assert any(bool(up.any()) for up in adapters.state().up.values())


class JointDenoiser(toy.Denoiser):
    """Pixels and text in one attention, as a multimodal transformer has them."""

    def __init__(self):
        super().__init__()
        self.text_in = nn.Linear(toy.WIDTH, 8, bias=False)
        self.text_in.weight.data = torch.randn(8, toy.WIDTH, generator=generator(0, 0, "in"))
        self.requires_grad_(False)

    def forward(self, x, timestep, context):
        h = self.inward(x.flatten(2).mT)
        text = self.text_in(context)
        both = torch.cat([text, h], dim=1)
        h = (both + self.attn1(both, both))[:, text.shape[1] :]
        scale = 1.0 + timestep.view(-1, 1, 1) / toy.LEVELS
        return (self.outward(torch.tanh(h)) * scale).mT.reshape(x.shape)


def lengths_asked(network):
    """Lengths of the contexts that a chase asks the student about, by the trained passes."""
    model, seen = toy.model(network=network), set()

    def watched(x, timestep, context):
        if torch.is_grad_enabled():
            seen.add(context.shape[1])
        return network(x, timestep, context)

    chased(replace(model, denoise=watched), replace(CHASE, soft_prompts=(1, 5), steps=25, replay=0))
    return seen


def test_contexts_are_repeated_only_where_that_changes_nothing():
    context = toy.context(3)
    x, t = torch.ones(1, toy.CHANNELS, toy.SIDE, toy.SIDE), torch.zeros(1)
    for network, equal in ((toy.Denoiser(), True), (JointDenoiser(), False)):
        twice = network(x, t, context.repeat(1, 2, 1))
        assert torch.allclose(network(x, t, context), twice, atol=1e-5) is equal
    assert 1 not in lengths_asked(toy.Denoiser())
    assert 1 in lengths_asked(JointDenoiser())
