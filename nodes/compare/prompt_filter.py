"""Latent Guard's idea as a node: a prompt that lies near a concept is not drawn."""

from __future__ import annotations

import logging

from comfy_api.latest import io

from ...darkminer.compare.prompt_filter import judge
from ..fields import named
from ..host.run import say
from ..host.text import conditioning, pooled
from . import training

NODE = "PromptFilter"

log = logging.getLogger(__name__)


class PromptFilter(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id=NODE,
            display_name="Prompt Filter",
            category=training.CATEGORY,
            search_aliases=["Latent Guard", "safety", "block", "blacklist", "text encode"],
            description="Encodes a prompt unless its embedding lies near a concept's; then it "
            "gives the empty prompt. Latent Guard's idea (Liu et al., 2024) without what it "
            "learns: the text encoder's own embeddings are compared.",
            inputs=[
                io.Clip.Input("clip", tooltip="The model's text encoder."),
                io.String.Input(
                    "prompt", default="", multiline=True, dynamic_prompts=True,
                    tooltip="What to draw.",
                ),
                io.String.Input(
                    "concepts", default="", multiline=True,
                    tooltip="What must not be drawn, one a line; a phrase such as a prompt has it "
                    "is found more surely than a bare word.",
                ),
                training.real(
                    "threshold", 0.8, "The cosine from which on a prompt is blocked. Text encoders "
                    "differ: read what the text output says of prompts of yours.", 1.0, -1.0,
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    display_name="conditioning", tooltip="The prompt, or the empty prompt."
                ),
                io.Boolean.Output(
                    display_name="blocked", tooltip="True: the empty prompt takes its place."
                ),
                io.String.Output(
                    display_name="text", tooltip="Blocked or passed, and each concept's cosine."
                ),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, clip, prompt, concepts, threshold):
        with named(NODE):
            names = dict.fromkeys(training.lines(concepts))
            listed = {name: pooled(clip, name) for name in names}
            found = judge(pooled(clip, prompt), listed, threshold)
        log.info("%s: %s", NODE, found.words)
        say(found.words)
        given = conditioning(clip, training.EMPTY if found.blocked else prompt)
        return io.NodeOutput(given, found.blocked, found.words)
