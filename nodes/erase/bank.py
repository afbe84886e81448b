"""DarkMinerVocabularyBank: what must not change, drawn from the CLIP's own vocabulary."""

from __future__ import annotations

from dataclasses import replace

import torch
from comfy_api.latest import io

from ...darkminer.method.words import split_words
from ...darkminer.progress.plan import bank_plan
from ...darkminer.types import RetainSet
from .. import inputs, sockets
from ..fields import named
from ..host.run import Progress
from ..host.session import training_session
from ..host.text import conditioning
from ..watched import WatchesEncoder
from .erasing import pool_template, vocabulary_bank
from .verify import encoder, encoder_inputs

NODE = "DarkMinerVocabularyBank"

NO_BANK = RetainSet((), torch.empty(0), ())
"""What comes out where settings ask for no prompt."""


class DarkMinerVocabularyBank(WatchesEncoder):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id=NODE,
            display_name="Vocabulary Bank",
            category="DarkMiner",
            description="Prompts from the model's own vocabulary whose pictures must not change.",
            inputs=[
                io.Model.Input("model", tooltip="The original model."),
                io.Clip.Input("clip", tooltip="Its text encoder; its vocabulary is drawn from."),
                io.Vae.Input("vae", tooltip="Its VAE."),
                sockets.Pool.Input("pool", tooltip="Pictures of the concept, to leave it out."),
                io.String.Input(
                    "anchor_prompt", default="a photo", tooltip="The anchor prompt; always kept."
                ),
                io.String.Input(
                    "negative_prompt", default="",
                    tooltip="The negative prompt; always kept, because guidance uses it.",
                ),
                inputs.seed(),
                *inputs.sampling(),
                inputs.number("bank_size", "Prompts to draw.", 10_000),
                io.String.Input(
                    "exclude_words", default="", optional=True,
                    tooltip="Words that no prompt of it may hold, separated by commas.",
                ),
                *encoder_inputs(),
                inputs.settings(),
            ],
            outputs=[
                sockets.Bank.Output(
                    display_name="vocabulary_bank",
                    tooltip="A retain set for Circumvent (LoRA) and Chase (LoRA).",
                )
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model, clip, vae, pool, anchor_prompt, negative_prompt, seed, sampling_steps, cfg,
        sampler_name, scheduler, batch_size, bank_size=0, exclude_words="", clip_vision=None,
        open_clip_model="ViT-L-14", open_clip_weights="openai",
        settings=None,
    ):  # fmt: skip
        with named(NODE):
            config = inputs.preset_config("fast", settings).bank
            config = replace(config, size=bank_size or config.size)
            sampling = inputs.sampling_config(
                sampling_steps, cfg, sampler_name, scheduler, batch_size, settings
            )
            if not config.size:
                return io.NodeOutput(NO_BANK)
            encode = encoder(clip_vision, open_clip_model, open_clip_weights, NODE)
            progress = Progress(NODE, bank_plan(config.size, config.images, sampling))
            with training_session(
                model, anchor=conditioning(clip, anchor_prompt),
                negative=conditioning(clip, negative_prompt),
                sampling=sampling,
                latent_size=pool.latent_size, vae=vae,
            ) as session:  # fmt: skip
                bank = vocabulary_bank(
                    session, clip, encode, pool, config,
                    template=pool_template(pool), always=(anchor_prompt, negative_prompt),
                    exclude=split_words(exclude_words), seed=seed, report=progress,
                )  # fmt: skip
        progress.done(f"{len(bank or ())} prompts to keep")
        return io.NodeOutput(bank)
