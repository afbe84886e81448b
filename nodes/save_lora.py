"""SaveErasureLoRA: the file that every loader takes."""

from __future__ import annotations

from comfy_api.latest import io

from ..darkminer.errors import DarkMinerError
from ..darkminer.lora_file import save_lora
from . import sockets
from .host_run import named, output_file

NODE = "SaveErasureLoRA"


class SaveErasureLoRA(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id=NODE,
            display_name="Save Erasure LoRA",
            category="DarkMiner",
            description="Saves the erasure under output/loras, with its settings as metadata.",
            is_output_node=True,
            inputs=[
                sockets.Lora.Input("lora", tooltip="The erasure."),
                io.String.Input(
                    "filename_prefix", default="loras/erase",
                    tooltip="Below the output folder; the host lists output/loras among its LoRAs.",
                ),
            ],
            outputs=[io.String.Output(display_name="path", tooltip="The file that was written.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, lora, filename_prefix):
        with named(NODE):
            if not lora:
                raise DarkMinerError("lora is empty: connect the LoRA of an erasure.")
            path = output_file(filename_prefix)
            save_lora(path, lora, getattr(lora, "metadata", {}))
        return io.NodeOutput(str(path), ui={"text": [path.name]})
