"""Chasing on the toy: attackers move, adapters move, nothing else does."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from dark_miner.darkminer.config import PAPER
from dark_miner.darkminer.errors import DarkMinerError
from dark_miner.darkminer.method.attackers import Adversary, start_attackers
from dark_miner.darkminer.method.bank import BankConfig
from dark_miner.darkminer.method.chase import ChaseConfig, chase
from dark_miner.darkminer.method.chase_pictures import ChasePictures, PictureRow
from dark_miner.darkminer.method.circumvent import with_pictures
from dark_miner.darkminer.method.loop import new_adapters
from dark_miner.darkminer.method.losses import repeated, squared_error
from dark_miner.darkminer.method.retain import Retain, RetainConfig
from dark_miner.darkminer.method.text_start import text_pool
from dark_miner.darkminer.model.adapter import frozen_digest
from dark_miner.darkminer.rng import generator
from dark_miner.darkminer.types import EmbeddingPool, RetainSet

from . import toy

QUICK = ChaseConfig(steps=6, tokens=2, soft_prompts=(1, 3), life=4, noisy=8, lr_drop=4, images=2)
RETAIN = RetainConfig(weight=2.0, batch=2, noisy=2, keep_images=2)


class Encoder:
    """Text of three words: two fixed by the prompt, and the token, through a linear layer."""

    def __init__(self):
        self._mix = torch.randn(toy.WIDTH, toy.WIDTH, generator=torch.Generator().manual_seed(3))

    def embedding(self, word):
        return torch.full((toy.WIDTH,), 0.1 * len(word))

    def __call__(self, prompts, vectors):
        fixed = torch.stack([torch.full((2, toy.WIDTH), float(len(p)) / 20) for p in prompts])
        token = vectors.expand(len(prompts), -1)[:, None]
        return torch.cat([fixed, token], 1) @ self._mix

    def encode(self, prompts):
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


def run(model=None, config=QUICK, retain=RETAIN, keep=()):
    model = model or toy.model()
    adapters = new_adapters(model, toy.LORA, seed=0)
    done = chase(
        model, adapters, start(), toy.pool(), toy.context(0), config, seed=0, text=space(),
        retain=Retain(retain, bank(), keep),
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
    adapters, _ = run(retain=replace(RETAIN, keep_exact=1.0), keep=[keep])
    state = adapters.state()
    change = state.up["attn2.to_v"] @ state.down["attn2.to_v"]
    assert (keep[0] @ change.mT).abs().max() < 1e-5
    assert (toy.context(1)[0] @ change.mT).abs().max() > 1e-3


def test_where_attackers_ended_is_remembered_with_pictures():
    _, done = run()
    found = [e for e in done.embeddings.entries if e.kind != "text"]
    # Four attackers where they stand at the end, and at least one that started anew before.
    assert len(found) > 4
    assert all(e.round == 0 and e.latents is not None for e in found)
    assert {len(e.context) for e in found} == {1, 3}
    assert {len(e.context) for e in found if e.kind == "soft"} == {1, 3}
    assert {len(e.context) for e in found if e.kind == "token"} == {3}


def test_without_a_text_encoder_only_soft_prompts_chase():
    model = toy.model()
    adapters = new_adapters(model, toy.LORA, seed=0)
    done = chase(
        model, adapters, start(), toy.pool(), toy.context(0), replace(QUICK, life=100), seed=0
    )
    kinds = [e.kind for e in done.embeddings.entries if e.kind != "text"]
    assert kinds == ["soft", "soft"]


def test_it_needs_the_concepts_own_contexts():
    model = toy.model()
    adapters = new_adapters(model, toy.LORA, seed=0)
    with pytest.raises(DarkMinerError, match="own contexts"):
        chase(model, adapters, EmbeddingPool(), toy.pool(), toy.context(0), QUICK, seed=0)


def test_attackers_descend_and_start_anew():
    (attacker,) = start_attackers(
        0, (2,), (0.05, 0.1), 3, text=None, contexts=[toy.context(0)[0]],
        device=torch.device("cpu"), gen=generator(0, 0, "x"),
    )  # fmt: skip
    first = attacker.value.detach().clone()
    ends = []
    for _ in range(4):
        ends.append(attacker.tick())
        attacker.step(torch.ones_like(attacker.value), reachable=None)
    assert ends[:3] == [None, None, None] and ends[3] is not None
    # Adam's step is the learning rate against the gradient's sign.
    assert torch.allclose(ends[3].value, first - 3 * 0.1, atol=1e-5)
    attacker.step(torch.zeros_like(attacker.value), reachable=0.5)
    assert attacker.value.norm(dim=-1).max() <= 0.5 + 1e-6


def test_repeated_contexts_give_the_same_prediction():
    model = toy.model()
    x, t = torch.randn(1, toy.CHANNELS, toy.SIDE, toy.SIDE), torch.tensor([3.0])
    one = toy.context(1, length=2)
    short = one[0]
    thrice = repeated(short, 6)
    assert len(thrice) == 6
    assert torch.allclose(model.denoise(x, t, one), model.denoise(x, t, thrice[None]), atol=1e-6)
    assert repeated(short, 5) is short


def pictures(
    model, adapters, *, asked=8, eta=1.0, concept_eta=1.0, anchor_images=0, anchor_eta=0.0
):
    return ChasePictures(
        model, adapters, with_pictures(model, adapters, start(), 2, seed=0), toy.pool(),
        toy.context(0), "a * photo", asked=asked, eta=eta, concept_eta=concept_eta,
        anchor_images=anchor_images, anchor_eta=anchor_eta, gen=generator(0, 0, "t"),
    )  # fmt: skip


def original(model, adapters, seen, contexts):
    """What the original model predicts of each picture under its owner's context, one by one."""
    with torch.no_grad(), adapters.off():
        return torch.cat(
            [
                model.denoise(x[None], t[None], contexts[int(o)][None])
                for x, t, o in zip(seen.noisy, seen.timestep, seen.owner, strict=True)
            ]
        )


