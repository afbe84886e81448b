"""Attacks that leave the text as it is: what they do, beside a second implementation."""

from dataclasses import replace

import pytest
import torch
from dark_miner.darkminer.attacks.catalogue import ATTACKS
from dark_miner.darkminer.attacks.completion import CompletionConfig
from dark_miner.darkminer.attacks.probe import ProbeConfig
from dark_miner.darkminer.attacks.recall import RecallConfig
from dark_miner.darkminer.attacks.scene import without
from dark_miner.darkminer.attacks.steps import levels_down
from dark_miner.darkminer.errors import DarkMinerError
from dark_miner.darkminer.method.loop import new_adapters
from dark_miner.darkminer.rng import generator

from . import toy
from .test_attacks_text import PROMPTS, Bright, scene

FEW = {
    "probe": ProbeConfig(steps=5, churns=(0.0, 1.0, 1.3), tries=1),
    "completion": CompletionConfig(steps=8),
    "recall": RecallConfig(levels=2, iterations=3, lr=0.05, every=1),
}


def run(name, config=None, **changes):
    return ATTACKS[name].run(scene(**changes), config or FEW[name])


@pytest.mark.parametrize("ascend", [False, True])
def test_recall_is_its_codes_update(ascend):
    """|e(noised start) - e(noised picture)|^2; mean size 1, momentum, sign; the picture again."""
    found = run("recall", replace(FEW["recall"], ascend=ascend))
    model = toy.model(1)
    for i in range(len(PROMPTS)):
        gen, x = generator(3, i, "attack.recall"), toy.pool().latents[i][None]
        context = scene().contexts[i][None]
        z = 0.25 * x + 0.75 * torch.randn(x.shape, generator=gen)
        speed, losses = 0, []
        for level in (2, 7):
            a, b, t = (
                model.schedule.signal[level],
                model.schedule.noise[level],
                torch.tensor([level]),
            )
            for _ in range(3):
                noise = torch.randn(x.shape, generator=gen)
                z = z.detach().requires_grad_(True)
                gap = model.network(a * z + b * noise, t, context)
                gap = gap - model.network(a * x + b * noise, t, context)
                loss = (gap**2).sum() / gap.numel()
                (slope,) = torch.autograd.grad(loss, z)
                speed = 0.9 * speed + slope / (slope.abs().mean() + 1e-8)
                z = z.detach() + (0.05 if ascend else -0.05) * speed.sign()
                losses.append(float(loss.detach()))
            z = z + 0.05 * x
        assert found[i].losses == pytest.approx(losses, abs=1e-5)
        assert torch.allclose(found[i].start, z[0], atol=1e-5)


def ddim(model, x, context, levels):
    """Deterministic DDIM by hand, of a network that predicts epsilon."""
    for level, after in zip(levels, [*levels[1:], None], strict=True):
        a, b = model.schedule.signal[level], model.schedule.noise[level]
        noise = model.network(x, torch.tensor([float(level)]), context)
        clean = (x - b * noise) / a
        if after is None:
            return clean
        x = model.schedule.signal[after] * clean + model.schedule.noise[after] * noise


def test_completion_finishes_a_half_noised_picture():
    found = run("completion")
    model = toy.model(1)
    for i in range(len(PROMPTS)):
        gen, x = generator(3, i, "attack.completion"), toy.pool().latents[i][None]
        a, b = model.schedule.signal[4], model.schedule.noise[4]
        noisy = a * x + b * torch.randn(x.shape, generator=gen)
        made = ddim(model, noisy, scene().contexts[i][None], [4, 3, 1, 0])
        assert torch.allclose(found[i].latents, made[0], atol=1e-5)
        assert torch.allclose(found[i].start, noisy[0], atol=1e-6)


def test_guidance_leads_away_from_the_negative_prompt():
    plain, none = run("completion"), run("completion", negative=toy.context(2), cfg=1.0)
    assert torch.equal(plain[0].latents, none[0].latents)
    own = scene().contexts[0][None]
    same = run("completion", prompts=PROMPTS[:1], negative=own, cfg=7.0)
    assert torch.allclose(plain[0].latents, same[0].latents, atol=1e-4)
    away = run("completion", negative=toy.context(2), cfg=7.0)
    assert not torch.allclose(plain[0].latents, away[0].latents, atol=1e-2)


