"""DarkMinerConceptContexts: the concept's own contexts as the first embeddings."""

from __future__ import annotations

from comfy_api.latest import io

from . import inputs, sockets
from .erasing import concept_contexts, pool_template, text_templates
from .host import training_mode
from .host_run import named

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
            ],
            outputs=[
                sockets.Embeddings.Output(
                    display_name="embeddings", tooltip="Circumvent these before the first round."
                )
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, clip, pool):
        templates = text_templates(inputs.preset_config("fast"), pool_template(pool))
        with named(NODE), training_mode():
            return io.NodeOutput(concept_contexts(clip, pool.concept, templates))
