"""MineEmbedding: find the embeddings that most likely produce the concept."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ...darkminer.method.mine import mine
from ...darkminer.method.words import split_words
from ...darkminer.progress.plan import mine_plan
from ...darkminer.progress.words import fallen
from ...darkminer.types import EmbeddingPool
from .. import inputs, sockets
from ..fields import named
from ..host.predict import has_frames
from ..host.run import Progress
from ..host.session import context_of
from .erasing import text_space
from .mined import as_conditioning
from .stages import stage

NODE = "MineEmbedding"


class MineEmbedding(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id=NODE,
            display_name="Mine Embedding",
            category="DarkMiner",
            description="Mines prompt embeddings that make the model produce the concept (eq. 5).",
            inputs=[
                io.Model.Input("model", tooltip="The original model."),
                sockets.Pool.Input("pool", tooltip="Pictures of the concept."),
                io.Conditioning.Input(
                    "anchor",
                    tooltip="The anchor prompt, e.g. a photo: gives the embedding its scale and "
                    "whatever else the model wants.",
                ),
                inputs.preset(),
                inputs.seed(),
                sockets.Lora.Input(
                    "lora", optional=True,
                    tooltip="The erasure so far; mining looks for what is left.",
                ),
                sockets.Embeddings.Input(
                    "embeddings", optional=True,
                    tooltip="Embeddings found so far; the new ones join.",
                ),
                io.Clip.Input(
                    "clip", optional=True,
                    tooltip="Connect it to mine adversarial tokens as well, through it.",
                ),
                io.String.Input(
                    "exclude_words", default="", optional=True,
                    tooltip="Words these tokens must not be joined with, separated by commas; used "
                    "with clip.",
                ),
                inputs.number("length", "Tokens of the embedding (the paper: 32).", 1024),
                inputs.number("steps", "Optimiser steps (the paper: 1000)."),
                inputs.rate("learning_rate", "Learning rate (the paper: 0.1, later 0.01)."),
                inputs.number("count", "Embeddings mined at once.", 256),
                inputs.settings(),
            ],
            outputs=[
                io.Conditioning.Output(
                    display_name="mined",
                    tooltip="The mined embeddings. A KSampler shows them: picture i of a batch is "
                    "made from embedding i.",
                ),
                sockets.Embeddings.Output(
                    display_name="embeddings", tooltip="All embeddings, the new ones included."
                ),
                sockets.LossMap.Output(
                    display_name="loss",
                    tooltip="Mining loss of each step: loss of the soft prompts, token_loss of "
                    "the adversarial tokens.",
                ),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model, pool, anchor, preset, seed, lora=None, embeddings=None, clip=None,
        exclude_words="", length=0, steps=0, learning_rate=0.0, count=0, settings=None,
    ):  # fmt: skip
        with named(NODE):
            chosen = inputs.preset_config(preset, settings)
            config = inputs.mine_config(chosen.mine, length, steps, learning_rate, count)
        embeddings = embeddings or EmbeddingPool(concept=pool.concept)
        number = embeddings.round + 1
        progress = Progress(
            NODE, mine_plan(config, number, tokens=clip is not None, where=f"round {number}")
        )
        with named(NODE), stage(
            model, node=NODE, anchor=anchor, pool=pool, sampling=inputs.NO_PICTURES,
            config=chosen.lora, seed=seed, lora=lora,
        ) as (session, _):  # fmt: skip
            text = text_space(clip, pool, split_words(exclude_words)) if clip else None
            found = mine(
                session, pool, context_of(anchor, NODE, "anchor"), config, seed=seed,
                round_=embeddings.round + 1, concept_contexts=embeddings.text_tokens(),
                text=text, report=progress,
            )  # fmt: skip
        embeddings = embeddings.opened(found.embeddings)
        loss = {"loss": [torch.tensor(v) for v in found.losses]}
        if found.token_losses:
            loss["token_loss"] = [torch.tensor(v) for v in found.token_losses]
        progress.done(f"{len(found.embeddings)} embeddings mined · {fallen(found.losses)}")
        mined = as_conditioning(embeddings, anchor, frames=has_frames(model))
        return io.NodeOutput(mined, embeddings, loss)
