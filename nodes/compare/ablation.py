"""Concept Ablation (CA) as a node."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ...darkminer.compare.ablation import STAGE, AblationConfig, ablate
from ...darkminer.compare.layers import adapters_on
from ...darkminer.model.sampling import sample_each, seeded_noise
from ...darkminer.progress.plan import Expected, Plan, one_after_another, pool_plan
from ...darkminer.progress.words import fallen
from ...darkminer.rng import generator
from ...darkminer.types import Tally
from .. import inputs
from ..fields import named
from ..host.run import Progress
from . import training

NODE = "ConceptAblation"


class ConceptAblation(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id=NODE,
            display_name="Concept Ablation (CA)",
            category=training.CATEGORY,
            search_aliases=training.ALIASES,
            description="Trains the concept's prompts to say what the anchor's say on the anchor's "
            "own pictures (Kumari et al., 2023, model-based).",
            inputs=[
                *training.models(),
                training.anchor(),
                *training.descent(300, 0.001),
                training.whole("batch", 8, "Pictures of a step.", 256),
                training.real(
                    "prior", 0.0, "Weight of the anchor's own denoising, which holds it."
                ),
                training.whole("prompts", 64, "Prompts to make, each with a picture.", 10_000),
                training.exclude(),
                inputs.seed(),
                *inputs.sampling(),
            ],
            outputs=training.outputs(),
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model, clip, pool, anchor_prompt, steps, learning_rate, rank, batch, prior, prompts,
        exclude_words, seed, sampling_steps, cfg, sampler_name, scheduler, batch_size,
    ):  # fmt: skip
        with named(NODE):
            config = AblationConfig(
                steps=steps, lr=learning_rate, lr_late=learning_rate, batch=batch, prior=prior
            )
            new = training.lora_settings(rank)
            sampling = inputs.sampling_config(
                sampling_steps, cfg, sampler_name, scheduler, batch_size
            )
            pairs = training.pairs(clip, pool, anchor_prompt, exclude_words, prompts, seed)
            told = training.said(clip, pairs)
            progress = Progress(NODE, _plan(config, len(pairs), Expected(sampling)))
            with training.session_of(
                model, clip, pool, NODE, anchor=anchor_prompt, sampling=sampling
            ) as session:
                noise = seeded_noise(session, len(told), generator(seed, 0, "compare.pictures"))
                tally = Tally(progress, "pool", 0, len(told))
                with torch.no_grad():
                    latents = sample_each(session, [a for _, a in told], noise, tally)
                adapters = adapters_on(session, "kv", new, seed)
                losses = ablate(
                    session, adapters, told, latents, config, seed=seed, report=progress
                )
                made = training.Made(
                    adapters.state(), losses, "CA",
                    training.settings_record(ablation=config, lora=new) | {"prompts": len(pairs)},
                )  # fmt: skip
                origin = training.origin_of(NODE, pool, anchor_prompt, sampling)
                lora = training.lora_from(model, session, pool, made, seed, origin)
        progress.done(fallen(losses))
        return training.output(model, lora, losses)


def _plan(config: AblationConfig, pictures: int, run: Expected) -> Plan:
    rows = 1.0 + training.TRAINED * (1.0 + (config.prior > 0))
    return one_after_another([
        pool_plan(pictures, run.sampling),
        training.plan_of(STAGE, config.steps, config.batch * rows, "erasing by Concept Ablation"),
    ])  # fmt: skip
