"""The vocabulary bank: contexts from the model's own vocabulary whose pictures must not change.

Nobody has to name what shall be kept. Prompts are drawn from the tokenizer's words, and those that
show the concept are dropped by the image encoder; :mod:`~.retain` says how the rest is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..errors import DarkMinerError
from ..finite import finite_features, in_stage
from ..model.interface import DiffusionModel, ImageEncoder
from ..model.sampling import decode_all, sample_each, seeded_noise
from ..rng import generator
from ..settings import Settings, setting
from ..types import ImagePool, Report, RetainSet, StepReport, silent
from .blank import require_direction

_POOL_IMAGES = 64


@dataclass(frozen=True)
class BankConfig(Settings):
    """The vocabulary bank; the paper has none."""

    size: int = setting(
        0, "prompts drawn from the vocabulary, before clearing; 0: no vocabulary bank", low=0
    )
    images: int = setting(1, "pictures the original model makes of each prompt", low=1)
    quantile: float = setting(
        0.05,
        "a prompt is dropped when its score against the pool is above this quantile of the pool's "
        "own scores",
        low=0,
        high=1,
    )


def vocabulary_prompts(
    words: Sequence[str], templates: Sequence[str], size: int, *, seed: int
) -> list[str]:
    """``size`` different short prompts (or as many as the words give) from whole words.

    Every word appears before any appears twice; templates are drawn evenly.

    Args:
        templates: prompt patterns; ``{w}`` and ``{v}`` are two words of the vocabulary.

    Raises:
        DarkMinerError: if there is no word to draw from.
    """
    if not words:
        raise DarkMinerError(
            "The vocabulary bank has no words left: exclude fewer words, or set its size to 0."
        )
    gen = generator(seed, 0, "bank.prompts")
    words = list(words)
    prompts: dict[str, None] = {}
    tries = 0
    while len(prompts) < size and tries < 20 * size:
        for i in torch.randperm(len(words), generator=gen).tolist():
            which = int(torch.randint(len(templates), (), generator=gen))
            other = words[int(torch.randint(len(words), (), generator=gen))]
            prompts.setdefault(templates[which].replace("{w}", words[i]).replace("{v}", other))
            tries += 1
    return list(prompts)[:size]


@in_stage("bank")
def build_bank(
    model: DiffusionModel,
    encode: ImageEncoder,
    prompts: Sequence[str],
    contexts: Sequence[Tensor],
    pool: ImagePool,
    config: BankConfig,
    *,
    seed: int,
    always: int = 0,
    report: Report = silent,
) -> RetainSet:
    """Make each prompt's pictures with the original model and drop what shows the concept.

    A prompt's score is the mean cosine between its picture's feature and the pool's features, both
    taken against the bank's mean feature; it is dropped above ``config.quantile`` of the scores
    that pool images get against each other.

    Args:
        contexts: one ``[L_i, D]`` per prompt.
        always: how many of the first prompts are kept whatever they score (anchor, empty prompt).
    """
    encode = finite_features(encode)
    n, total = config.images, len(prompts) * config.images
    noise = seeded_noise(model, total, generator(seed, 0, "bank.noise"))
    latents, features = [], []
    for start in range(0, total, model.batch):
        stop = min(total, start + model.batch)
        made = sample_each(model, [contexts[i // n] for i in range(start, stop)], noise[start:stop])
        shown = decode_all(model, made)
        latents.append(made)
        features.append(encode(shown))
        report(StepReport("bank", 0, stop, total, images=shown[:4]))
    feature = torch.cat(features).view(len(prompts), n, -1)
    concept = encode(pool.first(_POOL_IMAGES))
    require_direction(concept, feature)
    keep = ~shows_concept(feature, concept, config)
    keep[:always] = True
    made = torch.cat(latents).view(len(prompts), n, *model.latent_shape)
    kept = [i for i, k in enumerate(keep.tolist()) if k]
    return RetainSet(
        tuple(contexts[i].detach().float().cpu().clone() for i in kept), made[keep].clone(),
        tuple(prompts[i] for i in kept),
    )  # fmt: skip


def shows_concept(bank: Tensor, pool: Tensor, config: BankConfig) -> Tensor:
    """Which prompts' pictures point to the concept, ``[N]`` bool.

    Args:
        bank: features ``[N, n, F]``; pool: features ``[P, F]``.
    """
    mean = bank.flatten(0, 1).mean(0)
    wanted = normalize(pool - mean, dim=-1)
    own = wanted @ wanted.T
    p = len(own)
    others = (own.sum(1) - own.diagonal()) / max(1, p - 1)
    limit = torch.quantile(others, config.quantile)
    scores = (normalize(bank - mean, dim=-1) @ wanted.T).mean(-1).amax(-1)
    return scores > limit
