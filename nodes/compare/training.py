"""What the compared methods' nodes share: from inputs to a session, and back to a LoRA."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ...darkminer.files.lora_file import LoraDict, to_state_dict
from ...darkminer.files.lora_metadata import Origin, metadata
from ...darkminer.method.text_start import concept_prompts, subject_prompts
from ...darkminer.method.words import split_words
from ...darkminer.model.adapter import AdapterState, LoraConfig
from ...darkminer.model.interface import DiffusionModel
from ...darkminer.model.sampling import SamplingConfig
from ...darkminer.progress.plan import TRAINED, Part, Plan
from ...darkminer.rng import generator
from ...darkminer.settings import Settings
from ...darkminer.types import EmbeddingPool, ImagePool
from .. import inputs, sockets
from ..erase.erasing import pool_template, text_templates, words_left
from ..erase.origin import pool_record
from ..erase.stages import check_latents
from ..host.lora import apply_lora, names_at
from ..host.session import training_session
from ..host.text import conditioning, contexts

CATEGORY = "DarkMiner/compare"
EMPTY = ""
PARTS = {"cross-attention": "x", "everything else": "u", "both": "all"}
ALIASES = ["erase", "unlearn", "forget", "baseline", "concept erasure"]


@dataclass(frozen=True)
class Made:
    """What a method made.

    Attributes:
        state: the LoRA's weights; losses: of every step.
        method: its short name; settings: what it was set to, and what is to be told of the result.
    """

    state: AdapterState
    losses: Sequence[float]
    method: str
    settings: Mapping[str, Any]


@contextmanager
def session_of(
    model: Any,
    clip: Any,
    pool: ImagePool,
    node: str,
    *,
    anchor: str = EMPTY,
    sampling: SamplingConfig = inputs.NO_PICTURES,
) -> Iterator[DiffusionModel]:
    """A training session whose other side of guidance is the empty prompt.

    Raises:
        DarkMinerError: if the pool does not fit the MODEL, or the MODEL cannot be trained on.
    """
    with training_session(
        model, anchor=conditioning(clip, anchor), negative=conditioning(clip, EMPTY),
        sampling=sampling, latent_size=pool.latent_size,
    ) as session:  # fmt: skip
        check_latents(session, pool, node)
        yield session


def wordings(pool: ImagePool) -> list[str]:
    """The concept in the text start's templates: alone, with an article, in the pool's own."""
    return concept_prompts(pool.concept, text_templates(pool_template(pool)))


def spoken(clip: Any, pool: ImagePool) -> list[Tensor]:
    """Their contexts ``[L, D]``."""
    return contexts(clip, wordings(pool))


def pairs(
    clip: Any, pool: ImagePool, anchor: str, exclude: str, words: int, seed: int
) -> list[tuple[str, str]]:
    """Prompts that name the concept, each with the same prompt without it.

    The first is the pool's own template and the anchor prompt; the others have a word of the
    vocabulary besides.

    Args:
        exclude: words that none may hold, by comma; words: how many there are to be.

    Raises:
        DarkMinerError: if the pool names no concept, or no word is left.
    """
    template = pool_template(pool)
    own = concept_prompts(pool.concept, [template])[0]
    left = words_left(clip, pool, split_words(exclude)) if words else []
    order = torch.randperm(len(left), generator=generator(seed, 0, "compare.words")).tolist()
    chosen = [left[i] for i in order[:words]]
    return [(own, anchor), *subject_prompts(pool.concept, template, chosen)]


def said(clip: Any, prompts: Sequence[tuple[str, str]]) -> list[tuple[Tensor, Tensor]]:
    """Their contexts ``[L, D]``."""
    made = contexts(clip, [p for pair in prompts for p in pair])
    return list(zip(made[::2], made[1::2], strict=True))


def lora_settings(rank: int) -> LoraConfig:
    """A LoRA of a rank whose alpha is the rank."""
    return LoraConfig(rank=rank, alpha=float(rank))


def plan_of(stage: str, steps: int, rows: float, title: str) -> Plan:
    """One part: a training of so many steps, each of so many rows without gradients."""
    return Plan((Part(stage, 0, "", title, steps * (rows + TRAINED)),))


def lora_from(model: Any, session: DiffusionModel, pool: ImagePool, made: Made, seed: int,
              origin: Origin) -> LoraDict:  # fmt: skip
    """The LORA_MODEL of a method, with the metadata of the file that it will become."""
    about = metadata(
        made.state, EmbeddingPool(concept=pool.concept), seed=seed,
        settings={"method": made.method, **made.settings}, fingerprint=session.fingerprint,
        family=session.family, origin=origin,
    )  # fmt: skip
    return LoraDict(to_state_dict(made.state, names_at(model, made.state.up)), about)


def origin_of(node: str, pool: ImagePool, anchor: str, sampling: SamplingConfig | None = None):
    """What the file says of where it comes from."""
    return Origin(
        node=node, concept=pool.concept, anchor=anchor, negative=EMPTY, sampling=sampling,
        pool=pool_record(pool),
    )  # fmt: skip


def settings_record(**parts: Settings) -> dict[str, Any]:
    """Settings by their names, as metadata has them."""
    return {name: asdict(part) for name, part in parts.items()}


def models() -> list:
    """MODEL, CLIP and image pool."""
    return [
        io.Model.Input("model", tooltip="The original model."),
        io.Clip.Input("clip", tooltip="The model's text encoder."),
        sockets.Pool.Input(
            "pool", tooltip="Names the concept and its template, and the pictures' size."
        ),
    ]  # fmt: skip


def anchor():
    """The anchor prompt."""
    return io.String.Input(
        "anchor_prompt", default="a photo",
        tooltip="What the model shows instead; it must not name the concept.",
    )  # fmt: skip


def preserve_prompts():
    """Prompts that are kept, a line each."""
    return io.String.Input(
        "preserve_prompts", default="", multiline=True,
        tooltip="Prompts that must stay what they are, one a line; the empty prompt always is.",
    )  # fmt: skip


def exclude():
    """Words that no prompt made here may hold."""
    return io.String.Input(
        "exclude_words", default="",
        tooltip="Words that no prompt made here may hold, separated by commas.",
    )  # fmt: skip


def lines(text: str) -> list[str]:
    """Its lines that hold something."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def whole(name: str, default: int, tooltip: str, largest: int = 100_000, smallest: int = 1):
    """A whole number."""
    return io.Int.Input(name, default=default, min=smallest, max=largest, tooltip=tooltip)


