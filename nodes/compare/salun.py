"""Saliency Unlearning (SalUn) as a node."""

from __future__ import annotations

import logging

import torch
from comfy_api.latest import io

from ...darkminer.compare.as_lora import fitted
from ...darkminer.compare.salun import STAGE, SalUnConfig, salun
from ...darkminer.model.sampling import sample_each, seeded_noise
from ...darkminer.progress.plan import Expected, Plan, one_after_another, pool_plan
from ...darkminer.progress.words import fallen
from ...darkminer.rng import generator
from ...darkminer.types import Tally
from .. import inputs
from ..fields import named
from ..host.run import Progress
from . import training

NODE = "SaliencyUnlearning"

log = logging.getLogger(__name__)


class SaliencyUnlearning(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id=NODE,
            display_name="Saliency Unlearning (SalUn)",
            category=training.CATEGORY,
            search_aliases=training.ALIASES,
            description="Trains only the weights that matter for the concept to take it for the "
            "anchor (Fan et al., 2024); the change becomes the nearest LoRA.",
            inputs=[
                *training.models(),
                training.anchor(),
                training.whole("steps", 300, "Optimiser steps."),
                training.real("learning_rate", 0.0001, "Adam's learning rate.", 1.0, 1e-7),
                training.whole(
                    "rank", 64, "Highest rank of the LoRA; the node says what is missing.", 1024
                ),
                training.whole("batch", 4, "Pictures of the concept in a step.", 256),
                training.real("share", 0.5, "Share of the weights that may move.", 1.0, 1e-4),
                training.real("beta", 1.0, "Weight of the pictures that stay."),
                training.whole("prompts", 64, "Prompts that stay, each with a picture.", 10_000),
                training.exclude(),
                inputs.seed(),
                *inputs.sampling(),
            ],
            outputs=training.outputs(),
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model, clip, pool, anchor_prompt, steps, learning_rate, rank, batch, share, beta,
        prompts, exclude_words, seed, sampling_steps, cfg, sampler_name, scheduler, batch_size,
    ):  # fmt: skip
        with named(NODE):
            config = SalUnConfig(
                steps=steps, lr=learning_rate, lr_late=learning_rate, batch=batch, share=share,
                beta=beta,
            )  # fmt: skip
            sampling = inputs.sampling_config(
                sampling_steps, cfg, sampler_name, scheduler, batch_size
            )
            pairs = training.pairs(clip, pool, anchor_prompt, exclude_words, prompts, seed)
            told = training.said(clip, pairs)
            stay = [anchor for _, anchor in told]
            progress = Progress(NODE, _plan(config, len(stay), Expected(sampling)))
            with training.session_of(
                model, clip, pool, NODE, anchor=anchor_prompt, sampling=sampling
            ) as session:
                noise = seeded_noise(session, len(stay), generator(seed, 0, "compare.pictures"))
                with torch.no_grad():
                    latents = sample_each(
                        session, stay, noise, Tally(progress, "pool", 0, len(stay))
                    )
                changes, losses = salun(
                    session, pool.latents, *told[0], stay, latents, config, seed=seed,
                    report=progress,
                )  # fmt: skip
                made = fitted(changes, rank)
                used = training.settings_record(salun=config) | {
                    "prompts": len(pairs), "rank_error": made.error,
                    "rank_error_worst": made.worst, "rank_needed": made.needed,
                }  # fmt: skip
                lora = training.lora_from(
                    model, session, pool, training.Made(made.state, losses, "SalUn", used), seed,
                    training.origin_of(NODE, pool, anchor_prompt, sampling),
                )  # fmt: skip
        log.info("%s: %s", NODE, made.words)
        progress.done(f"{fallen(losses)} · {made.words}")
        return training.output(model, lora, losses)


def _plan(config: SalUnConfig, pictures: int, run: Expected) -> Plan:
    rows = 1.0 + training.TRAINED * (1.0 + (config.beta > 0))
    return one_after_another([
        pool_plan(pictures, run.sampling),
        training.plan_of(STAGE, config.steps, config.batch * rows, "erasing by SalUn"),
    ])  # fmt: skip
