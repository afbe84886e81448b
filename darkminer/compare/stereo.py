"""STEREO: A Two-Stage Framework for Adversarially Robust Concept Erasing from Text-to-Image
Diffusion Models (Srivatsan et al., CVPR 2025, arXiv 2408.16807).

Search thoroughly enough (STE) takes turns, K times: the concept, or the token found last, is erased
by ESD's objective (:mod:`.esd`), and a new token p_i that still draws it is learnt on the erased
model by textual inversion. Robustly erase once (REO) begins again at the original model and
composes, after Liu et al. (2022), what it says under the empty prompt, an anchor prompt a and all
of P = {c, p_1, ..., p_K}; written here as the authors' public code computes it:

    L = |e(x_t, p) - [e0(x_t) + g (e0(x_t, a) - e0(x_t)) - h mean_i (e0(x_t, p_i) - e0(x_t))]|^2

with p drawn from P, and x_t drawn by the student itself under p up to a random level. An anchor
prompt names the concept beside something else: what is taken away of it leaves that.

What differs from the authors' code: a LoRA in place of the weights, at one rate for both stages;
STE's teacher is always the original model, theirs the model as the turn before left it; answers are
composed as they are (the projection that theirs pass through changes nothing at the values that
they set); their scale s gives g = s - 1 and h = s + 1, which are settings of their own here, and
their negative guidance of 2 in STE is an eta of 0; anchor prompts are the pool's template with
words of the vocabulary rather than a language model's; p, a and the wording are drawn each step
rather than dealt out evenly; Adam rather than AdamW, and several pictures in a search's step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..attacks.common import AttackConfig, optimise
from ..finite import TEXT_ENCODER, finite
from ..method.engine import Targets, ask_teacher
from ..method.trainer import Trainer
from ..model.adapter import Adapters
from ..model.interface import DiffusionModel, TextEncoder
from ..model.merged import merged
from ..rng import generator
from ..settings import setting
from ..types import Report, StepReport, silent
from .drawing import half_drawn
from .esd import ESDConfig, esd

STAGE = "stereo"
SEARCH = "search"


@dataclass(frozen=True)
class StereoConfig(ESDConfig):
    """Settings of STEREO; ``steps`` are of each erasing, in both stages."""

    rounds: int = setting(2, "tokens searched for, K", low=1)
    search_steps: int = setting(3000, "Adam steps of each search", low=1)
    search_lr: float = setting(5e-3, "learning rate of each search", above=0)
    search_batch: int = setting(8, "pictures of a search's step", low=1)
    toward: float = setting(1.0, "how much of the anchor prompt is kept (g)", low=0)
    away: float = setting(3.0, "how far away from the concept and the tokens (h)", low=0)


@dataclass(frozen=True)
class Spoken:
    """What a concept is called, and how a token can be put in its place.

    Attributes:
        text: the text encoder.
        templates: prompts with ``*`` in the concept's place; a search speaks by the last.
        concept: contexts ``[L, D]`` of the concept in each.
        anchors: contexts ``[L, D]`` of prompts with something beside the concept.
        empty: the empty prompt's ``[L0, D]``.
    """

    text: TextEncoder
    templates: Sequence[str]
    concept: Sequence[Tensor]
    anchors: Sequence[Tensor]
    empty: Tensor

    @torch.no_grad()
    def of_token(self, vector: Tensor) -> list[Tensor]:
        """Contexts ``[L, D]`` of a token ``[1, Din]`` in each template."""
        said = [self.text([template], vector)[0].float().cpu() for template in self.templates]
        return [finite(context, TEXT_ENCODER, "contexts") for context in said]


def stereo(
    model: DiffusionModel,
    adapters: Adapters,
    spoken: Spoken,
    latents: Tensor,
    config: StereoConfig,
    *,
    seed: int,
    word: str = "picture",
    report: Report = silent,
) -> tuple[list[float], list[float]]:
    """Both stages; the adapters hold the second one's erasure.

    Args:
        latents: the concept's own pictures ``[n, C, h, w]``, which the tokens are learnt from.
        word: what a search starts from, one token.

    Returns:
        the loss of each erasing step of stage 1, and of each step of stage 2.

    Raises:
        DarkMinerError: if the text encoder does not know ``word`` as one token.
        DivergedError: if a loss is not finite or the LoRA has grown beyond its limit.
    """
    start, token = adapters.state(), spoken.text.embedding(word)[None]
    found, searched = [list(spoken.concept)], []
    for round_ in range(1, config.rounds + 1):
        searched += esd(
            model, adapters, found[-1], spoken.empty, config, seed=seed, stage=STAGE,
            round_=round_, report=report,
        )  # fmt: skip
        vector = search(
            model, spoken, latents, token, config, seed=seed, round_=round_, report=report
        )
        found.append(spoken.of_token(vector))
    adapters.load(start)
    losses = erase_once(model, adapters, spoken, found, config, seed=seed, report=report)
    return searched, losses


def search(
    model: DiffusionModel,
    spoken: Spoken,
    latents: Tensor,
    start: Tensor,
    config: StereoConfig,
    *,
    seed: int,
    round_: int,
    report: Report = silent,
) -> Tensor:
    """The token ``[1, Din]``, begun at ``start``, with which the model draws the concept best.

    Raises:
        DivergedError: if a loss is not finite.
    """
    vector, template = start.clone(), spoken.templates[-1]

    def context(token: Tensor, which: Tensor) -> Tensor:
        return spoken.text([template] * len(which), token).to(model.device)

    def told(step: StepReport) -> None:
        report(replace(step, stage=STAGE, round=round_, part=SEARCH))

    with merged(model.network):
        optimise(
            model, latents, vector, context,
            AttackConfig(config.search_steps, config.search_lr, config.search_batch),
            generator(seed, round_, "compare.stereo.search"), stage=f"{STAGE} {SEARCH}",
            report=told,
        )  # fmt: skip
    return vector.detach()


def erase_once(
    model: DiffusionModel,
    adapters: Adapters,
    spoken: Spoken,
    found: Sequence[Sequence[Tensor]],
    config: StereoConfig,
    *,
    seed: int,
    report: Report = silent,
) -> list[float]:
    """Stage 2; the loss of each step.

    Args:
        found: P: contexts ``[L, D]`` of the concept and of each token, in every template.

    Raises:
        DivergedError: if a loss is not finite or the LoRA has grown beyond its limit.
    """
    gen = generator(seed, 0, "compare.stereo")
    trainer = Trainer(model, adapters, config, stage=STAGE, round_=0, report=report)

    def one_of(count: int) -> int:
        return int(torch.randint(count, (), generator=gen))

    for _ in range(config.steps):
        who, how = one_of(len(found)), one_of(len(spoken.templates))
        anchor = spoken.anchors[one_of(len(spoken.anchors))]
        said = [wordings[how] for wordings in found]
        noisy, index = half_drawn(
            model, said[who], spoken.empty, config.batch, gen, steps=config.draw_steps,
            guidance=config.guidance,
        )  # fmt: skip
        asked = [spoken.empty, anchor, *said]
        answer = composed(_answers(model, adapters, noisy, index, asked), config)
        weight = torch.full((len(noisy),), 1.0 / len(noisy))
        times = model.schedule.timesteps[index]
        rows = Targets(noisy, times, [said[who]] * len(noisy), answer, weight)
        trainer.step(lambda rows=rows: rows)
    return trainer.losses()


def composed(answers: Tensor, config: StereoConfig) -> Tensor:
    """What the student should say ``[B, C, h, w]``, see the module.

    Args:
        answers: ``[2 + n, B, C, h, w]``: under the empty prompt, the anchor prompt, and all of P.
    """
    empty, anchor, found = answers[0], answers[1], answers[2:]
    return empty + config.toward * (anchor - empty) - config.away * (found - empty).mean(0)


def _answers(
    model: DiffusionModel, adapters: Adapters, noisy: Tensor, index: Tensor,
    contexts: Sequence[Tensor],
) -> Tensor:  # fmt: skip
    """The original model's, ``[n, B, C, h, w]`` under n contexts, of pictures ``[B, C, h, w]``."""
    many, each = len(contexts), len(noisy)
    times = model.schedule.timesteps[index].repeat(many)
    asked = [context for context in contexts for _ in range(each)]
    answers = ask_teacher(model, adapters, noisy.repeat(many, 1, 1, 1), times, asked)
    return answers.unflatten(0, (many, each))
