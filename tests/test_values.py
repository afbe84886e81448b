"""Settings, pools, schedules and generators."""

from dataclasses import FrozenInstanceError, replace

import pytest
import torch
from dark_miner.darkminer.config import FAST, PAPER, EraseConfig
from dark_miner.darkminer.errors import DarkMinerError
from dark_miner.darkminer.method.circumvent import CircumventConfig
from dark_miner.darkminer.method.image_pool import build_pool, concept_prompt
from dark_miner.darkminer.method.mine import MineConfig
from dark_miner.darkminer.method.text_start import (
    concept_prompts,
    subject_prompts,
    text_pool,
    with_word,
    without_concept,
)
from dark_miner.darkminer.method.verify import VerifyConfig
from dark_miner.darkminer.model.adapter import LoraConfig
from dark_miner.darkminer.model.sampling import SamplingConfig
from dark_miner.darkminer.rng import generator
from dark_miner.darkminer.types import EmbeddingPool, MinedEmbedding, Verdict

from . import toy


def test_the_paper_preset_holds_the_papers_values_and_nothing_beyond():
    m, v, c, lora = PAPER.mine, PAPER.verify, PAPER.circumvent, PAPER.lora
    assert (m.length, m.k, m.batch, m.steps) == (32, 3, 3, 1000)
    assert (m.optimizer, m.lr, m.lr_late, m.lr_drop, m.clip) == ("sgd", 0.1, 0.01, 500, 10.0)
    assert (m.count, m.tokens, m.reachable) == (1, 0, False)
    assert (v.threshold, v.draws) == (0.2, 1)
    assert (lora.rank, c.steps, c.batch, c.optimizer) == (8, 1000, 1, "sgd")
    assert (c.lr, c.lr_late, c.lr_drop, c.clip) == (0.01, 0.001, 800, 100.0)
    assert (c.r, c.alpha_c, c.alpha_p) == (0.7, 1.0, 0.5)
    assert (c.eta, PAPER.retain.weight) == (0.0, 0.0)
    assert (PAPER.text_start, PAPER.text_words, PAPER.bank.size) == (False, 0, 0)


