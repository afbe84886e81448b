"""What the stage nodes share: from node inputs to a session with adapters, and back to a LoRA."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from ...darkminer.errors import DarkMinerError
from ...darkminer.method.image_pool import check_origin
from ...darkminer.method.loop import new_adapters
from ...darkminer.model.adapter import Adapters, AdapterState, LoraConfig
from ...darkminer.model.interface import DiffusionModel
from ...darkminer.model.layers import layers_of
from ...darkminer.model.sampling import SamplingConfig
from ...darkminer.types import ImagePool
from ..fields import named
from ..host.lora import state_of
from ..host.session import Conditioning, training_session


@contextmanager
def stage(
    model: Any,
    *,
    node: str,
    anchor: Conditioning,
    pool: ImagePool,
    sampling: SamplingConfig,
    config: LoraConfig,
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


def as_continued(config: LoraConfig, state: AdapterState, model: Any) -> LoraConfig:
    """The settings, with rank, alpha and layers of the LoRA that is continued."""
    layers = layers_of(state.up, model.model.diffusion_model)
    return replace(config, rank=state.rank, alpha=state.alpha, layers=layers)


def check_width(session: DiffusionModel, cond: Conditioning, node: str, field: str) -> None:
    """Refuse a CONDITIONING whose width is not what the model's cross-attention takes."""
    for context, _ in cond:
        if context.shape[-1] != session.context_dim:
            raise DarkMinerError(
                f"{node}: {field} is {context.shape[-1]} wide and this MODEL takes "
                f"{session.context_dim}: use the CLIP that belongs to the MODEL."
            )


def check_latents(session: DiffusionModel, pool: ImagePool, node: str) -> None:
    """Refuse a pool that another model or VAE made."""
    with named(node):
        check_origin(pool, session)
