"""Verification: does an embedding still produce the concept? (section 3.2.2, equation 6)"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..finite import finite_features, in_stage
from ..model.adapter import Adapters
from ..model.interface import DiffusionModel, ImageEncoder
from ..model.sampling import Made, draw_images, seeded_noise, unwatched
from ..rng import generator
from ..settings import Settings, setting
from ..types import ImagePool, MinedEmbedding, Report, Tally, Verdict, silent
from .blank import require_direction, require_prompt_matters

Against = Literal["pairs", "means"]
AGAINST: tuple[Against, ...] = get_args(Against)

_CALIBRATION_IMAGES = 16
CALIBRATION_PICTURES = 2 * _CALIBRATION_IMAGES
"""Pictures of the reference prompt that :func:`calibrate` makes."""
_MEAN_IMAGES = 64  # pool images whose mean feature stands for the concept


@dataclass(frozen=True)
class VerifyConfig(Settings):
    """Verification (equation 6)."""

    threshold: float | Literal["auto"] = setting(
        0.2, "go on while a score is above it (tau); auto calibrates it from the pool and pictures "
        "of the reference prompt", low=-1, high=1,
    )  # fmt: skip
    draws: int = setting(1, "noise draws averaged per embedding", low=1)
    k: int = setting(
        3, "pool images to compare with, where an embedding does not say which it was mined on",
        low=1,
    )  # fmt: skip
    against: Against = setting(
        "pairs", "what a picture is held against: pairs, one reference picture of the same noise "
        "and k pool images; means, the mean feature of several reference pictures and that of the "
        "pool, which leaves out what a single picture shows besides", choices=AGAINST,
    )  # fmt: skip


def delta_score(target: Tensor, reference: Tensor, concept: Tensor) -> Tensor:
    """Equation 6: mean cosine of ``E(x_c) - E(x_r)`` with ``E(x_e) - E(x_r)``.

    Args:
        target: features of x_c, ``[n, F]``.
        reference: features of x_r, ``[n, F]``.
        concept: features of the k pool images, ``[n, k, F]`` or ``[k, F]``.

    Returns:
        s(c) of each target, ``[n]``, between -1 and 1.
    """
    made = normalize(target - reference, dim=-1)[:, None]
    wanted = normalize(concept - reference[:, None], dim=-1)
    return (made * wanted).sum(-1).mean(-1)


def mean_score(target: Tensor, reference: Tensor, concept: Tensor) -> Tensor:
    """Equation 6 against means: cosine of ``E(x_c) - mean E(x_r)`` with the concept's direction.

    A single reference shows a subject of its own, and so does a single picture of the concept;
    what all have in common remains.

    Args:
        target: features ``[n, F]``; reference: ``[r, F]``; concept: ``[p, F]``.

    Returns:
        the score of each target, ``[n]``, between -1 and 1.
    """
    origin = reference.mean(0).expand_as(target)
    return delta_score(target, origin, concept.mean(0).expand(len(target), 1, -1))


@dataclass(frozen=True)
class Gauge:
    """What verdicts are measured by: made once, the same in every round of a run.

    Attributes:
        threshold: tau, a number.
        concept: features of the pool's images whose mean stands for the concept, ``[p, F]``; None
            where scores are against pairs.
    """

    threshold: float
    concept: Tensor | None = None


def make_gauge(
    model: DiffusionModel,
    encode: ImageEncoder,
    reference: Tensor,
    pool: ImagePool,
    config: VerifyConfig,
    *,
    seed: int,
    round_: int = 0,
    adapters: Adapters | None = None,
    report: Report = silent,
) -> Gauge:
    """The gauge of a run's verdicts; arguments as of :func:`verify`.

    Args:
        round_: the round that needs it first, for reports: it draws nothing of its own.
    """
    encode = finite_features(encode)
    threshold = config.threshold
    if threshold == "auto":
        off = adapters.off() if adapters is not None else nullcontext()
        threshold, _ = calibrate(
            model, encode, reference, pool, config, seed=seed, off=off,
            made=Tally(report, "verify", round_, CALIBRATION_PICTURES, "calibration"),
        )  # fmt: skip
    means = config.against == "means"
    return Gauge(threshold, encode(pool.first(_MEAN_IMAGES)) if means else None)


@in_stage("verify")
def verify(
    model: DiffusionModel,
    encode: ImageEncoder,
    embeddings: Sequence[MinedEmbedding],
    reference: Tensor,
    pool: ImagePool,
    config: VerifyConfig,
    *,
    seed: int,
    round_: int,
    adapters: Adapters | None = None,
    gauge: Gauge | None = None,
    report: Report = silent,
) -> Verdict:
    """Score every embedding on pictures by the model as it stands.

    x_c and x_r start from the same noise; the score is averaged over ``config.draws`` draws.

    Args:
        encode: images ``[B, H, W, 3]`` -> features ``[B, F]``.
        reference: context of the reference prompt ("a photo"), ``[1, L, D]``.
        adapters: the model's adapters; switched off while ``threshold = "auto"`` calibrates.
        gauge: the run's; None makes it here.

    Raises:
        NotFiniteError: if latents, pictures or features are not finite; names what gave them.
        DarkMinerError: if pictures do not depend on the prompt, or features on the picture.
    """
    encode = finite_features(encode)
    gen = generator(seed, round_, "verify")
    m, draws = len(embeddings), config.draws
    noise = seeded_noise(model, reference_pictures(m * draws, config), gen)
    contexts = [e.context for e in embeddings for _ in range(draws)]
    tally = Tally(report, "verify", round_, len(noise) + m * draws)
    x_r = draw_images(model, [reference[0]] * len(noise), noise, tally)
    tally(0, x_r[:4])
    x_c = draw_images(model, contexts, noise[: m * draws], tally)
    tally(0, x_c[:4])
    if not all(torch.equal(c, reference[0].to(c)) for c in contexts):
        require_prompt_matters(x_c, x_r[: m * draws])
    gauge = gauge or make_gauge(
        model, encode, reference, pool, config, seed=seed, round_=round_, adapters=adapters,
        report=report,
    )  # fmt: skip
    made, origin = encode(x_c), encode(x_r)
    if gauge.concept is not None:
        wanted = gauge.concept
        scores = mean_score(made, origin, wanted)
    else:
        wanted = torch.stack(
            [encode(pool.floats(_indices(e, pool, config, gen))) for e in embeddings]
        ).repeat_interleave(draws, 0)
        scores = delta_score(made, origin, wanted)
    require_direction(wanted, torch.cat([origin, made]))
    values = tuple(scores.view(m, draws).mean(1).tolist())
    shown = x_c[::draws].clone(), x_r[: m * draws : draws].clone()
    verdict = Verdict(values, gauge.threshold, max(values) > gauge.threshold, *shown)
    tally(0, verdict=verdict)
    return verdict


@in_stage("calibrate")
def calibrate(
    model: DiffusionModel,
    encode: ImageEncoder,
    reference: Tensor,
    pool: ImagePool,
    config: VerifyConfig,
    *,
    seed: int,
    off: AbstractContextManager[None] | None = None,
    made: Made = unwatched,
) -> tuple[float, float]:
    """A threshold for this image encoder, from pictures that surely have or lack the concept.

    Pool images stand for pictures with the concept, anchor pictures for those without; both are
    scored against other pool images (the recipe of the paper's table 12) or their mean.

    Args:
        made: told of the pictures that are made, :data:`CALIBRATION_PICTURES` in all.

    Returns:
        the cut that separates the two best (Youden's J; midway between the neighbours), and the
        area under the ROC curve.
    """
    encode = finite_features(encode)
    gen = generator(seed, 0, "calibrate")
    n = _CALIBRATION_IMAGES
    with off or nullcontext():
        noise = seeded_noise(model, 2 * n, gen)
        anchors = encode(draw_images(model, [reference[0]] * (2 * n), noise, made))
    order = torch.randperm(len(pool), generator=gen)
    concept = encode(pool.floats(order[: 2 * n].tolist()))
    require_direction(concept, anchors)
    half = max(1, min(n, len(concept) // 2))
    wanted = concept[half:] if len(concept) > half else concept
    if config.against == "means":
        with_it = mean_score(concept[:half], anchors[:n], wanted)
        without = mean_score(anchors[n:], anchors[:n], wanted)
    else:
        with_it = delta_score(concept[:half], anchors[:half], wanted)
        without = delta_score(anchors[n:], anchors[:n], wanted)
    return best_cut(with_it, without)


def best_cut(positive: Tensor, negative: Tensor) -> tuple[float, float]:
    """Threshold with the largest true minus false positive rate, and the AUC.

    By sorting, so that a million scores of each kind are no more than their sort.
    """
    positive, negative = positive.sort().values, negative.sort().values
    below = torch.searchsorted(negative, positive).double().sum()
    not_above = torch.searchsorted(negative, positive, right=True).double().sum()
    auc = float(below + not_above) / (2 * len(positive) * len(negative))
    values = torch.cat([positive, negative]).sort().values
    cuts = (values[1:] + values[:-1]) / 2

    def share_above(scores: Tensor) -> Tensor:
        return (len(scores) - torch.searchsorted(scores, cuts, right=True)).float() / len(scores)

    gain = share_above(positive) - share_above(negative)
    return float(cuts[gain.argmax()]), auc


def reference_pictures(count: int, config: VerifyConfig) -> int:
    """How many reference pictures: one a target, and enough for a mean where one is taken."""
    return max(count, _CALIBRATION_IMAGES) if config.against == "means" else count


def _indices(
    embedding: MinedEmbedding, pool: ImagePool, config: VerifyConfig, gen: torch.Generator
) -> list[int]:
    """The k pool images that an embedding is held against (its own, or a seeded choice)."""
    if embedding.indices and max(embedding.indices) < len(pool):
        return list(embedding.indices)
    return torch.randperm(len(pool), generator=gen)[: config.k].tolist()
