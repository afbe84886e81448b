"""Chasing on the toy: attackers move, adapters move, nothing else does."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from dark_miner.darkminer.config import PAPER
from dark_miner.darkminer.errors import DarkMinerError
from dark_miner.darkminer.method.attackers import Place, line_up
from dark_miner.darkminer.method.bank import BankConfig
from dark_miner.darkminer.method.chase import ChaseConfig, chase
from dark_miner.darkminer.method.circumvent import CircumventConfig, with_pictures
from dark_miner.darkminer.method.ground import Ground
from dark_miner.darkminer.method.loop import new_adapters
from dark_miner.darkminer.method.losses import predict, repeated, squared_error
from dark_miner.darkminer.method.teacher import bystanders, draw
from dark_miner.darkminer.method.text_start import text_pool
from dark_miner.darkminer.model.adapter import frozen_digest
from dark_miner.darkminer.rng import generator
from dark_miner.darkminer.types import EmbeddingPool, RetainSet

from . import toy

QUICK = ChaseConfig(
    steps=6, tokens=2, lengths=(1, 3), life=4, draws=8, lr_drop=4, bank_batch=2, bank_draws=2
)
PICTURES = CircumventConfig(rank=2, alpha=2.0, images=2)


class Encoder:
    """Text of three words: two fixed by the prompt, and the token, through a linear layer."""

    def __init__(self):
        self._mix = torch.randn(toy.WIDTH, toy.WIDTH, generator=torch.Generator().manual_seed(3))

    def word(self, word):
        return torch.full((toy.WIDTH,), 0.1 * len(word))

    def __call__(self, prompts, vectors):
        fixed = torch.stack([torch.full((2, toy.WIDTH), float(len(p)) / 20) for p in prompts])
        token = vectors.expand(len(prompts), -1)[:, None]
        return torch.cat([fixed, token], 1) @ self._mix

    def said(self, prompts):
        return self(prompts, torch.zeros(1, toy.WIDTH))


def space():
    from dark_miner.darkminer.model.interface import TextSpace

    return TextSpace(Encoder(), "a * photo", ("tree", "house", "river"))


def start():
    contexts = [toy.context(i)[0] for i in (1, 2, 3)]
    prompts = ["a concept photo", "a concept photo of a tree", "a concept photo of a river"]
    return text_pool("concept", prompts, contexts, [None, toy.context(4)[0], toy.context(5)[0]])


def bank():
    contexts = torch.cat([toy.context(i) for i in (6, 7, 8)])
    latents = torch.randn(
        3, 1, toy.CHANNELS, toy.SIDE, toy.SIDE, generator=torch.Generator().manual_seed(9)
    )
    return RetainSet(contexts, latents, ("x", "y", "z"))


def run(model=None, config=QUICK, pictures=PICTURES, **kwargs):
    model = model or toy.model()
    adapters = new_adapters(model, pictures, seed=0)
    done = chase(
        model, adapters, start(), toy.pool(), toy.context(0), config, pictures, seed=0,
        text=space(), bank=bank(), **kwargs,
    )  # fmt: skip
    return adapters, done


def test_only_the_adapters_move():
    model = toy.model()
    before = frozen_digest(model.network)
    adapters, done = run(model)
    assert frozen_digest(model.network) == before
    assert all(up.abs().max() > 0 for up in adapters.state().up.values())
    assert len(done.losses) == QUICK.steps


def test_the_same_seed_gives_the_same_adapters():
    one, other = run()[0].state(), run()[0].state()
    assert all(torch.equal(one.up[n], other.up[n]) for n in one.up)
    assert all(torch.equal(one.down[n], other.down[n]) for n in one.down)


def test_kept_prompts_can_be_kept_exactly():
    """The values of the kept prompt get nothing from an adapter that does change others."""
    keep = toy.context(60)
    adapters, _ = run(pictures=replace(PICTURES, keep_exact=1.0), keep=[keep])
    state = adapters.state()
    change = state.up["attn2.to_v"] @ state.down["attn2.to_v"]
    assert (keep[0] @ change.mT).abs().max() < 1e-5
    assert (toy.context(1)[0] @ change.mT).abs().max() > 1e-3


def test_places_are_remembered_with_pictures():
    _, done = run()
    found = [e for e in done.embeddings.entries if e.source == "mined"]
    # Four attackers where they stand at the end, and at least one that was born anew before.
    assert len(found) > 4
    assert all(e.round == 0 and e.latents is not None for e in found)
    assert {len(e.context) for e in found} == {1, 3}


def test_without_a_text_encoder_only_contexts_chase():
    adapters = new_adapters(toy.model(), PICTURES, seed=0)
    model = toy.model()
    adapters = new_adapters(model, PICTURES, seed=0)
    done = chase(
        model, adapters, start(), toy.pool(), toy.context(0), replace(QUICK, life=100), PICTURES,
        seed=0,
    )  # fmt: skip
    assert len([e for e in done.embeddings.entries if e.source == "mined"]) == 2


def test_it_needs_the_concepts_own_contexts():
    model = toy.model()
    adapters = new_adapters(model, PICTURES, seed=0)
    with pytest.raises(DarkMinerError, match="own contexts"):
        chase(model, adapters, EmbeddingPool(), toy.pool(), toy.context(0), QUICK, PICTURES, seed=0)


def test_attackers_descend_and_are_born_anew():
    config = replace(QUICK, tokens=0, lengths=(2,), life=3, context_lr=0.1)
    (attacker,) = line_up(
        config, None, [toy.context(0)[0]], torch.device("cpu"), generator(0, 0, "x")
    )
    first = attacker.value.detach().clone()
    ends = []
    for _ in range(4):
        ends.append(attacker.grow_older())
        attacker.step(torch.ones_like(attacker.value), reachable=None)
    assert ends[:3] == [None, None, None] and ends[3] is not None
    # Adam's step is the learning rate against the gradient's sign.
    assert torch.allclose(ends[3].value, first - 3 * config.context_lr, atol=1e-5)
    attacker.step(torch.zeros_like(attacker.value), reachable=0.5)
    assert attacker.value.norm(dim=-1).max() <= 0.5 + 1e-6


def test_repeated_contexts_give_the_same_prediction():
    model = toy.model()
    x, t = torch.randn(1, toy.CHANNELS, toy.SIDE, toy.SIDE), torch.tensor([3.0])
    one = toy.context(1, length=2)
    assert torch.allclose(
        model.denoise(x, t, one), model.denoise(x, t, repeated(one, 6)), atol=1e-6
    )
    assert repeated(one, 5) is one


def test_the_teachers_answers_are_the_original_models():
    model = toy.model()
    adapters = new_adapters(model, PICTURES, seed=0)
    pictures = toy.pool().latents[:3]
    anchors, concepts = [toy.context(0)[0]], [toy.context(1)[0]]
    owner = torch.zeros(3, dtype=torch.int64)
    plain = draw(model, adapters, pictures, owner, anchors, None, 0.0, generator(0, 0, "t"))
    past = draw(model, adapters, pictures, owner, anchors, concepts, 1.0, generator(0, 0, "t"))
    for p in adapters.parameters():  # whatever the adapters say does not count
        p.data.normal_(generator=torch.Generator().manual_seed(1))
    again = draw(model, adapters, pictures, owner, anchors, None, 0.0, generator(0, 0, "t"))
    assert torch.equal(plain.answer, again.answer)
    with adapters.off():
        queries = [plain.query(i, concepts[0][None], model.device) for i in range(3)]
        at_concept = torch.cat(predict(model.denoise, queries))
    expected = plain.answer - (at_concept - plain.answer)
    assert torch.allclose(past.answer, expected, atol=1e-5)
    assert squared_error(past.answer, plain.answer).min() > 0


def test_bystanders_are_led_away_from_the_concept_on_its_own_pictures():
    model = toy.model()
    adapters = new_adapters(model, PICTURES, seed=0)
    owner = torch.zeros(3, dtype=torch.int64)
    anchors, concepts = [toy.context(0)[0]], [toy.context(1)[0]]
    shown = draw(
        model, adapters, toy.pool().latents[:3], owner, anchors, concepts, 1.0,
        generator(0, 0, "t"),
    )  # fmt: skip
    others = [toy.context(6)[0], toy.context(7)[0]]
    plain, led = (
        bystanders(model, adapters, shown, others, eta, generator(0, 0, "b")) for eta in (0.0, 2.0)
    )
    with adapters.off():
        queries = [
            plain.query(i, others[int(o)][None], model.device) for i, o in enumerate(plain.owner)
        ]
        said = torch.cat(predict(model.denoise, queries))
    assert torch.allclose(plain.answer, said, atol=1e-6)
    assert torch.allclose(led.answer, said - 2.0 * shown.direction, atol=1e-5)


def test_asides_are_the_original_models_pictures_of_the_anchors():
    model = toy.model()
    adapters = new_adapters(model, PICTURES, seed=0)
    config = replace(QUICK, asides=3, aside_eta=2.0, draws=32)

    def ground():
        gen = generator(0, 0, "g")
        pictured = with_pictures(model, adapters, start(), PICTURES, seed=0)
        return Ground(
            model, adapters, pictured, toy.pool(), toy.context(0), "a * photo", config, gen
        )

    made = ground()
    shown = made.asides
    with adapters.off():
        at_anchor, at_concept = (
            torch.cat(
                predict(
                    model.denoise,
                    [
                        shown.query(i, contexts[int(o)][None], model.device)
                        for i, o in enumerate(shown.owner)
                    ],
                )
            )
            for contexts in (made.anchors, made.concepts)
        )
    assert set(shown.owner.tolist()) == {0, 1, 2}
    assert torch.allclose(shown.answer, at_anchor - 2.0 * (at_concept - at_anchor), atol=1e-5)
    for p in adapters.parameters():  # whatever the adapters say does not count
        p.data.normal_(generator=torch.Generator().manual_seed(1))
    assert torch.equal(ground().asides.noisy, shown.noisy)
    assert not torch.equal(shown.noisy, made.subjects.noisy)
    place = Place(toy.context(9, length=1), spoken=False)
    row = made.aside(place, generator(0, 0, "r"))
    assert row.draws is shown and row.place is place and row.weight == 1.0


def test_asides_take_part():
    one, other = (run(config=replace(QUICK, asides=n))[0].state() for n in (0, 4))
    assert any(not torch.equal(one.up[n], other.up[n]) for n in one.up)


def test_it_is_off_in_the_papers_preset_and_settings_are_checked():
    assert PAPER.chase.steps == 0
    assert BankConfig().size == 0
    with pytest.raises(DarkMinerError, match=r"ChaseConfig\.life"):
        ChaseConfig(life=0)
