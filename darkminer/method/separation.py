"""The paper's table 12: does the verification's score tell pictures with the concept from others?

Every picture without the concept is a reference, every one with it what is looked for (k = 1), and
every picture of either kind a target; none is held against itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .verify import best_cut, delta_score, mean_score


@dataclass(frozen=True)
class Separation:
    """How well the score tells two kinds of pictures apart.

    Attributes:
        auc: area under the ROC curve: how often a picture with the concept scores higher.
        cut: the threshold with the largest true minus false positive rate.
        pairs: scores that were compared.
        caught, mistaken: share of scores above a threshold of pictures with the concept, and of
            those without.
        kept: the same of pictures that must stay; None where there are none.
    """

    auc: float
    cut: float
    pairs: int
    caught: float
    mistaken: float
    kept: float | None = None


def separation(
    concept: Tensor,
    plain: Tensor,
    kept: Tensor | None = None,
    *,
    threshold: float | None = None,
    means: bool = False,
) -> Separation:
    """Scores of features of pictures with the concept ``[n, F]`` and of such without ``[m, F]``.

    Args:
        kept: of pictures of other things, which must stay.
        threshold: whose rates are told; None takes the best.
        means: against means instead of pairs (``VerifyConfig.against``).
    """
    if means:
        with_it, without = against_means(plain, concept)
        others = None if kept is None else mean_score(kept, plain, concept)
    else:
        with_it = pair_scores(concept, plain, concept, same=True)
        without = pair_scores(plain, plain, concept, same=False)
        others = None if kept is None else every_score(kept, plain, concept)
    cut, auc = best_cut(with_it, without)
    at = cut if threshold is None else threshold
    caught, mistaken = above(with_it, at), above(without, at)
    kept_above = None if others is None else above(others, at)
    return Separation(auc, cut, len(with_it) + len(without), caught, mistaken, kept_above)


def above(scores: Tensor, threshold: float) -> float:
    """Share of scores above a threshold."""
    return float((scores > threshold).double().mean())


def pair_scores(target: Tensor, reference: Tensor, concept: Tensor, same: bool) -> Tensor:
    """Equation 6 of every target, reference and concept picture: features ``[n, F]`` each.

    Args:
        same: targets are the concept pictures themselves, else the references; none is held
            against itself.
    """
    scores = []
    for i, picture in enumerate(target):
        wanted, others = concept, reference
        if same:
            wanted = torch.cat([concept[:i], concept[i + 1 :]])
        else:
            others = torch.cat([reference[:i], reference[i + 1 :]])
        scores.append(every_score(picture[None], others, wanted))
    return torch.cat(scores)


def every_score(target: Tensor, reference: Tensor, concept: Tensor) -> Tensor:
    """Equation 6 of all targets with all references and all concept pictures."""
    n, k = len(reference), len(concept)
    origin, wanted = reference.repeat_interleave(k, 0), concept.repeat(n, 1)[:, None]
    return torch.cat([delta_score(t.expand(n * k, -1), origin, wanted) for t in target])


def against_means(anchors: Tensor, pictures: Tensor) -> tuple[Tensor, Tensor]:
    """The score against means of concept and of anchor pictures, features ``[n, F]`` each.

    Each half is scored against the means of the other halves.
    """
    folds = list(zip(anchors.chunk(2), pictures.chunk(2), strict=True))
    with_it, without = [], []
    for (origin, concept), (other_anchors, others) in zip(folds, folds[::-1], strict=True):
        with_it.append(mean_score(others, origin, concept))
        without.append(mean_score(other_anchors, origin, concept))
    return torch.cat(with_it), torch.cat(without)
