from dataclasses import replace

import pytest
import torch
from dark_miner.darkminer.errors import DarkMinerError, DivergedError
from dark_miner.darkminer.method.verify import (
    VerifyConfig,
    best_cut,
    calibrate,
    delta_score,
    mean_score,
    verify,
)
from dark_miner.darkminer.types import MinedEmbedding

from . import toy


def run(config=VerifyConfig(), seed=0, model=None, count=2):  # noqa: B008
    embeddings = [MinedEmbedding(toy.context(5 + i)[0], 1, (i, i + 1)) for i in range(count)]
    return verify(
        model or toy.model(), toy.encode, embeddings, toy.context(0), toy.pool(), config,
        seed=seed, round_=1,
    )  # fmt: skip


def test_delta_score_by_hand():
    """Equation 6: one picture straight towards the concept, one at right angles to half of it."""
    reference = torch.tensor([[1.0, 1.0], [1.0, 1.0]])
    target = torch.tensor([[4.0, 1.0], [1.0, 0.0]])
    concept = torch.tensor([[[2.0, 1.0], [1.0, 3.0]], [[2.0, 1.0], [1.0, -3.0]]])
    assert torch.allclose(delta_score(target, reference, concept), torch.tensor([0.5, 0.5]))


def test_mean_score_by_hand():
    """The concept lies one to the right of the mean reference, whatever single pictures show."""
    reference = torch.tensor([[0.0, 5.0], [0.0, -5.0]])
    concept = torch.tensor([[1.0, 7.0], [1.0, -7.0]])
    target = torch.tensor([[3.0, 0.0], [-1.0, 0.0], [1.0, 1.0]])
    wanted = torch.tensor([1.0, -1.0, 0.5**0.5])
    assert torch.allclose(mean_score(target, reference, concept), wanted)


def test_against_means_asks_for_more_references_and_scores_otherwise():
    means = run(VerifyConfig(against="means"))
    assert means.scores != run().scores
    assert means.reference.shape == means.target.shape
    auto = run(VerifyConfig("auto", against="means"))
    assert auto.threshold != run(VerifyConfig("auto")).threshold
    with pytest.raises(DarkMinerError, match='"pairs" or "means"'):
        VerifyConfig(against="mean")  # type: ignore[arg-type]


def test_scores_lie_between_bounds_and_the_verdict_follows_the_highest():
    verdict = run(VerifyConfig(threshold=-1.0))
    assert all(-1.0 <= s <= 1.0 for s in verdict.scores)
    assert verdict.verified and verdict.score == max(verdict.scores)
    assert not run(VerifyConfig(threshold=1.0)).verified
    assert verdict.target.shape == verdict.reference.shape == (2, toy.SIDE, toy.SIDE, 3)


def test_same_seed_same_scores_and_draws_average():
    assert run().scores == run().scores
    assert run(VerifyConfig(draws=3)).scores != run().scores


def test_target_and_reference_start_from_the_same_noise():
    """The embedding of the reference prompt itself moves nowhere."""
    embedding = MinedEmbedding(toy.context(0)[0], 1, (0, 1))
    verdict = verify(
        toy.model(), toy.encode, [embedding], toy.context(0), toy.pool(), VerifyConfig(),
        seed=0, round_=1,
    )  # fmt: skip
    assert torch.equal(verdict.target, verdict.reference)
    assert verdict.score == 0.0


def test_best_cut_by_hand():
    cut, auc = best_cut(torch.tensor([0.9, 0.7]), torch.tensor([0.1, 0.3]))
    assert cut == pytest.approx(0.5) and auc == 1.0
    _, chance = best_cut(torch.tensor([0.5, 0.5]), torch.tensor([0.5, 0.5]))
    assert chance == 0.5


def test_auto_calibrates_between_concept_and_anchor_pictures():
    cut, auc = calibrate(
        toy.model(), toy.encode, toy.context(0), toy.pool(64), VerifyConfig("auto"), seed=0
    )
    assert auc > 0.9
    assert run(VerifyConfig("auto")).threshold != VerifyConfig().threshold
    assert -1.0 < cut < 1.0


def test_pictures_that_are_not_finite_stop_the_run():
    model = toy.model()
    broken = replace(model, sample=lambda context, noise: noise * float("inf"))
    with pytest.raises(DivergedError, match="verify stage of round 1"):
        run(model=broken)
