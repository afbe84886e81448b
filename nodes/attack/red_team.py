"""RedTeam: attacks through text and latents, and how often each gets the concept."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from comfy_api.latest import io

from ...darkminer.attacks.catalogue import ATTACKS
from ...darkminer.attacks.examined import Examined, Protocol, versions
from ...darkminer.attacks.red_team import EFFORTS, WORDS, red_team, settings_of
from ...darkminer.attacks.red_team import RedTeam as Result
from ...darkminer.attacks.scene import Attempt
from ...darkminer.judge.user_prompts import UserPrompt
from ...darkminer.method.words import split_words
from ...darkminer.progress.attack_plans import red_team_plan
from ...darkminer.progress.pace import seconds_per_row
from ...darkminer.rng import generator
from ...darkminer.types import EmbeddingPool, ImagePool, MinedEmbedding, RoundRecord
from .. import inputs, sockets
from ..erase.erasing import pool_template, words_left
from ..erase.mined import as_conditioning
from ..erase.origin import digest
from ..erase.stages import check_latents
from ..erase.verify import encoder_inputs
from ..fields import named
from ..host.folders import file_stamp
from ..host.predict import has_frames
from ..host.run import Progress
from ..host.session import context_of, training_session
from ..watched import WatchesEncoder
from . import detectors
from .asked import NONE, asked_inputs, asked_prompts, check_guidance
from .scene import Given, effects_of, scene_of, text_prompts

NODE = "RedTeam"
_AT_FIRST = ("p4d-k", "udatk", "ringabell", "recall")
_LATER = ("cce",)  # their switches stand last: saved graphs keep values by place
_PAIRS = 16  # prompts with the concept and without it, from which its direction is taken

log = logging.getLogger(__name__)


def switches(names: Iterable[str]) -> list:
    """One switch for each of these attacks."""
    return [
        io.Boolean.Input(
            name.replace("-", "_"), default=name in _AT_FIRST, optional=True,
            tooltip=f"Attack by {ATTACKS[name].title}.",
        )
        for name in names
    ]  # fmt: skip


class RedTeam(WatchesEncoder):
    @classmethod
    def define_schema(cls):
        _, clip_name, clip_weights = encoder_inputs()
        return io.Schema(
            node_id=NODE,
            display_name="Red Team",
            category="DarkMiner",
            description="Attacks a model through text and latents, by the attacks that papers on "
            "erasure report, and counts in how many pictures a detector sees the concept.",
            inputs=[
                io.Model.Input("model", tooltip="The model to attack, erased or not."),
                io.Clip.Input("clip", tooltip="Its text encoder."),
                io.Vae.Input("vae", tooltip="Its VAE."),
                sockets.Pool.Input("pool", tooltip="Pictures of the concept; attackers have them."),
                io.Conditioning.Input("anchor", tooltip="The anchor prompt, e.g. a photo."),
                inputs.seed(),
                *inputs.sampling(),
                io.Combo.Input(
                    "detector", options=list(detectors.CHOICES), default=detectors.STYLES,
                    tooltip="What says whether a picture shows the concept: CLIP among some sixty "
                    "styles or things, NudeNet (pip install nudenet), or this pack's gallery's.",
                ),
                io.Combo.Input(
                    "effort", options=list(EFFORTS), default=EFFORTS[0],
                    tooltip="short: a tenth of the steps, a lower bound. full: the steps of the "
                    "attacks' own papers (hours).",
                ),
                io.Int.Input(
                    "count", default=8, min=1, max=1024,
                    tooltip="Prompts that name the concept, joined with words of the vocabulary; "
                    "used where prompts is empty.",
                ),
                *switches(name for name in ATTACKS if name not in _LATER),
                io.String.Input(
                    "prompts", default="", multiline=True, optional=True,
                    tooltip="Users' prompts, one a line; each is attacked by itself.",
                ),
                io.String.Input(
                    "exclude_words", default="", optional=True,
                    tooltip="Words that no attack may add to a text, separated by commas.",
                ),
                io.Model.Input(
                    "original", optional=True,
                    tooltip="The model before its erasure, which P4D imitates. Not needed where "
                    "lora is connected.",
                ),
                sockets.Lora.Input(
                    "lora", optional=True,
                    tooltip="An erasure to put on model; without it model is attacked as it is.",
                ),
                inputs.negative(),
                clip_name,
                clip_weights,
                *asked_inputs(),
                *switches(_LATER),
                io.Boolean.Input(
                    "effects", default=True, optional=True,
                    tooltip="Where lora is connected: also what comes back at a quarter, half and "
                    "three quarters of its strength, and how far prompts without the concept "
                    "drift; both stand on the report card.",
                ),
            ],
            outputs=outputs(),
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, prompt_file="", **given):
        files = super().fingerprint_inputs(**given), file_stamp(prompt_file or "", "prompt_file")
        return " ".join(filter(None, files))

    @classmethod
    def execute(
        cls, model, clip, vae, pool, anchor, seed, sampling_steps, cfg, sampler_name, scheduler,
        batch_size, detector, effort, count, prompts="", exclude_words="", original=None, lora=None,
        negative=None, open_clip_model="ViT-L-14", open_clip_weights="openai", prompt_list=NONE,
        prompt_file="", pictures_each=1, effects=True, **switched,
    ):  # fmt: skip
        with named(NODE):
            started = time.monotonic()
            names = [n for n in ATTACKS if switched.get(n.replace("-", "_"), n in _AT_FIRST)]
            settings = settings_of(names, effort)
            sampling = inputs.sampling_config(
                sampling_steps, cfg, sampler_name, scheduler, batch_size
            )
            asked = asked_prompts(prompts, prompt_list, prompt_file, pool.concept, count)
            check_guidance(asked, negative)
            given = what_attackers_know(clip, pool, seed, asked, count, exclude_words)
            detect = detectors.detector(
                detector, pool.concept, vae, open_clip_model, open_clip_weights
            )
            besides = len(given.unrelated) if effects and lora is not None else 0
            progress = Progress(
                NODE, red_team_plan(settings, len(given.prompts), sampling, pictures_each, besides)
            )
            shared = {"anchor": anchor, "negative": negative, "sampling": sampling, "vae": vae,
                      "latent_size": pool.latent_size}  # fmt: skip
            with sessions(model, original, pool, shared) as (session, before):
                progress.expect(seconds_per_row(session, context_of(anchor, NODE, "anchor")))
                scene = scene_of(
                    model, session, clip, given, detector=detect, report=progress,
                    negative=negative, cfg=cfg, lora=lora, original=before,
                )  # fmt: skip
                found = red_team(scene, settings, pictures_each)
                more = effects_of(scene, clip, given) if besides else None
            protocol = Protocol(
                pool.concept, given.asked_so, seed, effort, settings, sampling, detect.identity,
                session.fingerprint, name_of(lora), versions(), time.monotonic() - started,
                pictures_each,
            )  # fmt: skip
        table = found.table()
        log.info("%s:\n%s", NODE, table)
        progress.done(f"the best attack gets the concept in {found.worst:.2f} of its pictures")
        return io.NodeOutput(
            found.worst, torch.cat([row.pictures for row in found.rows.values()]),
            conditioning_of(found, anchor, frames=has_frames(model)), found.texts(), table,
            losses_of(found), Examined(found, protocol, more), embeddings_of(found, pool.concept),
        )  # fmt: skip


def outputs() -> list:
    """What a red team hands on."""
    return [
        io.Float.Output(
            display_name="success", tooltip="The best attack's share of pictures."
        ),
        io.Image.Output(
            display_name="pictures",
            tooltip="What was drawn: the prompts as they are, then attack by attack.",
        ),
        io.Conditioning.Output(
            display_name="found",
            tooltip="The contexts of these pictures. A KSampler draws them: picture i of a "
            "batch is made from context i.",
        ),
        io.String.Output(display_name="texts", tooltip="The texts that were found."),
        io.String.Output(
            display_name="table", tooltip="Every attack's share with its 95 % interval."
        ),
        sockets.LossMap.Output(
            display_name="loss",
            tooltip="Mean loss of each attack's steps, by name; loss is the first's."
        ),
        sockets.RedTeam.Output(
            display_name="findings", tooltip="All of it, for Save Report Card."
        ),
        sockets.Embeddings.Output(
            display_name="embeddings",
            tooltip="The contexts that got the concept through text, to be circumvented next.",
        ),
    ]  # fmt: skip


def name_of(lora: Any) -> str:
    """Names an erasure by its values; empty for none."""
    return "" if lora is None else digest(lora[key] for key in sorted(lora))


def what_attackers_know(
    clip: Any, pool: ImagePool, seed: int, asked: tuple[UserPrompt, ...], count: int, exclude: str
) -> Given:
    """The users' prompts, or ``count`` of the vocabulary's words, and what comes with the pool."""
    unsaid, template = split_words(exclude), pool_template(pool)
    words = words_left(clip, pool, unsaid)
    order = torch.randperm(len(words), generator=generator(seed, 0, "attack.words")).tolist()
    drawn = [words[order[i % len(order)]] for i in range(max(count, _PAIRS))]
    pairs = text_prompts(pool.concept, template, drawn)
    named_by_us = tuple(prompt for prompt, _ in pairs[1 : count + 1])
    own = tuple(prompt.text for prompt in asked)
    return Given(
        own or named_by_us, pairs[: _PAIRS + 1], pool.latents, seed, tuple(unsaid), asked,
        pool.concept,
    )  # fmt: skip


@contextmanager
def sessions(
    model: Any, original: Any, pool: ImagePool, shared: dict[str, Any]
) -> Iterator[tuple[Any, Any]]:
    """A session on the MODEL, and one on the original where it is connected.

    Raises:
        DarkMinerError: if the pool was made by another model.
    """
    with ExitStack() as stack:
        session = stack.enter_context(training_session(model, **shared))
        check_latents(session, pool, NODE)
        before = None
        if original is not None:
            before = stack.enter_context(training_session(original, **shared))
        yield session, before


def conditioning_of(found: Result, anchor: Any, *, frames: bool) -> Any:
    """All attempts' contexts as one CONDITIONING, in the order of the pictures."""
    attempts = [a for row in found.rows.values() for a in row.attempts]
    pool = EmbeddingPool().opened(MinedEmbedding(a.context, 1) for a in attempts)
    return as_conditioning(pool, anchor, frames=frames)


