"""Safe Latent Diffusion (SLD) as a node."""

from __future__ import annotations

from dataclasses import replace

from comfy_api.latest import io

from ...darkminer.compare.sld import PUBLISHED
from ..fields import named
from ..host.guidance import guided_away
from . import training

NODE = "SafeLatentDiffusion"


class SafeLatentDiffusion(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id=NODE,
            display_name="Safe Latent Diffusion (SLD)",
            category=training.CATEGORY,
            search_aliases=[*training.ALIASES, "safety guidance"],
            description="Guides every picture away from a prompt while it is drawn; nothing is "
            "trained, and nothing can be saved (Schramowski et al., 2023).",
            inputs=[
                io.Model.Input("model", tooltip="The model; it stays as it is."),
                io.Conditioning.Input(
                    "concept", tooltip="The prompt to be led away from, e.g. the concept alone."
                ),
                io.Combo.Input(
                    "setting", options=list(PUBLISHED), default="strong",
                    tooltip="The paper's four settings of warm-up, scale, threshold and momentum.",
                ),
                training.real(
                    "strength", 1.0, "Multiplies the setting's scale; 0 is plain guidance."
                ),
            ],
            outputs=[
                io.Model.Output(
                    display_name="guided", tooltip="The model; samplers with cfg above 1 obey it."
                )
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, model, concept, setting, strength):
        with named(NODE):
            config = PUBLISHED[setting]
            config = replace(config, scale=strength * config.scale)
            return io.NodeOutput(guided_away(model, concept, config))
