"""AttackErasure: how much of the concept a short attack still gets."""

from __future__ import annotations

import logging

from comfy_api.latest import io

from ...darkminer.attacks.verdict import AttackVerdictConfig, attack_verdict
from ...darkminer.method.words import split_words
from ...darkminer.progress.attack_plans import attack_plan
from .. import inputs, sockets
from ..erase.erasing import text_space
from ..erase.stages import stage
from ..erase.verify import encoder, encoder_inputs
from ..fields import named
from ..host.run import Progress
from ..host.session import context_of
from ..watched import WatchesEncoder

NODE = "AttackErasure"

log = logging.getLogger(__name__)


class AttackErasure(WatchesEncoder):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id=NODE,
            display_name="Attack Erasure",
            category="DarkMiner",
            search_aliases=["red team", "textual inversion", "test erasure", "safety"],
            description="Attacks the erased model by textual inversion and by soft prompts, and "
            "says in how many of the pictures the concept is back.",
            inputs=[
                io.Model.Input("model", tooltip="The original model."),
                io.Vae.Input("vae", tooltip="Its VAE."),
                sockets.Pool.Input("pool", tooltip="Pictures of the concept."),
                io.Conditioning.Input("anchor", tooltip="The anchor prompt, e.g. a photo."),
                inputs.seed(),
                *inputs.sampling(),
                *encoder_inputs(),
                sockets.Lora.Input(
                    "lora", optional=True, tooltip="The erasure; without it the model is attacked."
                ),
                io.Clip.Input(
                    "clip", optional=True,
                    tooltip="The model's text encoder: a token is learnt through it, too.",
                ),
                inputs.negative(),
                io.String.Input(
                    "exclude_words", default="", optional=True,
                    tooltip="Words that no attack's prompt uses, separated by commas; used with "
                    "clip.",
                ),
                io.Int.Input(
                    "steps", default=200, min=1, max=100_000, optional=True,
                    tooltip="Optimiser steps of each attack (benchmarks use 1500).",
                ),
                io.Int.Input(
                    "pictures", default=32, min=1, max=4096, optional=True,
                    tooltip="Pictures each attack is judged by.",
                ),
                io.Float.Input(
                    "limit", default=0.15, min=0.0, max=inputs.Limit(1.0), step=0.01, optional=True,
                    tooltip="The concept counts as still there above this share.",
                ),
                inputs.settings(),
            ],
            outputs=[
                io.Boolean.Output(
                    display_name="still_there",
                    tooltip="True: an attack gets the concept in more pictures than limit, go on "
                    "erasing. False: none does.",
                ),
                io.Float.Output(
                    display_name="success", tooltip="The best attack's share of pictures."
                ),
                io.Image.Output(display_name="pictures", tooltip="What the attacks drew."),
                io.String.Output(display_name="summary", tooltip="Every attack's share, in words."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model, vae, pool, anchor, seed, sampling_steps, cfg, sampler_name, scheduler,
        batch_size, clip_vision=None, open_clip_model="ViT-L-14", open_clip_weights="openai",
        lora=None, clip=None, negative=None, exclude_words="", steps=200, pictures=32, limit=0.15,
        settings=None,
    ):  # fmt: skip
        with named(NODE):
            config = AttackVerdictConfig(steps=steps, pictures=pictures, limit=limit)
            encode = encoder(clip_vision, open_clip_model, open_clip_weights, NODE)
            sampling = inputs.sampling_config(
                sampling_steps, cfg, sampler_name, scheduler, batch_size, settings
            )
            progress = Progress(NODE, attack_plan(config, sampling, token=clip is not None))
            with stage(
                model, node=NODE, anchor=anchor, negative=negative, pool=pool, vae=vae,
                sampling=sampling, config=inputs.preset_config("fast", settings).lora, seed=seed,
                lora=lora,
            ) as (session, adapters):  # fmt: skip
                text = text_space(clip, pool, split_words(exclude_words)) if clip else None
                verdict = attack_verdict(
                    session, encode, pool, context_of(anchor, NODE, "anchor"), config, seed=seed,
                    adapters=adapters, text=text, report=progress,
                )  # fmt: skip
        shares = ", ".join(
            f"{name} {p.value:.2f} ({p.hits}/{p.count})" for name, p in verdict.success.items()
        )
        words = f"{shares}; the image encoder tells the concept apart by {verdict.separation:.2f}"
        log.info("%s: %s", NODE, words)
        progress.done(words)
        return io.NodeOutput(verdict.verified, verdict.worst, verdict.pictures, words)
