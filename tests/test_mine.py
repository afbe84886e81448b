from dataclasses import replace

import pytest
import torch
from dark_miner.darkminer.errors import DarkMinerError, DivergedError
from dark_miner.darkminer.method.mine import MineConfig, mine, project
from dark_miner.darkminer.model.adapter import frozen_digest
from dark_miner.darkminer.model.interface import TextSpace
from dark_miner.darkminer.types import StepReport

from . import toy
from .test_attacks import Text

QUICK = MineConfig(length=4, k=2, batch=2, steps=40, optimizer="adam", lr=0.05, lr_late=0.02)


def run(config=QUICK, seed=0, round_=1, model=None, **kwargs):
    model = model or toy.model()
    return mine(model, toy.pool(), toy.context(0), config, seed=seed, round_=round_, **kwargs)


def test_the_loss_falls_and_the_network_stays():
    model = toy.model()
    digest = frozen_digest(model.network)
    result = run(replace(QUICK, steps=300), model=model)
    assert sum(result.losses[-50:]) < 0.9 * sum(result.losses[:50])
    assert frozen_digest(model.network) == digest
    assert all(p.grad is None for p in model.network.parameters())


def test_the_papers_settings_bring_the_loss_down():
    result = run(replace(MineConfig(), length=4, k=3, steps=600))
    assert sum(result.losses[-100:]) < sum(result.losses[:100])


def test_same_seed_same_embeddings_bit_for_bit_and_rounds_differ():
    one, same, other = run(), run(), run(round_=2)
    assert torch.equal(one.embeddings[0].context, same.embeddings[0].context)
    assert one.embeddings[0].indices == same.embeddings[0].indices
    assert not torch.equal(one.embeddings[0].context, other.embeddings[0].context)


def test_several_at_once_are_different_and_know_their_pictures():
    result = run(replace(QUICK, count=3))
    assert len(result.embeddings) == 3
    assert {len(e.indices) for e in result.embeddings} == {2}
    assert {e.context.shape for e in result.embeddings} == {(4, toy.WIDTH)}
    assert not torch.equal(result.embeddings[0].context, result.embeddings[1].context)


def test_reachable_norms_are_respected():
    limit = toy.context(0).norm(dim=-1).max()
    free = run(replace(QUICK, steps=200, lr=0.3, lr_late=0.3))
    assert free.embeddings[0].context.norm(dim=-1).max() > limit
    bound = run(replace(QUICK, steps=200, lr=0.3, lr_late=0.3, reachable=True))
    assert bound.embeddings[0].context.norm(dim=-1).max() <= limit * 1.0001


def test_project_scales_long_tokens_and_leaves_short_ones():
    context = torch.tensor([[[3.0, 4.0], [0.3, 0.4]]])
    project(context, 1.0)
    assert torch.allclose(context, torch.tensor([[[0.6, 0.8], [0.3, 0.4]]]))


def test_starting_from_the_anchor_repeats_its_tokens():
    config = replace(QUICK, steps=1, lr=1e-12, lr_late=1e-12, length=5, init="anchor")
    context = run(config).embeddings[0].context
    anchor = toy.context(0)[0]
    assert torch.allclose(context, torch.cat([anchor, anchor[:2]]), atol=1e-6)


def test_every_step_is_reported():
    seen: list[StepReport] = []
    run(replace(QUICK, steps=5), report=seen.append)
    assert [(r.stage, r.step, r.steps) for r in seen] == [("mine", i, 5) for i in range(1, 6)]


def test_a_pool_smaller_than_k_is_refused():
    with pytest.raises(DarkMinerError, match="holds 8 pictures and mining needs 9"):
        run(replace(QUICK, k=9, batch=2))


def test_a_pool_of_other_latents_is_refused():
    with pytest.raises(DarkMinerError, match="3 channels"):
        mine(toy.model(), toy.pool(channels=3), toy.context(0), QUICK, seed=0, round_=1)


def test_a_loss_that_is_not_finite_names_stage_round_and_step():
    model = toy.model()
    calls = []

    def broken(x, timestep, context):
        calls.append(1)
        answer = model.network(x, timestep, context)
        return answer * float("nan") if len(calls) == 3 else answer

    with pytest.raises(DivergedError, match="mine stage of round 2 diverged at step 3"):
        run(model=replace(model, denoise=broken), round_=2)


def test_the_losses_of_mined_tokens_are_kept_beside_the_contexts():
    config = replace(QUICK, steps=60, tokens=2, token_words=0, token_lr=0.05)
    result = run(config, text=TextSpace(Text(), "a * drawing", ("cat", "dog")))
    assert len(result.losses) == len(result.token_losses) == 60
    assert sum(result.token_losses[-20:]) < sum(result.token_losses[:20])
    assert result.losses == run(replace(QUICK, steps=60)).losses
    assert run().token_losses == []
