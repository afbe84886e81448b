"""Full-size networks with random weights: speed does not depend on what a network has learnt."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .gallery import World

_COMMON = {
    "image_size": 32, "use_spatial_transformer": True, "legacy": False, "in_channels": 4,
    "out_channels": 4, "use_temporal_attention": False, "use_temporal_resblock": False,
}  # fmt: skip


@dataclass(frozen=True)
class Family:
    """A UNet's shape in the host's terms, the size of its latents and of its prompts."""

    kind: str
    side: int
    tokens: int
    shape: dict[str, Any]


SD15 = Family("SD15", 64, 77, {
    **_COMMON, "model_channels": 320, "num_res_blocks": [2, 2, 2, 2], "channel_mult": [1, 2, 4, 4],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0], "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0], "num_heads": 8,
    "context_dim": 768, "use_linear_in_transformer": False, "adm_in_channels": None,
})  # fmt: skip
SDXL = Family("SDXL", 128, 77, {
    **_COMMON, "model_channels": 320, "num_res_blocks": [2, 2, 2], "channel_mult": [1, 2, 4],
    "transformer_depth": [0, 0, 2, 2, 10, 10], "transformer_depth_middle": 10,
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10], "num_head_channels": 64,
    "context_dim": 2048, "use_linear_in_transformer": True, "num_classes": "sequential",
    "adm_in_channels": 2816,
})  # fmt: skip
SMALL = Family("SD15", 8, 32, {
    **_COMMON, "model_channels": 64, "num_res_blocks": [1, 1], "channel_mult": [1, 2],
    "transformer_depth": [1, 0], "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 0, 0], "num_heads": 8,
    "context_dim": 64, "use_linear_in_transformer": False, "adm_in_channels": None,
})  # fmt: skip
"""Stands in where no GPU is at hand: the same code, nothing to report."""


def random_model(family: Family) -> Any:
    """A MODEL of the host's with random weights: bfloat16 on a GPU, float32 on a CPU."""
    import comfy.model_management as management
    import comfy.model_patcher
    import comfy.supported_models

    device = management.get_torch_device()
    config = getattr(comfy.supported_models, family.kind)(dict(family.shape))
    config.set_inference_dtype(torch.bfloat16 if device.type == "cuda" else torch.float32, None)
    model = config.get_model({}, "", device=device)
    gen = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for module in model.diffusion_model.modules():
            _start(module, gen)
    offload = management.unet_offload_device()
    return comfy.model_patcher.ModelPatcher(model.to(offload), device, offload)


def meta_network(family: Family) -> nn.Module:
    """The family's network in bfloat16 on torch's meta device: shapes and no numbers."""
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    made = UNetModel(
        **family.shape,
        dtype=torch.bfloat16,
        device="meta",
        operations=comfy.ops.disable_weight_init,
    )
    return made.requires_grad_(False)


def meta_question(network: nn.Module, family: Family, memory: Any) -> Callable[[], Tensor]:
    """Ask a meta network for one sample, as a session does, under a plan."""
    from dark_miner.nodes.host.predict import fused_attention

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, device="meta", dtype=torch.bfloat16)

    options = {"optimized_attention_override": fused_attention}
    adm = family.shape.get("adm_in_channels")

    def denoise(x: Tensor, timestep: Tensor, context: Tensor) -> Tensor:
        y = empty(len(x), adm) if adm else None
        return network(x, timestep, context=context, y=y, transformer_options=options)

    cut = memory.denoiser(denoise, network)
    context = empty(1, family.tokens, family.shape["context_dim"]).requires_grad_(True)
    x, timestep = empty(1, 4, family.side, family.side), empty(1)
    return lambda: cut(x, timestep, context)


def _start(module: nn.Module, gen: torch.Generator) -> None:
    """Plain start values: outputs about as large as inputs, norms that change nothing."""
    for name, p in module.named_parameters(recurse=False):
        if name == "bias":
            p.zero_()
        elif p.ndim < 2:
            p.fill_(1.0)
        else:
            p.normal_(std=p[0].numel() ** -0.5, generator=gen)


@contextmanager
def full_size_world(family: Family) -> Iterator[World]:
    """A training session on a random network, with a pool of random latents and random prompts."""
    from dark_miner.darkminer.model.sampling import SamplingConfig
    from dark_miner.darkminer.types import ImagePool
    from dark_miner.nodes.host.session import training_session

    model = random_model(family)
    gen = torch.Generator().manual_seed(0)

    def prompt() -> list[list[Any]]:
        width = family.shape["context_dim"]
        extra = {"pooled_output": _normal(gen, 1, 1280)} if family.kind == "SDXL" else {}
        return [[_normal(gen, 1, family.tokens, width), extra]]

    anchor, negative = prompt(), prompt()
    sampling = SamplingConfig(20, 7.5, "euler", "normal", 8)
    with training_session(
        model, anchor=anchor, negative=negative, sampling=sampling,
        latent_size=(family.side, family.side),
    ) as session:  # fmt: skip
        latents = _normal(gen, 4, 4, family.side, family.side)
        images = torch.zeros(4, 8, 8, 3, dtype=torch.uint8)
        pool = ImagePool(latents, images, "concept", "", 0, session.fingerprint)
        yield World(
            (model,), session, None, pool, anchor[0][0], negative[0][0], sampling, family.shape
        )


def _normal(gen: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=gen)
