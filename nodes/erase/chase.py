"""DarkMinerChase: mine and circumvent in the same steps."""

from __future__ import annotations

import logging
from dataclasses import asdict

from comfy_api.latest import io

from ...darkminer.method.chase import ChaseConfig, chase
from ...darkminer.method.circumvent import TrainResult
from ...darkminer.method.repair import RepairConfig, repair
from ...darkminer.method.retain import Retain
from ...darkminer.method.words import split_words
from ...darkminer.progress.plan import Expected, Plan, chase_plan, one_after_another, repair_plan
from ...darkminer.progress.words import fallen
from ...darkminer.types import EmbeddingPool
from .. import inputs, sockets
from ..fields import named
from ..host.run import Progress
from ..host.session import context_of
from .circumvent import training_output, training_outputs
from .erasing import lora_of, text_space
from .origin import stage_origin
from .stages import stage

NODE = "DarkMinerChase"

log = logging.getLogger(__name__)


class DarkMinerChase(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id=NODE,
            display_name="Chase (LoRA)",
            category="DarkMiner",
            description="Trains a LoRA against embeddings that keep mining while it trains.",
            inputs=[
                io.Model.Input("model", tooltip="The original model."),
                sockets.Pool.Input("pool", tooltip="Pictures of the concept."),
                sockets.Embeddings.Input(
                    "embeddings", tooltip="The concept's own contexts; here the chase begins."
                ),
                io.Conditioning.Input("anchor", tooltip="What to show instead, e.g. a photo."),
                inputs.seed(),
                *inputs.sampling(),
                io.Clip.Input(
                    "clip", optional=True,
                    tooltip="The model's text encoder: adversarial tokens mine through it as well.",
                ),
                io.String.Input(
                    "exclude_words", default="", optional=True,
                    tooltip="Words that no token starts from, separated by commas; used with clip.",
                ),
                *inputs.training(),
                inputs.number("rank", "Rank of a new LoRA.", 256),
                inputs.layers(),
                inputs.number("steps", "Steps of the chase; repairing follows in proportion."),
                inputs.rate("learning_rate", "Learning rate of the LoRA."),
                inputs.number("tokens", "Adversarial tokens that mine at once.", 256),
                inputs.settings(),
            ],
            outputs=training_outputs(),
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model, pool, embeddings, anchor, seed, sampling_steps, cfg, sampler_name, scheduler,
        batch_size, clip=None, exclude_words="", lora=None, bank=None, negative=None, rank=0,
        layers=inputs.AS_PRESET, steps=0, learning_rate=0.0, tokens=0, settings=None,
        **keep,
    ):  # fmt: skip
        with named(NODE):
            preset = inputs.preset_config("fast", settings)
            new = inputs.lora_config(preset.lora, rank, layers)
            config = inputs.chase_config(preset.chase, steps, learning_rate, tokens)
            mending = inputs.repair_config(preset.repair, preset.chase, steps)
            sampling = inputs.sampling_config(
                sampling_steps, cfg, sampler_name, scheduler, batch_size, settings
            )
            kept = inputs.keep_contexts(keep, NODE)
            progress = Progress(
                NODE,
                _plan(
                    config, mending, embeddings,
                    Expected(sampling, preset.retain, len(kept), len(bank or ())),
                ),
            )  # fmt: skip
            with stage(
                model, node=NODE, anchor=anchor, negative=negative, pool=pool, sampling=sampling,
                config=new, seed=seed, lora=lora,
            ) as (session, adapters):  # fmt: skip
                text = text_space(clip, pool, split_words(exclude_words)) if clip else None
                at = context_of(anchor, NODE, "anchor")
                retain = Retain(preset.retain, bank, kept, made={})
                if config.steps:
                    done = chase(
                        session, adapters, embeddings, pool, at, config, seed=seed, text=text,
                        retain=retain, report=progress,
                    )  # fmt: skip
                else:  # as a whole run leaves it out
                    log.info(
                        "%s: settings have no chase (chase_steps 0): lora stays as it is.", NODE
                    )
                    done = TrainResult(embeddings, [])
                if mending.steps:
                    more = repair(
                        session, adapters, done.embeddings, at, mending, seed=seed,
                        retain=retain, report=progress,
                    )  # fmt: skip
                    done = TrainResult(done.embeddings, done.losses + more)
                origin = stage_origin(
                    NODE, pool, anchor=anchor, negative=negative, sampling=sampling, bank=bank,
                    keep=kept, lora=lora, exclude=split_words(exclude_words),
                )  # fmt: skip
                used = {
                    "chase": asdict(config), "lora": asdict(new), "retain": asdict(preset.retain),
                    **({"repair": asdict(mending)} if mending.steps else {}),
                }  # fmt: skip
                trained = lora_of(session, adapters.state(), done.embeddings, used, seed, origin)
        progress.done(fallen(done.losses))
        return training_output(model, trained, done)


def _plan(
    config: ChaseConfig, mending: RepairConfig, embeddings: EmbeddingPool, run: Expected
) -> Plan:
    """What the node is going to do."""
    texts = [e for e in embeddings.entries if e.kind == "text"]
    new = sum(e.latents is None for e in embeddings.entries)
    subjects = sum(e.anchor is not None for e in texts)
    plans = [chase_plan(config, embeddings.round, subjects, new, run)]
    if mending.steps:
        plans.append(repair_plan(mending, embeddings.round, run))
    return one_after_another(plans)
