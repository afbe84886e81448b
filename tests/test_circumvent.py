from dataclasses import replace

import pytest
import torch
from dark_miner.darkminer.errors import DarkMinerError
from dark_miner.darkminer.method.circumvent import CircumventConfig, circumvent
from dark_miner.darkminer.method.loop import new_adapters
from dark_miner.darkminer.method.retain import NOTHING, Retain, RetainConfig
from dark_miner.darkminer.model.adapter import LoraConfig, frozen_digest
from dark_miner.darkminer.types import EmbeddingPool, MinedEmbedding, RetainSet

from . import toy

QUICK = CircumventConfig(steps=150, batch=4, optimizer="adam", lr=0.01, lr_late=0.005, images=2)
LORA = LoraConfig(rank=4, alpha=4.0)


def pool_of(*rounds):
    entries = tuple(MinedEmbedding(toy.context(20 + i)[0], r) for i, r in enumerate(rounds))
    return EmbeddingPool(entries, round=max(rounds), concept="concept")


def bank():
    contexts = torch.cat([toy.context(40 + i) for i in range(6)])
    gen = torch.Generator().manual_seed(3)
    latents = torch.randn(6, 1, toy.CHANNELS, toy.SIDE, toy.SIDE, generator=gen)
    return RetainSet(contexts, latents, tuple("abcdef"))


def run(config=QUICK, embeddings=None, seed=0, model=None, lora=LORA, **kwargs):
    model = model or toy.model()
    adapters = new_adapters(model, lora, seed=seed)
    result = circumvent(
        model, adapters, embeddings or pool_of(1), toy.context(0), config, seed=seed, **kwargs
    )
    return model, adapters, result


def distance(model, adapters, context, to_context=None):
    """Mean |e(c) - e0(c')|^2 on fixed noisy latents."""
    gen = torch.Generator().manual_seed(11)
    x = torch.randn(32, toy.CHANNELS, toy.SIDE, toy.SIDE, generator=gen)
    t = torch.randint(0, toy.LEVELS, (32,), generator=gen).float()
    with torch.no_grad():
        student = model.denoise(x, t, context.expand(32, -1, -1))
        with adapters.off():
            wanted = context if to_context is None else to_context
            teacher = model.denoise(x, t, wanted.expand(32, -1, -1))
    return float((student - teacher).square().sum((1, 2, 3)).mean())


def test_the_embedding_moves_to_the_anchor_and_nothing_frozen_moves():
    model = toy.model()
    digest = frozen_digest(model.network)
    start = new_adapters(toy.model(), LORA, seed=0)
    context, anchor = toy.context(20), toy.context(0)
    before = distance(toy.model(), start, context, anchor)
    model, adapters, result = run(model=model)
    assert distance(model, adapters, context, anchor) < 0.7 * before
    assert sum(result.losses[-30:]) < sum(result.losses[:30])
    assert frozen_digest(model.network) == digest


def test_the_papers_settings_bring_the_loss_down():
    paper = replace(CircumventConfig(), steps=600)
    _, _, result = run(paper, lora=LoraConfig())
    assert sum(result.losses[-100:]) < sum(result.losses[:100])


def test_same_seed_same_adapters_bit_for_bit():
    (_, one, _), (_, same, _), (_, other, _) = run(), run(), run(seed=1)
    for name in one.names:
        assert torch.equal(one.state().up[name], same.state().up[name])
    assert not torch.equal(one.state().up["attn2.to_v"], other.state().up["attn2.to_v"])


def test_the_bank_keeps_what_the_erasure_hurts():
    plain = replace(QUICK, alpha_p=0.0, steps=300)
    kept = RetainConfig(weight=2.0, batch=4, refresh=50)
    contexts = bank().contexts

    def drift(retain):
        model, adapters, _ = run(plain, retain=retain)
        return sum(distance(model, adapters, c[None]) for c in contexts)

    assert drift(Retain(kept, bank())) < 0.8 * drift(NOTHING)


def test_keep_contexts_are_kept():
    plain = replace(QUICK, alpha_p=0.0, steps=300)
    keep = toy.context(60)
    model, adapters, _ = run(plain)
    retain = Retain(RetainConfig(keep_weight=2.0, keep_images=2), keep=[keep])
    model_kept, adapters_kept, _ = run(plain, retain=retain)
    assert distance(model_kept, adapters_kept, keep) < 0.8 * distance(model, adapters, keep)


def test_preserving_is_exact_in_what_it_counts():
    """alpha_p alone, with fresh adapters: teacher and student agree, so the first loss is 0."""
    config = replace(QUICK, alpha_c=0.0, steps=1)
    _, _, result = run(config)
    assert result.losses == [pytest.approx(0.0, abs=1e-9)]


def test_each_part_of_the_preserving_loss_keeps_its_own_context():
    """Without a part, the context it stands for drifts further than with that part alone."""
    config = replace(QUICK, alpha_p=2.0, steps=300)
    own = toy.context(20)
    kept = {"c0": toy.context(0), "0c": torch.zeros_like(own), "-c": -own}
    for part, context in kept.items():
        others = tuple(p for p in kept if p != part)
        with_it = run(replace(config, preserved=(part,)))[:2]
        without = run(replace(config, preserved=others))[:2]
        assert distance(*with_it, context) < distance(*without, context), part


