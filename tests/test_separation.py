"""Table 12: scores of pictures with the concept and without it, each by hand."""

import itertools

import pytest
import torch
from dark_miner.darkminer.method.separation import against_means, pair_scores, separation
from dark_miner.darkminer.method.verify import best_cut, delta_score


def features(count, shift, seed):
    gen = torch.Generator().manual_seed(seed)
    return torch.randn(count, 5, generator=gen) + shift * torch.eye(5)[0]


def plain_cut(positive, negative):
    """Every score against every other one."""
    auc = (positive[:, None] > negative[None]).double().mean()
    auc += 0.5 * (positive[:, None] == negative[None]).double().mean()
    values = torch.cat([positive, negative]).sort().values
    cuts = (values[1:] + values[:-1]) / 2
    gain = (positive[None] > cuts[:, None]).float().mean(1)
    gain = gain - (negative[None] > cuts[:, None]).float().mean(1)
    return float(cuts[gain.argmax()]), float(auc)


@pytest.mark.parametrize("seed", range(4))
def test_the_best_cut_is_that_of_comparing_all_with_all(seed):
    gen = torch.Generator().manual_seed(seed)
    with_it, without = (torch.randn(n, generator=gen).round(decimals=1) for n in (37, 53))
    found, wanted = best_cut(with_it + 0.5, without), plain_cut(with_it + 0.5, without)
    assert found[0] == wanted[0] and found[1] == pytest.approx(wanted[1], abs=1e-12)


def test_every_pair_is_scored_once_and_none_against_itself():
    concept, plain = features(3, 4.0, 0), features(4, 0.0, 1)
    found = pair_scores(concept, plain, concept, same=True)
    by_hand = [
        delta_score(concept[i : i + 1], plain[j : j + 1], concept[k : k + 1][None])
        for i, j, k in itertools.product(range(3), range(4), range(3))
        if i != k
    ]
    assert torch.allclose(found, torch.cat(by_hand), atol=1e-6)
    without = pair_scores(plain, plain, concept, same=False)
    by_hand = [
        delta_score(plain[i : i + 1], plain[j : j + 1], concept[k : k + 1][None])
        for i, j, k in itertools.product(range(4), range(4), range(3))
        if i != j
    ]
    assert torch.allclose(without, torch.cat(by_hand), atol=1e-6)


def test_what_is_apart_is_told_apart_and_what_is_not_is_not():
    plain = features(12, 0.0, 1)
    far, near = features(12, 20.0, 2), features(12, 0.0, 3)
    assert separation(far, plain).auc > 0.99 and separation(far, plain, means=True).auc == 1.0
    assert 0.3 < separation(near, plain).auc < 0.7
    found = separation(far, plain, kept=features(6, 0.0, 4), threshold=0.5)
    assert found.caught > 0.95 and found.mistaken < 0.4 and found.kept < 0.4
    assert found.pairs == 2 * 12 * 12 * 11
    all_of_it = separation(far, plain, kept=features(6, 20.0, 5))
    assert all_of_it.kept > 0.9
    assert separation(far, plain).kept is None


def test_means_hold_each_half_against_the_other():
    plain, concept = features(4, 0.0, 1), features(4, 9.0, 2)
    with_it, without = against_means(plain, concept)
    direction = concept[:2].mean(0) - plain[:2].mean(0)
    moved = concept[2] - plain[:2].mean(0)
    assert float(with_it[0]) == pytest.approx(
        float(torch.cosine_similarity(moved, direction, dim=0)), abs=1e-5
    )
    assert len(with_it) == len(without) == 4
