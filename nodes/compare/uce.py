"""Unified Concept Editing (UCE) as a node."""

from __future__ import annotations

import logging

from comfy_api.latest import io

from ...darkminer.compare.as_lora import fitted
from ...darkminer.compare.uce import UCEConfig, uce
from ...darkminer.method.text_start import without_concept
from ..erase.erasing import pool_template, text_templates
from ..fields import named
from ..host.run import say
from ..host.text import contexts
from . import training

NODE = "UnifiedConceptEditing"

log = logging.getLogger(__name__)


class UnifiedConceptEditing(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id=NODE,
            display_name="Unified Concept Editing (UCE)",
            category=training.CATEGORY,
            search_aliases=[*training.ALIASES, "closed form"],
            description="Solves for the cross-attention weights that read the anchor where the "
            "concept is written, in seconds and without training (Gandikota et al., 2024).",
            inputs=[
                *training.models(),
                training.anchor(),
                training.preserve_prompts(),
                training.real("erase_scale", 1.0, "Weight of the concept's tokens.", 1e4, 1e-6),
                training.real("preserve_scale", 0.1, "Weight of the kept prompts' tokens.", 1e4),
                training.real("lamb", 0.5, "Weight of the old weights themselves.", 1e4, 1e-6),
                training.whole(
                    "rank", 64, "Highest rank of the LoRA; where the edit needs more, the nearest "
                    "of this rank is given and the error told.", 1024,
                ),
            ],
            outputs=training.outputs(losses=False),
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model, clip, pool, anchor_prompt, preserve_prompts, erase_scale, preserve_scale, lamb,
        rank,
    ):  # fmt: skip
        with named(NODE):
            config = UCEConfig(erase_scale, preserve_scale, lamb)
            keep = training.lines(preserve_prompts)
            own = pool_template(pool)
            alone = {t: without_concept(t) for t in text_templates(own)}
            anchors = [anchor_prompt if t == own or not a else a for t, a in alone.items()]
            at, kept = contexts(clip, anchors), contexts(clip, [training.EMPTY, *keep])
            said = training.spoken(clip, pool)
            with training.session_of(model, clip, pool, NODE, anchor=anchor_prompt) as session:
                made = fitted(uce(session, said, at, kept, config), rank)
                told = {"rank_error": made.error, "rank_error_worst": made.worst,
                        "rank_needed": made.needed}  # fmt: skip
                origin = training.origin_of(NODE, pool, anchor_prompt)
                lora = training.lora_from(
                    model, session, pool,
                    training.Made(
                        made.state, (), "UCE",
                        training.settings_record(uce=config) | {"preserve_prompts": keep, **told},
                    ), 0, origin,
                )  # fmt: skip
        log.info("%s: %s", NODE, made.words)
        say(made.words)
        return training.output(model, lora)
