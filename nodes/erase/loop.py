"""DarkMinerLoop: the whole method in one node and one training session."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from comfy_api.latest import io

from ...darkminer.config import EraseConfig
from ...darkminer.files.lora_metadata import Origin
from ...darkminer.method.words import split_words
from ...darkminer.model.adapter import AdapterState
from .. import inputs, sockets
from ..agreement import check_own_bank
from ..checks import accepted
from ..fields import named
from ..host.lora import apply_lora, state_of
from ..host.run import Progress
from ..watched import WatchesEncoder
from .continuing import OPENINGS, check_continued, continuing_inputs, opens
from .curves import curves_picture, loss_map
from .erasing import run_erasure, run_plan
from .kept import Kept, kept_inputs
from .origin import encoder_record
from .report import report_picture
from .stages import as_continued
from .verify import against_input, encoder, encoder_inputs, verify_config

NODE = "DarkMinerLoop"


class DarkMinerLoop(WatchesEncoder):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id=NODE,
            display_name="Dark Miner Loop",
            category="DarkMiner",
            search_aliases=inputs.ALIASES,
            description="Erases the pool's concept: mine, verify, circumvent, until nothing is "
            "found any more.",
            inputs=[
                io.Model.Input("model", tooltip="The model to erase from; it stays as it is."),
                io.Clip.Input("clip", tooltip="Its text encoder."),
                io.Vae.Input("vae", tooltip="Its VAE."),
                sockets.Pool.Input("pool", tooltip="Pictures of the concept."),
                *recipe_inputs(),
                sockets.Lora.Input(
                    "lora", optional=True,
                    tooltip="An erasure to go on with, together with its embeddings; alone: one on "
                    "top of which this one is trained.",
                ),
                *change_inputs(),
                *continuing_inputs(),
                inputs.settings(),
                *kept_inputs(),
            ],
            outputs=[
                io.Model.Output(display_name="erased", tooltip="The model with the LoRA on it."),
                sockets.Lora.Output(display_name="lora", tooltip="The erasure."),
                sockets.Embeddings.Output(display_name="embeddings", tooltip="What was found."),
                io.Image.Output(display_name="report", tooltip="Pictures and scores per round."),
                io.Int.Output(
                    display_name="rounds", tooltip="Rounds that mined, of earlier runs as well."
                ),
                io.Float.Output(
                    display_name="score",
                    tooltip="Highest score of the last verification, which looks at the model that "
                    "is handed on; the concept is gone where it is not above the threshold.",
                ),
                io.String.Output(
                    display_name="summary", tooltip="What has come of it, in words."
                ),
                sockets.LossMap.Output(
                    display_name="losses",
                    tooltip="Loss of each step, by stage and round; loss joins those that trained "
                    "the LoRA, for Plot Loss Graph.",
                ),
                io.Image.Output(
                    display_name="curves", tooltip="The same as a picture, a curve for each stage."
                ),
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, preset=None, threshold=None, chase_steps=None, run_folder=None):
        return check_recipe(cls, preset, threshold, chase_steps, run_folder)

    @classmethod
    def execute(
        cls, model, clip, vae, pool, anchor_prompt, negative_prompt, preset, max_rounds, seed,
        sampling_steps, cfg, sampler_name, scheduler, batch_size, clip_vision=None,
        open_clip_model="ViT-L-14", open_clip_weights="openai", exclude_words="", lora=None,
        embeddings=None, opening=OPENINGS[0], settings=None, run_folder="", max_minutes=0.0,
        **changes,
    ):  # fmt: skip
        with named(NODE):
            kept = Kept.of(run_folder, max_minutes)
            check_continued(lora, embeddings, pool)
            state = state_of(lora, model) if lora is not None else None
            config = run_config(preset, settings, max_rounds, **changes)
            if state is not None:
                config = continuing(config, state, model)
            sampling = inputs.sampling_config(
                sampling_steps, cfg, sampler_name, scheduler, batch_size, settings
            )
            encode = encoder(clip_vision, open_clip_model, open_clip_weights, NODE)
            keep, opening = inputs.keep_contexts(changes, NODE), opens(opening, lora, embeddings)
            progress = Progress(NODE, run_plan(config, sampling, embeddings, keep, opening))
            done, trained = run_erasure(
                model, clip, vae, encode, pool, config, anchor=anchor_prompt,
                negative=negative_prompt, seed=seed, exclude=split_words(exclude_words),
                sampling=sampling,
                keep=keep, state=state, embeddings=embeddings, opening=opening, report=progress,
                kept=kept, origin=Origin(
                    node=NODE, before=getattr(lora, "metadata", {}),
                    encoder=encoder_record(clip_vision, open_clip_model, open_clip_weights),
                ),
            )  # fmt: skip
        progress.done(done.outcome.words)
        return io.NodeOutput(
            model if done.outcome.empty else apply_lora(model, trained), trained,
            done.embeddings, report_picture(done), done.embeddings.round, done.score,
            done.outcome.words, loss_map(done.losses),
            curves_picture(done.losses, done.outcome.concept), ui={"text": [done.outcome.words]},
        )  # fmt: skip


def recipe_inputs() -> list:
    """Prompts, preset, seed, sampling and image encoder of a whole erasure."""
    return [
        io.String.Input(
            "anchor_prompt", default="a photo",
            tooltip="What the model shows instead of the concept (c0).",
        ),
        io.String.Input(
            "negative_prompt", default="",
            tooltip="The other side of classifier-free guidance; always kept.",
        ),
        inputs.preset(),
        io.Int.Input(
            "max_rounds", default=0, min=0, max=1000,
            tooltip="Rounds at the most. 0: as the preset says (fast: 1; paper: no limit, until "
            "nothing is found). No round at all, or no limit: max_rounds of Dark Miner Settings.",
        ),
        inputs.seed(),
        *inputs.rare([*inputs.sampling(), *encoder_inputs()]),
        *inputs.rare([
            io.String.Input(
                "threshold", default="", optional=True,
                tooltip="Go on while a score is above it; auto calibrates it. Empty: preset.",
            ),
            against_input(),
        ]),
        io.String.Input(
            "exclude_words", default="", optional=True,
            tooltip="Words the vocabulary bank must not use, separated by commas.",
        ),
        *inputs.keeps(),
    ]  # fmt: skip


def check_recipe(node, preset, threshold, chase_steps, run_folder) -> bool | str:
    """What ``validate_inputs`` says of the settings that can contradict each other."""

    def check() -> None:
        Kept.of(run_folder or "", 0.0)
        base = inputs.preset_config(preset or "fast")
        changed_config(base, 0, threshold=threshold or "", chase_steps=chase_steps or 0)

    return accepted(node, {}, check)


def change_inputs() -> list:
    """What may differ from the preset, see :func:`changed_config`."""
    return inputs.rare([
        inputs.number("rank", "Rank of a new LoRA (the paper: 8).", 256),
        inputs.layers(),
        inputs.number("length", "Tokens of a mined embedding (the paper: 32).", 1024),
        inputs.number("mine_steps", "Optimiser steps of mining (the paper: 1000)."),
        inputs.rate("mine_learning_rate", "Learning rate of mining."),
        inputs.number("count", "Embeddings mined at once.", 256),
        inputs.number(
            "circumvent_steps", "Optimiser steps of circumventing, of the text start as well."
        ),
        inputs.rate(
            "circumvent_learning_rate",
            "Learning rate of circumventing, of the text start as well (whose own is the higher).",
        ),
        inputs.number(
            "chase_steps", "Steps of mining while circumventing; repairing follows in proportion."
        ),
        inputs.rate("r", "Probability of an embedding of the newest round.", 1.0),
        inputs.rate("alpha_c", "Weight of the circumventing loss, text start included."),
        inputs.rate("alpha_p", "Weight of the preserving loss, text start included."),
        inputs.number("bank_size", "Prompts of the vocabulary bank.", 10_000),
    ])  # fmt: skip


def run_config(
    preset: str, settings: EraseConfig | None, max_rounds: int, **changes: Any
) -> EraseConfig:
    """A whole run's settings: the connected ones, else a preset with what the user changed.

    Raises:
        DarkMinerError: if they ask for a vocabulary bank that would count for nothing.
    """
    config = changed_config(inputs.preset_config(preset, settings), max_rounds, **changes)
    if settings is not None:
        check_own_bank(config)
    return config


def changed_config(
    base: EraseConfig,
    max_rounds: int,
    *,
    rank: int = 0,
    layers: str = inputs.AS_PRESET,
    threshold: str = "",
    against: str = inputs.AS_PRESET,
    length: int = 0,
    mine_steps: int = 0,
    mine_learning_rate: float = 0.0,
    count: int = 0,
    circumvent_steps: int = 0,
    circumvent_learning_rate: float = 0.0,
    chase_steps: int = 0,
    r: float = 0.0,
    alpha_c: float = 0.0,
    alpha_p: float = 0.0,
    bank_size: int = 0,
    **_: object,  # the keep conditionings
) -> EraseConfig:
    """A preset with what the user changed on the node (0 and empty mean the preset's value)."""
    more = (circumvent_steps, circumvent_learning_rate, r, alpha_c, alpha_p)
    return replace(
        base,
        max_rounds=max_rounds or base.max_rounds,
        lora=inputs.lora_config(base.lora, rank, layers),
        mine=inputs.mine_config(base.mine, length, mine_steps, mine_learning_rate, count),
        verify=verify_config(base.verify, threshold, 0, against),
        circumvent=inputs.circumvent_config(base.circumvent, *more),
        start=inputs.circumvent_config(base.start, *more),
        chase=inputs.chase_config(base.chase, chase_steps),
        repair=inputs.repair_config(base.repair, base.chase, chase_steps),
        bank=replace(base.bank, size=bank_size or base.bank.size),
    )


def continuing(config: EraseConfig, state: AdapterState, model: Any) -> EraseConfig:
    """The settings with rank, alpha and layers of the LoRA that is continued."""
    return replace(config, lora=as_continued(config.lora, state, model))
