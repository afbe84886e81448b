"""LECO and Concept Sliders as a node."""

from __future__ import annotations

from comfy_api.latest import io

from ...darkminer.compare.layers import adapters_on
from ...darkminer.compare.slider import LOSSES, STAGE, Prompts, SliderConfig, slide
from ...darkminer.progress.words import fallen
from .. import inputs
from ..fields import named
from ..host.run import Progress
from ..host.text import contexts
from . import training

NODE = "ConceptSlider"


class ConceptSlider(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id=NODE,
            display_name="LECO / Concept Slider",
            category=training.CATEGORY,
            search_aliases=[*training.ALIASES, "LECO", "slider"],
            description="Trains a LoRA away from what the concept's prompt adds to the anchor's: "
            "by LECO's loss, or by that of Concept Sliders (Gandikota et al., 2024).",
            inputs=[
                *training.models(),
                training.anchor(),
                io.Combo.Input(
                    "loss", options=list(LOSSES), default="leco",
                    tooltip="leco: the concept's prompt learns to show the anchor and less. "
                    "slider: it stays itself less what the concept adds, taken beside other words.",
                ),
                training.layers(),
                training.real("scale", 1.0, "How far away from the concept."),
                *training.descent(300, 0.001),
                *training.drawn(),
                training.whole(
                    "prompts", 16, "Prompts with other words in them, besides the concept's own: "
                    "a slider's attributes.", 1000, 0,
                ),
                training.exclude(),
                inputs.seed(),
            ],
            outputs=training.outputs(),
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model, clip, pool, anchor_prompt, loss, layers, scale, steps, learning_rate, rank,
        draw_steps, guidance, prompts, exclude_words, seed,
    ):  # fmt: skip
        with named(NODE):
            config = SliderConfig(
                steps=steps, lr=learning_rate, lr_late=learning_rate, loss=loss, scale=scale,
                draw_steps=draw_steps, guidance=guidance,
            )  # fmt: skip
            new = training.lora_settings(rank)
            pairs = training.pairs(clip, pool, anchor_prompt, exclude_words, prompts, seed)
            said, (empty,) = training.said(clip, pairs), contexts(clip, [training.EMPTY])
            # LECO's unconditional is the empty prompt; a slider's names all but the concept.
            told = [Prompts(c, c, empty if loss == "leco" else a, a) for c, a in said]
            progress = Progress(
                NODE, training.plan_of(STAGE, steps, draw_steps + 3, f"erasing by {loss}")
            )
            with training.session_of(model, clip, pool, NODE, anchor=anchor_prompt) as session:
                adapters = adapters_on(session, training.PARTS[layers], new, seed)
                losses = slide(session, adapters, told, empty, config, seed=seed, report=progress)
                made = training.Made(
                    adapters.state(), losses, "LECO" if loss == "leco" else "Concept Slider",
                    training.settings_record(slider=config, lora=new)
                    | {"prompts": len(pairs), "layers": layers},
                )  # fmt: skip
                origin = training.origin_of(NODE, pool, anchor_prompt)
                lora = training.lora_from(model, session, pool, made, seed, origin)
        progress.done(fallen(losses))
        return training.output(model, lora, losses)