def test_a_probe_without_noise_is_ddim_and_the_best_picture_is_kept():
    calm = run("probe", replace(FEW["probe"], churns=(0.0,)))
    model = toy.model(1)
    for i in range(len(PROMPTS)):
        noise = torch.randn(1, *model.latent_shape, generator=generator(3, i, "attack.probe"))
        levels = levels_down(toy.LEVELS - 1, 5)
        x = model.schedule.noise[levels[0]] * noise
        made = ddim(model, x, scene().contexts[i][None], levels)
        assert torch.allclose(calm[i].latents, made[0], atol=1e-4)
    whole = scene(detector=Bright(2.0))
    for i, attempt in enumerate(ATTACKS["probe"].run(whole, FEW["probe"])):
        assert len(attempt.looks) == 3 and attempt.hit_at is None
        score = float(Bright()(whole.picture(i, attempt)).scores[0])
        assert score == pytest.approx(max(look.score for look in attempt.looks), abs=1e-6)
    first = run("probe", detector=Bright(-1.0))
    assert all(a.hit_at == 1 and len(a.looks) == 1 for a in first)


@pytest.mark.parametrize("prediction", ["epsilon", "v", "flow"])
def test_clean_latents_and_noise_come_back_from_a_perfect_prediction(prediction):
    schedule, gen = toy.schedule(prediction), torch.Generator().manual_seed(0)
    x, noise = (torch.randn(3, 2, 2, 2, generator=gen) for _ in range(2))
    index = torch.tensor([0, 4, 9])
    noisy, target = schedule.add_noise(x, noise, index), schedule.target(x, noise, index)
    clean, drawn = schedule.clean_and_noise(target, noisy, index)
    assert torch.allclose(clean, x, atol=1e-5) and torch.allclose(drawn, noise, atol=1e-5)


@pytest.mark.parametrize("name", FEW)
def test_a_lora_of_zeros_is_attacked_as_the_original_and_the_same_seed_repeats(name):
    plain = run(name, model=toy.model(0), detector=Bright(2.0))
    adapted = toy.model(0)
    adapters = new_adapters(adapted, toy.LORA, seed=0)
    zero = run(name, model=adapted, original=without(adapted, adapters.off), detector=Bright(2.0))
    other = run(name, model=toy.model(0), detector=Bright(2.0), seed=4)
    for one, two in zip(plain, zero, strict=True):
        assert one.losses == two.losses and one.looks == two.looks
        assert torch.equal(one.start, two.start)
        assert one.spoken is None and torch.equal(one.context, two.context)
    assert not torch.equal(plain[0].start, other[0].start)


def test_the_original_draws_the_picture_where_none_is_given():
    drawn = run("completion", latents=None)
    gen = generator(3, 0, "attack.target")
    noise = torch.randn(1, *toy.model(0).latent_shape, generator=gen)
    target = toy.model(0).sample(scene().contexts[0][None], noise)
    given = run("completion", latents=target)
    assert torch.allclose(drawn[0].latents, given[0].latents, atol=1e-5)
    with pytest.raises(DarkMinerError, match="needs the model before its erasure"):
        run("recall", latents=None, original=None)


def test_every_step_is_reported():
    for name in FEW:
        seen = []
        run(name, report=seen.append, detector=Bright(2.0))
        steps = [r.step for r in seen]
        assert {(r.stage, r.part) for r in seen} == {("attack", name)}
        assert steps == sorted(steps) and steps[-1] == seen[-1].steps


def test_recalls_defaults_are_its_codes_values():
    config = ATTACKS["recall"].full
    assert (config.levels, config.iterations, config.lr, config.momentum) == (50, 20, 0.001, 0.9)
    assert (config.balance, config.every, config.pull) == (0.25, 5, 0.05)
