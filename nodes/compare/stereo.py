"""STEREO as a node."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...darkminer.compare.layers import adapters_on
from ...darkminer.compare.stereo import SEARCH, STAGE, Spoken, StereoConfig, stereo
from ...darkminer.errors import DarkMinerError
from ...darkminer.progress.plan import TRAINED, Part, Plan
from ...darkminer.progress.words import fallen
from ...darkminer.types import ImagePool
from .. import inputs
from ..erase.erasing import pool_template, text_templates
from ..fields import named
from ..host.run import Progress
from ..host.text import TextEncoder, contexts, speaks
from . import training

NODE = "StereoErasure"


class StereoErasure(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id=NODE,
            display_name="STEREO",
            category=training.CATEGORY,
            search_aliases=[*training.ALIASES, "robust", "adversarial", "textual inversion"],
            description="Erases and attacks by textual inversion in turns, then erases the concept "
            "and all tokens that were found at once (Srivatsan et al., 2025).",
            inputs=[
                *training.models(),
                training.layers(),
                training.whole("rounds", 2, "Tokens to search for, one after the other.", 100),
                *training.descent(200, 0.001),
                training.whole("search_steps", 500, "Steps of each search (authors: 3000).", 10**5),
                training.real("search_rate", 0.005, "Learning rate of each search.", 1.0, 1e-7),
                io.String.Input(
                    "word", default="picture",
                    tooltip="The word that a search starts from, one that the CLIP knows whole: "
                    "object, person, art.",
                ),
                training.real("eta", 1.0, "Negative guidance of the erasing between searches."),
                training.real("toward", 1.0, "How much of an anchor prompt is kept at last."),
                training.real("away", 3.0, "How far away from concept and tokens at last."),
                *training.drawn(),
                training.whole(
                    "prompts", 64, "Anchor prompts: the concept with another word each.", 1000
                ),
                training.exclude(),
                inputs.seed(),
            ],
            outputs=training.outputs(),
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model, clip, pool, layers, rounds, steps, learning_rate, rank, search_steps,
        search_rate, word, eta, toward, away, draw_steps, guidance, prompts, exclude_words, seed,
    ):  # fmt: skip
        with named(NODE):
            config = StereoConfig(
                steps=steps, lr=learning_rate, lr_late=learning_rate, eta=eta, rounds=rounds,
                search_steps=search_steps, search_lr=search_rate, toward=toward, away=away,
                draw_steps=draw_steps, guidance=guidance,
            )  # fmt: skip
            new = training.lora_settings(rank)
            anchors = _anchors(clip, pool, exclude_words, prompts, seed)
            progress = Progress(NODE, _plan(config))
            with training.session_of(model, clip, pool, NODE) as session:
                spoken = Spoken(
                    TextEncoder(clip), text_templates(pool_template(pool)),
                    training.spoken(clip, pool), contexts(clip, anchors),
                    contexts(clip, [training.EMPTY])[0],
                )  # fmt: skip
                adapters = adapters_on(session, training.PARTS[layers], new, seed)
                searched, losses = stereo(
                    session, adapters, spoken, pool.latents, config, seed=seed, word=word,
                    report=progress,
                )  # fmt: skip
                made = training.Made(
                    adapters.state(), [*searched, *losses], "STEREO",
                    training.settings_record(stereo=config, lora=new)
                    | {"layers": layers, "word": word, "prompts": len(anchors)},
                )  # fmt: skip
                origin = training.origin_of(NODE, pool, training.EMPTY)
                lora = training.lora_from(model, session, pool, made, seed, origin)
        progress.done(fallen(losses))
        return training.output(model, lora, made.losses)


def _anchors(clip: Any, pool: ImagePool, exclude: str, words: int, seed: int) -> list[str]:
    """Prompts that join the concept with a word each.

    Raises:
        DarkMinerError: if no token can be learnt through the CLIP, or no word is left.
    """
    if not speaks(clip):
        raise DarkMinerError(
            "STEREO learns tokens through the text encoder, which must be a CLIP: use a Stable "
            "Diffusion 1.x, 2.x or SDXL checkpoint, or another method."
        )
    return [said for said, _ in training.pairs(clip, pool, "", exclude, words, seed)[1:]]


def _plan(config: StereoConfig) -> Plan:
    def erasing(round_: int, rows: float, title: str) -> Part:
        return Part(STAGE, round_, "", title, config.steps * (config.draw_steps + rows + TRAINED))

    searching = config.search_steps * config.search_batch * TRAINED
    searches = [
        part for k in range(1, config.rounds + 1) for part in (
            erasing(k, 2, f"search {k} · erase"),
            Part(STAGE, k, SEARCH, f"search {k} · attack", searching),
        )
    ]  # fmt: skip
    return Plan((*searches, erasing(0, 3 + config.rounds, "erase once")))
