"""CircumventLoRA: train the LoRA so that the embeddings lead to the anchor."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ...darkminer.config import EraseConfig
from ...darkminer.files.lora_file import LoraDict
from ...darkminer.files.lora_outcome import is_empty
from ...darkminer.method.circumvent import CircumventConfig, TrainResult, circumvent
from ...darkminer.method.outcome import nothing_found
from ...darkminer.method.retain import Retain
from ...darkminer.model.sampling import SamplingConfig
from ...darkminer.progress.plan import Expected, Plan, circumvent_plan
from ...darkminer.progress.words import fallen
from ...darkminer.types import EmbeddingPool, RetainSet
from .. import inputs, sockets
from ..fields import named
from ..host.lora import apply_lora
from ..host.run import Progress
from ..host.session import context_of
from .erasing import lora_of
from .origin import stage_origin
from .stages import stage

NODE = "CircumventLoRA"

log = logging.getLogger(__name__)


class CircumventLoRA(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id=NODE,
            display_name="Circumvent (LoRA)",
            category="DarkMiner",
            description="Trains a LoRA on the value projections towards the anchor (eq. 7, 8).",
            inputs=[
                io.Model.Input("model", tooltip="The original model."),
                sockets.Pool.Input("pool", tooltip="Pictures of the concept (for their size)."),
                sockets.Embeddings.Input("embeddings", tooltip="What is to be circumvented."),
                io.Conditioning.Input("anchor", tooltip="What to show instead, e.g. a photo."),
                inputs.preset(),
                inputs.seed(),
                *inputs.sampling(),
                *inputs.training(),
                inputs.number("rank", "Rank of a new LoRA (the paper: 8).", 256),
                inputs.layers(),
                inputs.number(
                    "steps", "Optimiser steps (the paper: 1000); before the first round has mined "
                    "the preset has others.",
                ),
                inputs.rate(
                    "learning_rate", "Learning rate (the paper: 0.01, later 0.001); before the "
                    "first round has mined the preset has another.",
                ),
                inputs.rate(
                    "r", "Probability of an embedding of the newest round (paper: 0.7).", 1.0
                ),
                inputs.rate("alpha_c", "Weight of the circumventing loss (the paper: 1)."),
                inputs.rate("alpha_p", "Weight of the preserving loss (the paper: 0.5)."),
                inputs.settings(),
            ],
            outputs=training_outputs(),
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model, pool, embeddings, anchor, preset, seed, sampling_steps, cfg, sampler_name,
        scheduler, batch_size, lora=None, bank=None, negative=None, rank=0,
        layers=inputs.AS_PRESET, steps=0, learning_rate=0.0, r=0.0, alpha_c=0.0, alpha_p=0.0,
        settings=None, **keep,
    ):  # fmt: skip
        with named(NODE):
            chosen = inputs.preset_config(preset, settings)
            if bank is not None and not chosen.retain.weight:
                log.info("%s: retain_weight is 0: the bank counts for nothing here.", NODE)
            base = chosen.circumvent if embeddings.round else chosen.start
            config = inputs.circumvent_config(base, steps, learning_rate, r, alpha_c, alpha_p)
            new = inputs.lora_config(chosen.lora, rank, layers)
            sampling = inputs.sampling_config(
                sampling_steps, cfg, sampler_name, scheduler, batch_size, settings
            )
            kept = inputs.keep_contexts(keep, NODE)
            progress = Progress(
                NODE, training_plan(config, chosen, embeddings, sampling, kept, bank)
            )
            with stage(
                model, node=NODE, anchor=anchor, negative=negative, pool=pool, sampling=sampling,
                config=new, seed=seed, lora=lora,
            ) as (session, adapters):  # fmt: skip
                if nothing_found(embeddings):  # Round: Close then wants a LoRA all the same
                    done = TrainResult(embeddings, [])
                else:
                    done = circumvent(
                        session, adapters, embeddings, context_of(anchor, NODE, "anchor"), config,
                        seed=seed, retain=Retain(chosen.retain, bank, kept), report=progress,
                    )  # fmt: skip
                origin = stage_origin(
                    NODE, pool, anchor=anchor, negative=negative, sampling=sampling, bank=bank,
                    keep=kept, lora=lora,
                )  # fmt: skip
                used = {
                    "circumvent" if embeddings.round else "start": asdict(config),
                    "lora": asdict(new), "retain": asdict(chosen.retain),
                }  # fmt: skip
                trained = lora_of(session, adapters.state(), done.embeddings, used, seed, origin)
        progress.done(fallen(done.losses))
        return training_output(model, trained, done)


def training_plan(
    config: CircumventConfig,
    preset: EraseConfig,
    embeddings: EmbeddingPool,
    sampling: SamplingConfig,
    keep: Sequence[Tensor],
    bank: RetainSet | None,
) -> Plan:
    """What the node will do."""
    new = sum(e.latents is None for e in embeddings.entries)
    where = f"round {embeddings.round}" if embeddings.round else "text start"
    run = Expected(sampling, preset.retain, len(keep), len(bank or ()))
    return circumvent_plan(config, embeddings.round, new, run, where=where)


def training_outputs() -> list:
    """What a node that trains the LoRA gives."""
    return [
        io.Model.Output(display_name="erased", tooltip="The model with the LoRA on it."),
        sockets.Lora.Output(display_name="lora", tooltip="The erasure."),
        sockets.Embeddings.Output(
            display_name="embeddings", tooltip="The embeddings with their pictures."
        ),
        sockets.LossMap.Output(display_name="loss", tooltip="Loss of each step."),
    ]


def training_output(model: Any, trained: LoraDict, done: TrainResult) -> io.NodeOutput:
    """The values of :func:`training_outputs`."""
    loss = {"loss": [torch.tensor(v) for v in done.losses]}
    erased = model if is_empty(trained) else apply_lora(model, trained)
    return io.NodeOutput(erased, trained, done.embeddings, loss)