def real(name: str, default: float, tooltip: str, largest: float = 100.0, smallest: float = 0.0):
    """A number."""
    return io.Float.Input(
        name, default=default, min=smallest, max=inputs.Limit(largest), step=0.0001, round=False,
        tooltip=tooltip,
    )  # fmt: skip


def descent(steps: int, rate: float) -> list:
    """Steps, rate and rank of a LoRA that is trained."""
    return [
        whole("steps", steps, "Optimiser steps."),
        real("learning_rate", rate, "Adam's learning rate.", 1.0, 1e-7),
        whole("rank", 16, "Rank of the LoRA.", 256),
    ]


def layers():
    """Which layers are trained, of :data:`PARTS`."""
    return io.Combo.Input(
        "layers", options=list(PARTS), default="both",
        tooltip="Which linear layers of the attention blocks are adapted.",
    )  # fmt: skip


def drawn() -> list:
    """Pictures half drawn by the student."""
    return [
        whole(
            "draw_steps", 20, "Sampling steps of the pictures that it trains on, which "
            "the erased model draws half (authors: 50).", 200,
        ),
        real("guidance", 3.0, "Guidance of these pictures.", 30.0),
    ]  # fmt: skip


def outputs(losses: bool = True) -> list:
    """What the nodes give."""
    made = [
        io.Model.Output(display_name="erased", tooltip="The model with the LoRA on it."),
        sockets.Lora.Output(
            display_name="lora", tooltip="The erasure, for Save Erasure LoRA: method and settings "
            "are in its metadata.",
        ),
    ]  # fmt: skip
    loss = sockets.LossMap.Output(display_name="loss", tooltip="Loss of each step.")
    return [*made, loss] if losses else made


def output(model: Any, lora: LoraDict, losses: Sequence[float] | None = None) -> io.NodeOutput:
    """The values of :func:`outputs`."""
    made = (apply_lora(model, lora), lora)
    if losses is None:
        return io.NodeOutput(*made)
    return io.NodeOutput(*made, {"loss": [torch.tensor(v) for v in losses]})
