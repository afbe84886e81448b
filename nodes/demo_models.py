"""DarkMinerDemoModels: the gallery's small models, as any checkpoint loader would give them."""

from __future__ import annotations

from comfy_api.latest import io

from ..darkminer.files import stamps as file_stamps

NODE = "DarkMinerDemoModels"


class DarkMinerDemoModels(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id=NODE,
            display_name="Gallery Models (demo)",
            category="DarkMiner",
            description="A small text-to-image model that draws 48 things in seven house styles.",
            inputs=[],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The diffusion model, 32 x 32."),
                io.Clip.Output(display_name="clip", tooltip="Its text encoder."),
                io.Vae.Output(display_name="vae", tooltip="Its VAE (4 pixels a latent)."),
                io.ClipVision.Output(display_name="clip_vision", tooltip="Its image encoder."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls):
        from ..demo.models import WEIGHTS

        return [file_stamps.stamp(path) for path in sorted(WEIGHTS.iterdir())]

    @classmethod
    def execute(cls):
        from ..demo.models import load_demo_models

        return io.NodeOutput(*load_demo_models())