def test_the_teachers_answers_are_the_original_models():
    model = toy.model()
    adapters = new_adapters(model, toy.LORA, seed=0)
    plain, past = (pictures(model, adapters, eta=eta) for eta in (0.0, 1.0))
    for p in adapters.parameters():  # whatever the adapters say does not count
        p.data.normal_(generator=torch.Generator().manual_seed(1))
    again = pictures(model, adapters, eta=0.0)
    for kind in ("alone", "subjects"):
        seen, further = getattr(plain, kind), getattr(past, kind)
        assert torch.equal(seen.answer, getattr(again, kind).answer)
        assert torch.equal(seen.noisy, further.noisy)
        assert torch.allclose(
            seen.answer, original(model, adapters, seen, plain.anchors), atol=1e-6
        )
        at_concept = original(model, adapters, seen, plain.concepts)
        assert torch.allclose(seen.direction, at_concept - seen.answer, atol=1e-5)
        expected = seen.answer - (at_concept - seen.answer)
        assert torch.allclose(further.answer, expected, atol=1e-5)
        assert squared_error(further.answer, seen.answer).min() > 0


def test_the_concepts_own_prompts_are_led_as_far_as_their_own_setting_says():
    model = toy.model()
    adapters = new_adapters(model, toy.LORA, seed=0)
    made = pictures(model, adapters, eta=1.5, concept_eta=3.0, anchor_images=1)
    alike, further = (pictures(model, adapters, eta=e, anchor_images=1) for e in (1.5, 3.0))
    other = Adversary(toy.context(5), False)
    for kind in ("alone", "subjects"):
        for index in range(len(made.alone)):
            own, attacked = (PictureRow(getattr(made, kind), index, who) for who in (None, other))
            assert torch.equal(made.answer(attacked), getattr(alike, kind).answer[index])
            expected = getattr(further, kind).answer[index]
            assert torch.allclose(made.answer(own), expected, atol=1e-5)
            assert not torch.allclose(made.answer(own), made.answer(attacked), atol=1e-3)
    row = made.row_of_anchor(other, generator(0, 0, "r"))
    assert torch.equal(made.answer(row), made.of_anchors.answer[row.index])


def test_noisy_pictures_come_with_what_the_network_should_predict_of_them():
    """On the toy's schedule the truth is the noise itself: the picture is what is left."""
    model = toy.model()
    seen = pictures(model, new_adapters(model, toy.LORA, seed=0)).alone
    index = seen.timestep.long()
    signal, noise = (
        part[index].view(-1, 1, 1, 1) for part in (model.schedule.signal, model.schedule.noise)
    )
    clean = (seen.noisy - noise * seen.truth) / signal
    shown = toy.pool().latents
    assert all(bool((shown - c).abs().amax((1, 2, 3)).min() < 1e-5) for c in clean)


def test_unrelated_prompts_are_led_away_from_the_concept_on_its_own_pictures():
    model = toy.model()
    adapters = new_adapters(model, toy.LORA, seed=0)
    made = pictures(model, adapters)
    others = [toy.context(6)[0], toy.context(7)[0]]
    plain, led = (made.unrelated(others, eta, generator(0, 0, "b")) for eta in (0.0, 2.0))
    assert torch.equal(plain.noisy, made.subjects.noisy) and set(plain.owner.tolist()) == {0, 1}
    answered = original(model, adapters, plain, others)
    assert torch.allclose(plain.answer, answered, atol=1e-6)
    assert torch.allclose(led.answer, answered - 2.0 * made.subjects.direction, atol=1e-5)


def test_pictures_of_the_anchors_are_the_original_models():
    model = toy.model()
    adapters = new_adapters(model, toy.LORA, seed=0)
    made = pictures(model, adapters, asked=32, anchor_images=4, anchor_eta=2.0)
    shown = made.of_anchors
    at_anchor, at_concept = (
        original(model, adapters, shown, contexts) for contexts in (made.anchors, made.concepts)
    )
    assert set(shown.owner.tolist()) == {0, 1, 2}
    assert torch.allclose(shown.answer, at_anchor - 2.0 * (at_concept - at_anchor), atol=1e-5)
    for p in adapters.parameters():  # whatever the adapters say does not count
        p.data.normal_(generator=torch.Generator().manual_seed(1))
    again = pictures(model, adapters, asked=32, anchor_images=4, anchor_eta=2.0)
    assert torch.equal(again.of_anchors.noisy, shown.noisy)
    assert not torch.equal(shown.noisy, made.subjects.noisy)
    adversary = Adversary(toy.context(9, length=1), token=False)
    row = made.row_of_anchor(adversary, generator(0, 0, "r"))
    assert row.pictures is shown and row.adversary is adversary and row.weight == 1.0


def test_pictures_of_the_anchors_take_part():
    one, other = (run(config=replace(QUICK, anchor_batch=n))[0].state() for n in (0, 4))
    assert any(not torch.equal(one.up[n], other.up[n]) for n in one.up)


def test_it_is_off_in_the_papers_preset_and_settings_are_checked():
    assert PAPER.chase.steps == 0
    assert BankConfig().size == 0
    with pytest.raises(DarkMinerError, match=r"ChaseConfig\.life"):
        ChaseConfig(life=0)
