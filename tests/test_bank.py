import pytest
import torch
from dark_miner.darkminer.errors import DarkMinerError
from dark_miner.darkminer.method.bank import (
    BankConfig,
    build_bank,
    shows_concept,
    vocabulary_prompts,
)
from dark_miner.darkminer.method.loop import new_adapters
from dark_miner.darkminer.method.retain import DriftSampler
from dark_miner.darkminer.rng import generator

from . import toy

TEMPLATES = ("a {w}", "a {w} of a {v}")
WORDS = ("cat", "dog", "tree", "house", "lamp")


def test_prompts_are_seeded_different_and_use_every_word():
    prompts = vocabulary_prompts(WORDS, TEMPLATES, 12, seed=0)
    assert len(prompts) == len(set(prompts)) == 12
    assert prompts == vocabulary_prompts(WORDS, TEMPLATES, 12, seed=0)
    assert prompts != vocabulary_prompts(WORDS, TEMPLATES, 12, seed=1)
    assert all(any(w in p for p in prompts) for w in WORDS)


def test_few_words_give_as_many_prompts_as_there_are():
    found = vocabulary_prompts(("cat", "dog"), ("a {w}",), 12, seed=0)
    assert sorted(found) == ["a cat", "a dog"]


def test_no_words_is_one_sentence():
    with pytest.raises(DarkMinerError, match="no words left"):
        vocabulary_prompts((), TEMPLATES, 12, seed=0)


def test_what_points_to_the_concept_is_told_from_what_does_not():
    gen = torch.Generator().manual_seed(0)
    concept = torch.tensor([1.0, 0.0, 0.0])
    pool = concept * 3 + 0.1 * torch.randn(20, 3, generator=gen)
    plain = torch.tensor([[[-1.0, 2.0, 0.0]], [[-1.0, 0.0, 2.0]], [[-1.0, -2.0, 0.0]]])
    bank = torch.cat([plain, 3 * concept.expand(1, 1, 3)])
    assert shows_concept(bank, pool, BankConfig()).tolist() == [False, False, False, True]


def test_the_first_prompts_stay_whatever_they_show():
    contexts = torch.cat([toy.context(i) for i in range(5)])
    everything = BankConfig(size=5, quantile=0.0)
    bank = build_bank(
        toy.model(), toy.encode, list("abcde"), contexts, toy.pool(), everything, seed=0, always=2
    )
    assert bank.prompts[:2] == ("a", "b")
    assert len(bank.contexts) == bank.latents.shape[0] == len(bank)


def test_draws_follow_the_drift():
    model = toy.model()
    contexts = torch.cat([toy.context(i) for i in range(6)])
    bank = build_bank(
        model, toy.encode, list("abcdef"), contexts, toy.pool(), BankConfig(size=6), seed=0,
        always=6,
    )  # fmt: skip
    adapters = new_adapters(model, toy.LORA, seed=0)
    sampler = DriftSampler(model, adapters, bank, 0.0, generator(0, 1, "probe"))
    sampler.refresh()
    even = torch.stack([sampler.draw(1, generator(s, 0, "draw")) for s in range(60)])
    assert len(even.unique()) == 6, "without drift every entry has its turn"
    # An adapter that acts on contexts along one direction hurts the entry that lies there most.
    for p in adapters.parameters():
        p.data.zero_()
    state = adapters.state()
    state.down["attn2.to_v"][0] = 5 * contexts[3].mean(0)
    state.up["attn2.to_v"][:, 0] = 1.0
    adapters.load(state)
    sampler.refresh()
    gen = generator(0, 0, "draws")
    drawn = torch.cat([sampler.draw(1, gen) for _ in range(200)])
    assert int(drawn.bincount(minlength=6).max()) > 60