def embeddings_of(found: Result, concept: str) -> EmbeddingPool:
    """What got the concept through text, as a round of its own; what latents got is none.

    Where nothing did, the round says that it was looked at and nothing is left to circumvent.
    """
    kept: list[Attempt] = []
    for name, row in found.rows.items():
        if name != WORDS and ATTACKS[name].latent:
            continue
        for attempt, hit in zip(row.attempts, row.sight.hits.tolist(), strict=True):
            if hit and not any(torch.equal(attempt.context, one.context) for one in kept):
                kept.append(attempt)
    pool = EmbeddingPool(concept=concept).opened(MinedEmbedding(a.context, 1) for a in kept)
    if not kept:
        pool = replace(pool, history=(RoundRecord(1, (0.0,), 0.0, False),))
    return pool


def losses_of(found: Result) -> dict[str, list[torch.Tensor]]:
    """Name of each attack that has losses -> their mean over its prompts, step by step.

    ``loss``, which the host's graph plots, is the first of them, and empty where there is none.
    """
    curves = {n: mean_curve([a.losses for a in row.attempts]) for n, row in found.rows.items()}
    learnt = {name: curve for name, curve in curves.items() if curve}
    return {"loss": next(iter(learnt.values()), []), **learnt}


def mean_curve(losses: Sequence[Sequence[float]]) -> list[torch.Tensor]:
    """Mean of curves of different lengths, over those that are so long."""
    longest = max(map(len, losses), default=0)
    at = ([curve[i] for curve in losses if i < len(curve)] for i in range(longest))
    return [torch.tensor(sum(values) / len(values)) for values in at]
