"""ScaleConditioning: a context times gamma, as in the paper's figure 3."""

from __future__ import annotations

from comfy_api.latest import io

NODE = "ScaleConditioning"


class ScaleConditioning(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id=NODE,
            display_name="Scale Conditioning",
            category="DarkMiner",
            description="Multiplies a context with gamma: 0 leaves nothing of it, below 0 it "
            "points away from what it was.",
            inputs=[
                io.Conditioning.Input(
                    "mined", tooltip="A prompt or mined embeddings; all of them are scaled."
                ),
                io.Float.Input(
                    "gamma", default=1.0, min=-10.0, max=10.0, step=0.05,
                    tooltip="What every value of the context is multiplied with. Pooled vectors "
                    "and whatever else comes with the prompt stay as they are.",
                ),
            ],
            outputs=[io.Conditioning.Output(display_name="scaled", tooltip="gamma times it.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, mined, gamma):
        return io.NodeOutput([[gamma * context, dict(extra)] for context, extra in mined])
