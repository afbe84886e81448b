"""EraseConcepts: a list of concepts in one run, each from the model without those before it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from comfy_api.latest import io
from torch import Tensor

from ...darkminer.config import EraseConfig
from ...darkminer.errors import DarkMinerError
from ...darkminer.files.lora_file import combine
from ...darkminer.files.lora_metadata import Origin
from ...darkminer.files.lora_outcome import is_empty
from ...darkminer.method.image_pool import concept_prompt
from ...darkminer.method.words import split_words
from ...darkminer.model.sampling import SamplingConfig
from ...darkminer.progress.plan import Plan, one_after_another, pool_plan
from .. import inputs, sockets
from ..checks import accepted
from ..fields import named
from ..host.lora import apply_lora
from ..host.run import Progress
from ..watched import WatchesEncoder
from .erasing import run_erasure, run_plan
from .image_pool import made, picture_inputs
from .kept import Kept, kept_inputs
from .loop import change_inputs, check_recipe, recipe_inputs, run_config
from .origin import encoder_record
from .report import report_picture
from .verify import encoder

NODE = "EraseConcepts"


class EraseConcepts(WatchesEncoder):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id=NODE,
            display_name="Erase Concepts",
            category="DarkMiner",
            search_aliases=inputs.ALIASES,
            description="Erases several concepts in one run: one LoRA for each, and one for all.",
            inputs=[
                io.Model.Input("model", tooltip="The model to erase from; it stays as it is."),
                io.Clip.Input("clip", tooltip="Its text encoder."),
                io.Vae.Input("vae", tooltip="Its VAE."),
                io.String.Input(
                    "concepts", default="van gogh\nmonet", multiline=True,
                    tooltip="What is to be erased, one a line, in the words a prompt would use.",
                ),
                *picture_inputs(),
                *recipe_inputs(),
                *change_inputs(),
                inputs.settings(),
                *kept_inputs(),
            ],
            outputs=[
                io.Model.Output(display_name="erased", tooltip="The model with all LoRAs on it."),
                sockets.Lora.Output(
                    display_name="combined",
                    tooltip="All erasures in one LoRA; its rank is the sum of their ranks.",
                ),
                sockets.Lora.Output(
                    display_name="loras", is_output_list=True,
                    tooltip="One erasure per concept of which anything was found; a node behind it "
                    "runs for each.",
                ),
                io.Image.Output(
                    display_name="reports", is_output_list=True,
                    tooltip="Pictures and scores per round, one report per concept.",
                ),
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(
        cls, concepts=None, template=None, preset=None, threshold=None, chase_steps=None,
        run_folder=None,
    ):  # fmt: skip
        def check():
            names = concept_lines(concepts) if concepts is not None else ["concept"]
            if template is not None:
                concept_prompt(names[0], template)

        words = accepted(cls, {}, check)
        recipe = check_recipe(cls, preset, threshold, chase_steps, run_folder)
        return words if words is not True else recipe

    @classmethod
    def execute(
        cls, model, clip, vae, concepts, template, size, width, height, anchor_prompt,
        negative_prompt, preset, max_rounds, seed, sampling_steps, cfg, sampler_name, scheduler,
        batch_size, clip_vision=None, open_clip_model="ViT-L-14", open_clip_weights="openai",
        exclude_words="", settings=None, run_folder="", max_minutes=0.0, **changes,
    ):  # fmt: skip
        with named(NODE):
            sampling = inputs.sampling_config(
                sampling_steps, cfg, sampler_name, scheduler, batch_size, settings
            )
            names, kept = concept_lines(concepts), Kept.of(run_folder, max_minutes)
            config = run_config(preset, settings, max_rounds, **changes)
            check_size(size, config)
            encode = encoder(clip_vision, open_clip_model, open_clip_weights, NODE)
            keep = inputs.keep_contexts(changes, NODE)
            # No erasure may keep what another one takes away.
            exclude = [*split_words(exclude_words), *split_words(" ".join(names))]
            erased, loras, reports, said = model, [], [], []
            progress = Progress(NODE, whole_plan(names, size, config, sampling, keep))
            for concept in names:
                if kept.over and loras:
                    said.append(f'The time was up before "{concept}" was begun.')
                    continue
                pool = made(
                    erased, clip, vae, concept, template, negative_prompt,
                    size, width, height, seed, sampling, progress,
                )  # fmt: skip
                done, lora = run_erasure(
                    erased, clip, vae, encode, pool, config, anchor=anchor_prompt,
                    negative=negative_prompt, seed=seed, exclude=exclude, sampling=sampling,
                    keep=keep, report=progress, kept=kept.below(concept),
                    origin=Origin(
                        node=NODE,
                        encoder=encoder_record(clip_vision, open_clip_model, open_clip_weights),
                    ),
                )  # fmt: skip
                if not done.outcome.empty:
                    erased = apply_lora(erased, lora)
                loras.append(lora)
                reports.append(report_picture(done))
                said.append(done.outcome.words)
            progress.done("\n".join(said))
            # What nothing was found of has no LoRA to save; its report says so.
            loras = [lora for lora in loras if not is_empty(lora)] or loras[:1]
            combined = combine(loras) if len(loras) > 1 else loras[0]
        return io.NodeOutput(erased, combined, loras, reports, ui={"text": said})


def whole_plan(
    names: Sequence[str], size: int, config: EraseConfig, sampling: SamplingConfig,
    keep: Sequence[Tensor],
) -> Plan:  # fmt: skip
    """What the node will do: a pool and an erasure for every concept."""
    run = run_plan(config, sampling, keep=keep)
    each = Plan((*pool_plan(size, sampling).parts, *run.parts), run.further)
    return one_after_another(
        each.of(f"{textwrap.shorten(name, 40, placeholder='…')} ({i} of {len(names)})")
        for i, name in enumerate(names, start=1)
    )


def check_size(size: int, config: EraseConfig) -> None:
    """Refuse a pool from which nothing can be mined; a run of no rounds mines once, to look.

    Raises:
        DarkMinerError: if so.
    """
    if size < config.mine.k:
        raise DarkMinerError(
            f"size is {size} and mining needs {config.mine.k} pictures: ask for more."
        )


def concept_lines(text: str) -> list[str]:
    """The concepts of a list with one a line.

    Raises:
        DarkMinerError: if there is none, or one stands there twice.
    """
    names = [line.strip() for line in text.splitlines() if line.strip()]
    if not names:
        raise DarkMinerError("concepts is empty: write what is to be erased, one concept a line.")
    seen: set[str] = set()
    for name in names:
        if name.lower() in seen:
            raise DarkMinerError(f"concepts names {name!r} twice: write each concept once.")
        seen.add(name.lower())
    return names
