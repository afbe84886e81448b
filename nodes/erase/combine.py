"""CombineErasures: several erasures as one LoRA."""

from __future__ import annotations

from comfy_api.latest import io

from ...darkminer.files.lora_file import combine
from .. import sockets
from ..fields import named

NODE = "CombineErasures"
LORAS = ("lora_1", "lora_2", "lora_3", "lora_4")


class CombineErasures(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id=NODE,
            display_name="Combine Erasures",
            category="DarkMiner",
            search_aliases=["merge lora", "join lora", "erase concepts"],
            description="Joins erasures of several concepts into one LoRA; it adds what they add.",
            inputs=[
                sockets.Lora.Input(
                    name, optional=i > 1,
                    tooltip="An erasure; the second is best trained on the MODEL with the first."
                    if i == 1 else "An erasure from the same kind of model.",
                )
                for i, name in enumerate(LORAS)
            ],
            outputs=[
                sockets.Lora.Output(
                    display_name="lora",
                    tooltip="All of them in one; its rank is the sum of their ranks.",
                )
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, **loras):
        with named(NODE):
            called = [name for name in LORAS if loras.get(name) is not None]
            return io.NodeOutput(combine([loras[name] for name in called], called))
