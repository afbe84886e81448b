"""A verdict by attack: how much of the concept a short attack gets out of the erased model.

The method's own verification asks what its own miner found. Here the two attacks that judge an
erasure are run for a few steps instead, and the verdict is the share of their pictures in which the
image encoder sees the concept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import DarkMinerError
from ..finite import TEXT_ENCODER, finite, finite_features, in_stage
from ..judge.evaluate import Proportion
from ..method.blank import require_draws
from ..method.image_pool import check_pool
from ..method.text_start import with_word
from ..method.verify import CALIBRATION_PICTURES, VerifyConfig, calibrate, mean_score
from ..model.adapter import Adapters
from ..model.interface import DiffusionModel, ImageEncoder, TextSpace
from ..model.sampling import Made, draw_images, seeded_noise
from ..rng import generator
from ..settings import Settings, setting
from ..types import ImagePool, Report, Tally, silent
from .cce import invert
from .common import AttackConfig
from .context import optimise_context

_AGAINST_MEANS = VerifyConfig(threshold="auto", against="means")
REFERENCES = 16
ATTACK = "attack"
"""The stage that reports are of."""


@dataclass(frozen=True)
class AttackVerdictConfig(Settings):
    """Settings of a verdict by attack."""

    steps: int = setting(200, "Adam steps of each attack", low=1)
    lr: float = setting(0.05, "their learning rate", above=0)
    vectors: tuple[int, ...] = setting(
        (1, 4), "lengths of the contexts that are attacked directly, in tokens", low=1
    )
    pictures: int = setting(32, "pictures that each attack is judged by", low=1)
    limit: float = setting(
        0.15, "the concept counts as still there when an attack's share is above it", low=0, high=1
    )

    def attacks(self, *, token: bool) -> list[str]:
        """Their names, in the order in which they run; ``token``: whether there is text for one."""
        return [*(["token"] if token else []), *(f"context {n}" for n in self.vectors)]


@dataclass(frozen=True)
class AttackVerdict:
    """What the attacks got.

    Attributes:
        success: attack -> in how many of its pictures the concept is seen.
        pictures: ``[n, H, W, 3]`` in 0..1, all attacks' one after the other.
        threshold: score above which a picture shows the concept, calibrated on the original model.
        separation: area under the ROC curve of that score there; near .5 the verdict means nothing.
        limit: the share up to which the concept counts as gone.
    """

    success: dict[str, Proportion]
    pictures: Tensor
    threshold: float
    separation: float
    limit: float

    @property
    def worst(self) -> float:
        """The most successful attack's share."""
        return max(p.value for p in self.success.values())

    @property
    def verified(self) -> bool:
        """Whether the concept is still there."""
        return self.worst > self.limit


@in_stage("attack")
def attack_verdict(
    model: DiffusionModel,
    encode: ImageEncoder,
    pool: ImagePool,
    anchor: Tensor,
    config: AttackVerdictConfig,
    *,
    seed: int,
    adapters: Adapters,
    text: TextSpace | None = None,
    report: Report = silent,
) -> AttackVerdict:
    """Attack the model as it stands and judge the pictures.

    Args:
        anchor: context of the reference prompt, ``[1, L, D]``; contexts start from its tokens and
            keep within the largest norm that it or a prompt of ``text`` has.
        adapters: the model's; off while the threshold is calibrated.
        text: where a token can be learnt (textual inversion); None leaves that attack out.

    Raises:
        DarkMinerError: if the pool does not fit, there is no attack to run, or the model draws
            nothing.
        DivergedError: if an attack's loss is not finite.
    """
    encode = finite_features(encode)
    check_pool(pool, 2, model)
    if text is None and not config.vectors:
        raise DarkMinerError("A verdict by attack needs a CLIP, or context vectors to learn.")
    require_draws(model, anchor[0], seeded_noise(model, 1, generator(seed, 0, "attack.draws")))
    threshold, separation = calibrate(
        model, encode, anchor, pool, _AGAINST_MEANS, seed=seed, off=adapters.off(),
        made=Tally(report, ATTACK, 0, CALIBRATION_PICTURES, "calibration"),
    )  # fmt: skip
    contexts = dict(_attacks(model, pool, anchor, config, seed, text, report))
    gen = generator(seed, 0, "attack.verdict")
    pictures_in_all = REFERENCES + sum(map(len, contexts.values()))
    tally = Tally(report, ATTACK, 0, pictures_in_all, "pictures")
    with adapters.off():
        references = _pictures(model, [anchor[0]] * REFERENCES, gen, tally)
    origin, concept = encode(references), encode(pool.first(64))
    success, made = {}, []
    for name, asked in contexts.items():
        pictures = _pictures(model, asked, gen, tally)
        seen = mean_score(encode(pictures), origin, concept) > threshold
        success[name] = Proportion(int(seen.sum()), len(pictures))
        made.append(pictures)
        tally(0, pictures[:4])
    return AttackVerdict(success, torch.cat(made), threshold, separation, config.limit)


def _attacks(
    model: DiffusionModel,
    pool: ImagePool,
    anchor: Tensor,
    config: AttackVerdictConfig,
    seed: int,
    text: TextSpace | None,
    report: Report,
) -> Sequence[tuple[str, list[Tensor]]]:
    """Each attack's contexts ``[L, D]``, one per picture."""
    attack = AttackConfig(config.steps, config.lr)
    found: list[tuple[str, list[Tensor]]] = []
    norm = float(anchor.norm(dim=-1).max())
    if text is not None:
        prompts = [text.template] * len(pool)
        vector, _ = invert(
            model, text.encoder, pool.latents, prompts, attack, seed=seed,
            report=_as(report, "token"),
        )  # fmt: skip
        gen = generator(seed, 0, "attack.words")
        order = torch.randperm(max(1, len(text.words)), generator=gen).tolist()
        words = [text.words[order[i % len(order)]] for i in range(config.pictures) if text.words]
        asked = [with_word(text.template, w) for w in words] or [text.template] * config.pictures
        with torch.no_grad():
            said = list(finite(text.encoder(asked, vector), TEXT_ENCODER, "contexts"))
        norm = max(norm, float(torch.stack(said).norm(dim=-1).max()))
        found.append(("token", said))
    for vectors in config.vectors:
        context, _ = optimise_context(
            model, pool.latents, vectors, anchor, attack, seed=seed, max_norm=norm,
            report=_as(report, f"context {vectors}"),
        )  # fmt: skip
        found.append((f"context {vectors}", [context[0]] * config.pictures))
    return found


def _as(report: Report, part: str) -> Report:
    """A report of one of the attacks as a part of the whole."""
    return lambda r: report(replace(r, stage=ATTACK, part=part))


def _pictures(
    model: DiffusionModel, contexts: Sequence[Tensor], gen: torch.Generator, made: Made
) -> Tensor:
    return draw_images(model, contexts, seeded_noise(model, len(contexts), gen), made)
