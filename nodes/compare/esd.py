"""Erased Stable Diffusion (ESD) as a node."""

from __future__ import annotations

from comfy_api.latest import io

from ...darkminer.compare.esd import STAGE, ESDConfig, esd
from ...darkminer.compare.layers import adapters_on
from ...darkminer.progress.words import fallen
from .. import inputs
from ..fields import named
from ..host.run import Progress
from ..host.text import contexts
from . import training

NODE = "ErasedStableDiffusion"


class ErasedStableDiffusion(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id=NODE,
            display_name="Erased Stable Diffusion (ESD)",
            category=training.CATEGORY,
            search_aliases=[*training.ALIASES, "ESD-x", "ESD-u"],
            description="Trains the model away from a prompt by its own negative guidance "
            "(Gandikota et al., 2023).",
            inputs=[
                *training.models(),
                io.Combo.Input(
                    "part", options=["x", "u"], default="x",
                    tooltip="x: the cross-attention, for a style or a name. u: everything else, "
                    "for what must go whatever the prompt says.",
                ),
                training.real("eta", 1.0, "Negative guidance: how far away from the concept."),
                *training.descent(300, 0.001),
                *training.drawn(),
                inputs.seed(),
            ],
            outputs=training.outputs(),
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model, clip, pool, part, eta, steps, learning_rate, rank, draw_steps, guidance, seed
    ):
        with named(NODE):
            config = ESDConfig(
                steps=steps, lr=learning_rate, lr_late=learning_rate, eta=eta,
                draw_steps=draw_steps, guidance=guidance,
            )  # fmt: skip
            new = training.lora_settings(rank)
            progress = Progress(
                NODE, training.plan_of(STAGE, steps, draw_steps + 2, "erasing by ESD")
            )
            said, (empty,) = training.spoken(clip, pool), contexts(clip, [training.EMPTY])
            with training.session_of(model, clip, pool, NODE) as session:
                adapters = adapters_on(session, part, new, seed)
                losses = esd(session, adapters, said, empty, config, seed=seed, report=progress)
                made = training.Made(
                    adapters.state(), losses, f"ESD-{part}",
                    training.settings_record(esd=config, lora=new),
                )  # fmt: skip
                origin = training.origin_of(NODE, pool, training.EMPTY)
                lora = training.lora_from(model, session, pool, made, seed, origin)
        progress.done(fallen(losses))
        return training.output(model, lora, losses)