@pytest.mark.parametrize(
    "make, field",
    [
        (lambda: MineConfig(steps=0), "MineConfig.steps"),
        (lambda: MineConfig(batch=4), "MineConfig.batch"),
        (lambda: MineConfig(lr=0.0), "MineConfig.lr"),
        (lambda: MineConfig(optimizer="lion"), "MineConfig.optimizer"),
        (lambda: VerifyConfig(threshold=2.0), "VerifyConfig.threshold"),
        (lambda: VerifyConfig(draws=0), "VerifyConfig.draws"),
        (lambda: CircumventConfig(r=1.5), "CircumventConfig.r"),
        (lambda: LoraConfig(rank=0), "LoraConfig.rank"),
        (lambda: SamplingConfig(cfg=-1), "SamplingConfig.cfg"),
        (lambda: EraseConfig(text_words=-1), "EraseConfig.text_words"),
        (lambda: replace(FAST, text_start=False), "EraseConfig.text_start"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(make, field):
    with pytest.raises(DarkMinerError, match=field.replace(".", r"\.")):
        make()


def test_settings_are_frozen():
    with pytest.raises(FrozenInstanceError):
        PAPER.mine.steps = 3  # type: ignore[misc]


def test_schedules_by_hand():
    index = torch.tensor([0, 9])
    x, noise = torch.full((2, 1, 1, 1), 2.0), torch.full((2, 1, 1, 1), 3.0)
    flow = toy.schedule("flow")
    assert torch.allclose(flow.add_noise(x, noise, index).flatten(), torch.tensor([2.1, 2.95]))
    assert flow.target(x, noise, index).flatten().tolist() == [1.0, 1.0]
    eps = toy.schedule()
    assert torch.allclose(eps.signal**2 + eps.noise**2, torch.ones(toy.LEVELS))
    assert torch.equal(eps.target(x, noise, index), noise)
    v = toy.schedule("v")
    a, b = v.signal[index], v.noise[index]
    assert torch.allclose(v.target(x, noise, index).flatten(), a * 3.0 - b * 2.0)


def test_levels_are_drawn_uniformly_over_the_whole_schedule():
    drawn = toy.schedule().draw(5000, generator(0, 0, "draw")).bincount(minlength=toy.LEVELS)
    assert int(drawn.min()) > 400 and int(drawn.max()) < 600


def test_generators_are_named_and_apart():
    def first(*name):
        return torch.rand(3, generator=generator(*name))

    assert torch.equal(first(1, 2, "mine"), first(1, 2, "mine"))
    names = [(1, 2, "mine"), (2, 2, "mine"), (1, 3, "mine"), (1, 2, "verify"), (12, 0, "mine")]
    assert len({tuple(first(*n).tolist()) for n in names}) == len(names)
    state = torch.get_rng_state()
    first(1, 2, "mine")
    assert torch.equal(torch.get_rng_state(), state), "the global generator is left alone"


def test_embedding_pool_knows_rounds_and_drops_what_failed():
    pool = EmbeddingPool((MinedEmbedding(torch.zeros(1, 2), 0, kind="text"),))
    pool = pool.opened([MinedEmbedding(torch.ones(1, 2), 1), MinedEmbedding(torch.ones(1, 2), 1)])
    assert (pool.round, len(pool.current()), len(pool.earlier())) == (1, 2, 1)
    judged = pool.judged(Verdict((0.1, 0.3), 0.2, True, torch.empty(0), torch.empty(0)))
    assert [e.score for e in judged.current()] == [0.3]
    assert judged.history[0].scores == (0.1, 0.3)


def test_concept_prompts():
    assert concept_prompts("ink", ("*", "a *", "*")) == ["ink", "a ink"]
    assert subject_prompts("cat", "a photo of a *", ["ink"]) == [
        ("a ink photo of a cat", "a ink photo")
    ]
    assert subject_prompts("van gogh", "a * photo", ["dog"]) == [
        ("a van gogh photo of a dog", "a photo of a dog")
    ]
    pool = text_pool("ink", ["ink"], [torch.ones(2, 3)], [None])
    assert pool.round == 0 and pool.text_tokens().shape == (2, 3)


@pytest.mark.parametrize(
    "template, plain, joined",
    [
        ("a * photo", "a photo", "a * photo of a dog"),
        ("* photo", "photo", "* photo of a dog"),
        ("a photo of a *", "a photo", "a dog photo of a *"),
        ("The photo of an *", "The photo", "The dog photo of an *"),
        ("photo of *", "photo", "dog photo of *"),
        ("a photo by *", "a photo by", "a photo by * of a dog"),
    ],
)
def test_a_template_says_whether_the_concept_is_a_way_or_a_thing(template, plain, joined):
    assert without_concept(template) == plain
    assert with_word(template, "dog") == joined


@pytest.mark.parametrize("concept, template", [(" ", "a *"), ("ink", "a photo")])
def test_prompts_without_concept_or_star_are_refused(concept, template):
    with pytest.raises(DarkMinerError, match=r"concept is empty|has no \*"):
        concept_prompt(concept, template)


def test_a_pool_is_made_from_the_seed():
    def made(seed):
        return build_pool(
            toy.model(), toy.context(1), size=5, seed=seed, concept="ink", prompt="a ink photo"
        )

    one, same, other = made(0), made(0), made(1)
    assert torch.equal(one.latents, same.latents) and torch.equal(one.images, same.images)
    assert not torch.equal(one.latents, other.latents)
    assert one.images.shape == (5, toy.SIDE, toy.SIDE, 3) and one.images.dtype == torch.uint8
    assert one.latent_size == (toy.SIDE, toy.SIDE)
