"""DarkMinerConceptContexts: the concept's own contexts as the first embeddings."""

from __future__ import annotations

from dataclasses import replace

from comfy_api.latest import io

from ...darkminer.method.words import split_words
from .. import inputs, sockets
from ..fields import named
from ..host.training import training_mode
from .erasing import concept_contexts

NODE = "DarkMinerConceptContexts"


class DarkMinerConceptContexts(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id=NODE,
            display_name="Concept Contexts",
            category="DarkMiner",
            description="The concept's own prompts as first embeddings, before anything is mined.",
            inputs=[
                io.Clip.Input("clip", tooltip="The model's text encoder."),
                sockets.Pool.Input("pool", tooltip="Names the concept and the prompt template."),
                inputs.seed(),
                io.String.Input(
                    "exclude_words", default="", optional=True,
                    tooltip="Words these prompts must not use, separated by commas.",
                ),
                inputs.number("words", "Prompts that join the concept with a word.", 10_000),
                inputs.settings(),
            ],
            outputs=[
                sockets.Embeddings.Output(
                    display_name="embeddings", tooltip="Circumvent these before the first round."
                )
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, clip, pool, seed, exclude_words="", words=0, settings=None):
        with named(NODE), training_mode():
            config = inputs.preset_config("fast", settings)
            config = replace(config, text_words=words or config.text_words)
            start = concept_contexts(
                clip, pool, config, exclude=split_words(exclude_words), seed=seed
            )
        return io.NodeOutput(start)