def test_unknown_parts_of_the_preserving_loss_are_refused():
    with pytest.raises(DarkMinerError, match="preserved"):
        replace(QUICK, preserved=("c",))


def test_past_the_anchor_goes_further():
    def against_concept(eta):
        model, adapters, _ = run(replace(QUICK, eta=eta, alpha_p=0.0, steps=300))
        return distance(model, adapters, toy.context(20))

    assert against_concept(1.0) > against_concept(0.0)


def test_pictures_are_made_once_by_the_original_model():
    _, _, first = run(replace(QUICK, steps=2))
    made = first.embeddings.entries[0].latents
    assert made is not None and made.shape == (2, toy.CHANNELS, toy.SIDE, toy.SIDE)
    _, _, again = run(replace(QUICK, steps=2), embeddings=first.embeddings)
    assert again.embeddings.entries[0].latents is made


def test_with_probability_one_only_the_newest_round_is_drawn():
    seen = []
    model = toy.model()

    def spy(x, timestep, context):
        seen.append(context.detach().clone())
        return model.network(x, timestep, context)

    config = replace(QUICK, r=1.0, alpha_p=0.0, steps=10)
    run(config, pool_of(1, 2), model=replace(model, denoise=spy))
    old = toy.context(20)
    assert not any(torch.equal(c[i : i + 1], old) for c in seen for i in range(len(c)))


def test_nothing_to_circumvent_is_refused():
    with pytest.raises(DarkMinerError, match="empty"):
        run(embeddings=EmbeddingPool())


def test_the_teacher_asked_ahead_answers_the_same_draws():
    """How many steps one pass answers follows from the model's batch; the draws do not."""
    short = replace(QUICK, steps=40)
    banked = Retain(RetainConfig(weight=1.0, batch=2, refresh=7), bank())
    for config, retain in ((replace(short, eta=1.0), banked), (short, Retain(bank=bank()))):
        runs = [
            run(config, pool_of(1, 2), model=replace(toy.model(), batch=size), retain=retain)
            for size in (1, 64)
        ]
        (_, one, _), (_, many, _) = runs
        for name in one.names:
            torch.testing.assert_close(one.state().up[name], many.state().up[name])
        torch.testing.assert_close(
            torch.tensor(runs[0][2].losses), torch.tensor(runs[1][2].losses), rtol=1e-4, atol=1e-5
        )


FRESH = replace(QUICK, steps=5, batch=2, fresh=True)


def same(one, other):
    one, other = one.state(), other.state()
    return all(
        torch.equal(a[n], b[n])
        for a, b in ((one.up, other.up), (one.down, other.down))
        for n in a
    )  # fmt: skip


def watched(drawn, batch=4):
    """The toy model, noting what its sampler is asked for: contexts and the noise of each."""
    model = replace(toy.model(), batch=batch)

    def sample(context, noise):
        drawn.extend(zip(context.expand(len(noise), -1, -1), noise.clone(), strict=True))
        return model.sample(context, noise)

    return replace(model, sample=sample)


def test_fresh_makes_a_new_picture_for_every_row_of_every_step():
    drawn = []
    _, _, result = run(FRESH, pool_of(1, 2), model=watched(drawn))
    assert len(drawn) == FRESH.steps * FRESH.batch
    assert len({tuple(noise.flatten().tolist()) for _, noise in drawn}) == len(drawn)
    own = [toy.context(20)[0], toy.context(21)[0]]
    assert all(any(torch.equal(context, c) for c in own) for context, _ in drawn)
    assert all(e.latents is None for e in result.embeddings.entries)
    drawn.clear()
    run(replace(FRESH, fresh=False), pool_of(1, 2), model=watched(drawn))
    assert len(drawn) == 2 * FRESH.images


def test_fresh_pictures_are_the_original_models():
    """Whatever the adapters have learnt: every picture is what the bare network makes of it."""
    model, original, made = toy.model(), toy.model(), []

    def sample(context, noise):
        made.append((context, noise, model.sample(context, noise)))
        return made[-1][2]

    _, adapters, _ = run(
        replace(FRESH, lr=1e-3, lr_late=1e-3), model=replace(model, sample=sample, batch=1)
    )
    assert all(bool(up.any()) for up in adapters.state().up.values())
    assert len(made) == FRESH.steps * FRESH.batch
    assert all(torch.equal(latents, original.sample(c, noise)) for c, noise, latents in made)


def test_fresh_pictures_give_another_lora_and_the_same_seed_the_same():
    def trained(seed=0, **changes):
        return run(replace(FRESH, **changes), pool_of(1, 2), seed=seed)[1]

    assert same(trained(), trained())
    assert not same(trained(), trained(fresh=False))
    assert not same(trained(), trained(seed=1))


def test_fresh_draws_are_the_same_however_many_pictures_are_made_at_once():
    one, many = [], []
    for drawn, batch in ((one, 1), (many, 64)):
        run(FRESH, pool_of(1, 2), model=watched(drawn, batch))
    for (context, noise), (other, again) in zip(one, many, strict=True):
        assert torch.equal(context, other) and torch.equal(noise, again)
