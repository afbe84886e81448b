"""The keep bank: contexts from the model's own vocabulary whose pictures must not change.

Nobody has to name what shall be kept. Prompts are drawn from the tokenizer's words, those that show
the concept are dropped by the image encoder, and training draws from the rest in proportion to how
far each has drifted, so it keeps what the erasure hurts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..config import BankConfig
from ..errors import DarkMinerError
from ..finite import finite_features, in_stage
from ..model.adapter import Adapters
from ..model.interface import DiffusionModel, ImageEncoder
from ..model.sampling import decode_all, predict_each, sample_each, seeded_noise
from ..rng import generator
from ..types import ImagePool, KeepBank, Report, StepReport, silent
from .blank import require_direction
from .losses import squared_error

_POOL_IMAGES = 64


def vocabulary_prompts(words: Sequence[str], config: BankConfig, *, seed: int) -> list[str]:
    """``config.size`` different short prompts (or as many as the words give) from whole words.

    Every word appears before any appears twice; templates are drawn evenly.

    Raises:
        DarkMinerError: if there is no word to draw from.
    """
    if not words:
        raise DarkMinerError(
            "The vocabulary bank has no words left: exclude fewer words, or set its size to 0."
        )
    gen = generator(seed, 0, "bank.prompts")
    words, templates = list(words), list(config.templates)
    prompts: dict[str, None] = {}
    tries = 0
    while len(prompts) < config.size and tries < 20 * config.size:
        for i in torch.randperm(len(words), generator=gen).tolist():
            which = int(torch.randint(len(templates), (), generator=gen))
            other = words[int(torch.randint(len(words), (), generator=gen))]
            prompts.setdefault(templates[which].replace("{w}", words[i]).replace("{v}", other))
            tries += 1
    return list(prompts)[: config.size]


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
) -> KeepBank:
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
    return KeepBank(
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


class DriftSampler:
    """Draws bank entries: a uniform share, the rest in proportion to measured drift.

    Drift of an entry is ``|e - e0|^2`` on one fixed picture, level and noise of its own.

    Args:
        uniform: share of uniform draws, 0 to 1.
    """

    def __init__(
        self,
        model: DiffusionModel,
        adapters: Adapters,
        bank: KeepBank,
        uniform: float,
        gen: torch.Generator,
    ):
        self._model, self._bank, self._uniform = model, bank, uniform
        self._weights = torch.ones(len(bank))
        if self._uniform < 1.0:
            x = bank.latents[:, 0]
            noise = torch.randn(x.shape, generator=gen)
            index = model.schedule.draw(len(x), gen)
            self._noisy = model.schedule.add_noise(x, noise, index)
            self._timestep = model.schedule.timesteps[index]
            with adapters.off():
                self._teacher = self._predict()

    def _predict(self) -> Tensor:
        return predict_each(self._model, self._noisy, self._timestep, self._bank.contexts)

    def refresh(self) -> None:
        """Measure the drift anew."""
        if self._uniform >= 1.0:
            return
        drift = squared_error(self._predict(), self._teacher)
        share = (
            drift / drift.sum() if float(drift.sum()) > 0 else torch.ones(len(drift)) / len(drift)
        )
        self._weights = self._uniform / len(share) + (1.0 - self._uniform) * share

    def draw(self, count: int, gen: torch.Generator) -> Tensor:
        """``count`` different entries' indices, int64."""
        return torch.multinomial(self._weights, count, replacement=False, generator=gen)
