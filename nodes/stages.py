"""What the stage nodes share: from node inputs to a session with adapters, and back to a LoRA."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from ..darkminer.adapter import Adapters, AdapterState
from ..darkminer.config import CircumventConfig, SamplingConfig
from ..darkminer.errors import DarkMinerError
from ..darkminer.image_pool import check_origin
from ..darkminer.layers import layers_of
from ..darkminer.loop import new_adapters
from ..darkminer.types import DiffusionModel, EmbeddingPool, ImagePool, MinedEmbedding
from .host import Conditioning, context_of, training_session
from .host_lora import state_of
from .host_run import named


@contextmanager
def stage(
    model: Any,
    *,
    node: str,
    anchor: Conditioning,
    pool: ImagePool,
    sampling: SamplingConfig,
    config: CircumventConfig,
    seed: int,
    lora: Any = None,
    negative: Conditioning | None = None,
    vae: Any = None,
) -> Iterator[tuple[DiffusionModel, Adapters]]:
    """A training session on the MODEL with adapters inside, fresh or continuing ``lora``.

    Raises:
        DarkMinerError: if pool, prompt or LoRA do not fit the MODEL.
    """
    with training_session(
        model, anchor=anchor, negative=negative, sampling=sampling,
        latent_size=pool.latent_size, vae=vae,
    ) as session:  # fmt: skip
        check_latents(session, pool, node)
        state = state_of(lora, model) if lora is not None else None
        if state is not None:
            config = as_continued(config, state, model)
        adapters = new_adapters(session, config, seed=seed, state=state)
        yield session, adapters


def as_continued(config: CircumventConfig, state: AdapterState, model: Any) -> CircumventConfig:
    """The settings with rank, alpha and layers of the LoRA that is continued."""
    layers = layers_of(state.up, model.model.diffusion_model)
    return replace(config, rank=state.rank, alpha=state.alpha, layers=layers)


def check_width(session: DiffusionModel, cond: Conditioning, node: str, field: str) -> None:
    """Refuse a CONDITIONING whose width is not what the model's cross-attention takes."""
    given = cond[0][0].shape[-1]
    if given != session.context_dim:
        raise DarkMinerError(
            f"{node}: {field} is {given} wide and this MODEL takes {session.context_dim}: use the "
            "CLIP that belongs to the MODEL."
        )


def check_latents(session: DiffusionModel, pool: ImagePool, node: str) -> None:
    """Refuse a pool that another model or VAE made."""
    with named(node):
        check_origin(pool, session)


ROUND = "darkminer_round"
"""What mined CONDITIONING carries besides the anchor's vectors: the round that mined it."""


def mined_into(
    embeddings: EmbeddingPool | None, mined: Conditioning, concept: str, node: str
) -> EmbeddingPool:
    """The pool with the newest round's contexts as ``mined`` ``[m, L, D]`` has them.

    A node between may have changed the CONDITIONING. Without embeddings, or where it comes from
    elsewhere altogether and says no round, it opens a round of its own.

    Raises:
        DarkMinerError: if ``mined`` and ``embeddings`` are not of the same mining.
    """
    contexts = context_of(mined, node, "mined")
    round_ = mined[0][1].get(ROUND)
    if embeddings is None or round_ is None:
        before = embeddings or EmbeddingPool(concept=concept)
        return before.opened(MinedEmbedding(c, before.round + 1) for c in contexts)
    current = embeddings.current()
    if round_ != embeddings.round:
        raise DarkMinerError(
            f"{node}: mined is of round {round_} and embeddings of round {embeddings.round}: "
            "connect the embeddings that the same MineEmbedding gives."
        )
    if len(current) != len(contexts):
        raise DarkMinerError(
            f"{node}: mined holds {len(contexts)} embeddings and the round in embeddings "
            f"{len(current)}: connect mined and embeddings of the same MineEmbedding."
        )
    entries = tuple(replace(e, context=c) for e, c in zip(current, contexts, strict=True))
    return replace(embeddings, entries=(*embeddings.earlier(), *entries))


def as_conditioning(embeddings: EmbeddingPool, anchor: Conditioning) -> Conditioning:
    """The newest round's contexts as CONDITIONING, with the anchor's other vectors."""
    contexts = torch.stack([e.context for e in embeddings.current()])
    return [[contexts, {**anchor[0][1], ROUND: embeddings.round}]]
