"""The gallery's model in a training session, with a small pool: what the CPU rows run on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

ANCHOR, NEGATIVE, TEMPLATE, SEED = "a drawing", "", "a * drawing", 0


@dataclass(frozen=True)
class World:
    """Session, image encoder (if pictures can be looked at), pool, contexts of anchor and empty
    prompt, and the network's shape in the host's terms."""

    models: tuple[Any, ...]
    session: Any
    encode: Any
    pool: Any
    anchor: Tensor
    empty: Tensor
    sampling: Any
    shape: Any


def gallery_pool(models: tuple[Any, ...], style: str, size: int, sampling: Any) -> Any:
    """``size`` pictures of a style by the gallery's model."""
    from dark_miner.demo.gallery import SIZE
    from dark_miner.nodes.erase.image_pool import made

    model, clip, vae, _ = models
    return made(
        model, clip, vae, style, TEMPLATE, NEGATIVE, size, SIZE, SIZE, SEED, sampling,
        lambda report: None,
    )  # fmt: skip


@contextmanager
def gallery_world(style: str, size: int = 24) -> Iterator[World]:
    """A training session as the loop node opens it."""
    from dark_miner.benchmarks.erasure import gallery_sampling
    from dark_miner.demo.models import UNET, load_demo_models
    from dark_miner.nodes.host.session import context_of, training_session
    from dark_miner.nodes.host.text import conditioning
    from dark_miner.nodes.host.vision import vision_encoder

    models = model, clip, vae, vision = load_demo_models()
    sampling = gallery_sampling()
    pool = gallery_pool(models, style, size, sampling)
    anchor, negative = conditioning(clip, ANCHOR), conditioning(clip, NEGATIVE)
    with training_session(
        model, anchor=anchor, negative=negative, sampling=sampling,
        latent_size=pool.latent_size, vae=vae,
    ) as session:  # fmt: skip
        yield World(
            models, session, vision_encoder(vision, "speed"), pool,
            context_of(anchor, "speed", "anchor"), context_of(negative, "speed", "negative"),
            sampling, UNET,
        )  # fmt: skip


def reference_of(world: World) -> Any:
    """The reference on the same weights, in float32 on the same device."""
    import comfy.utils
    from dark_miner.benchmarks.reference import Reference, unet_from_ldm

    weights = {k: v.detach() for k, v in world.models[0].model.diffusion_model.state_dict().items()}
    unet = unet_from_ldm(weights, world.shape, comfy.utils.unet_to_diffusers(world.shape))
    return Reference(unet.to(world.session.device))


def random_embedding(world: World, round_: int = 1) -> Any:
    """A mined embedding's stand-in with pictures; speed does not depend on its values."""
    from dark_miner.darkminer.types import MinedEmbedding

    gen = torch.Generator().manual_seed(round_)
    context = torch.randn(32, world.session.context_dim, generator=gen)
    latents = world.pool.latents[:4].clone()
    return MinedEmbedding(context, round_, (0, 1, 2), latents=latents)
