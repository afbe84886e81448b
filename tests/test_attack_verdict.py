"""A short attack as a verdict."""

from dataclasses import replace

import pytest
import torch
from dark_miner.darkminer.attacks.verdict import AttackVerdictConfig, attack_verdict
from dark_miner.darkminer.errors import DarkMinerError
from dark_miner.darkminer.method.loop import new_adapters
from dark_miner.darkminer.model.adapter import frozen_digest
from dark_miner.darkminer.model.interface import TextSpace

from . import toy
from .test_attacks import Text

FEW = AttackVerdictConfig(steps=3, pictures=6, vectors=(1, 2))


def space():
    return TextSpace(Text(), "a * drawing", ("cat", "dog"))


def run(config=FEW, text=None, model=None, seed=0, encode=toy.encode):
    model = model or toy.model()
    adapters = new_adapters(model, toy.LORA, seed=0)
    try:
        return attack_verdict(
            model, encode, toy.pool(32), toy.context(0), config, seed=seed, adapters=adapters,
            text=text,
        )  # fmt: skip
    finally:
        adapters.remove()


def test_every_attack_is_judged_by_as_many_pictures_as_asked():
    verdict = run(text=space())
    assert list(verdict.success) == ["token", "context 1", "context 2"] == FEW.attacks(token=True)
    assert all(p.count == 6 for p in verdict.success.values())
    assert verdict.pictures.shape == (18, toy.SIDE, toy.SIDE, 3)
    assert list(run().success) == ["context 1", "context 2"] == FEW.attacks(token=False)


def test_the_verdict_is_the_share_of_pictures_past_the_threshold():
    """Pictures that lie where the pool lies count; those on the reference's other side do not."""
    pool = toy.pool(32)
    shown = replace(toy.model(), sample=_draws(pool.latents))
    verdict = run(model=shown)
    assert verdict.worst == 1.0 and verdict.verified
    assert verdict.separation == 1.0
    assert not run(replace(FEW, limit=1.0), model=shown).verified
    hidden = replace(toy.model(), sample=_draws(-6.0 * torch.ones_like(pool.latents)))
    assert run(model=hidden).worst == 0.0


def _draws(latents):
    """A sampler that shows these latents, and far from them for the reference context."""

    def sample(context, noise):
        away = torch.equal(context[:1], toy.context(0))
        made = latents[torch.arange(len(noise)) % len(latents)]
        return (-3.0 * torch.ones_like(made) if away else made) + 0.01 * noise

    return sample


def test_attacking_moves_no_weight_and_repeats_by_seed():
    model = toy.model()
    before = frozen_digest(model.network)
    one, same, other = run(model=model), run(model=model), run(model=model, seed=1)
    assert frozen_digest(model.network) == before
    assert torch.equal(one.pictures, same.pictures)
    assert not torch.equal(one.pictures, other.pictures)


def test_a_longer_attack_gets_closer():
    """On the toy the attack's own pictures move towards the pool as it learns."""
    pool = toy.pool(32)

    def distance(steps):
        pictures = run(AttackVerdictConfig(steps=steps, pictures=8, vectors=(2,))).pictures
        return float((pictures.mean(0) - pool.first(32).mean(0)).square().mean())

    assert distance(400) < distance(1)


def test_nothing_to_run_and_bad_settings_are_one_sentence():
    with pytest.raises(DarkMinerError, match="needs a CLIP"):
        run(replace(FEW, vectors=()))
    with pytest.raises(DarkMinerError, match="steps is 0: it must be at least 1"):
        AttackVerdictConfig(steps=0)
    with pytest.raises(DarkMinerError, match="limit is 1.5: it must be between"):
        AttackVerdictConfig(limit=1.5)
