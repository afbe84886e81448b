"""Miniature checkpoints: the host's own network classes, small, with random weights.

A file has its family's real key layout, so that the host's own detection finds out what it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


@dataclass(frozen=True)
class Family:
    """How to make a family's checkpoint, and what the host must take it for.

    Attributes:
        config: the host's name of the family (its class in comfy.supported_models).
        network: makes the network; its parameters are filled afterwards.
        width: of the text context.
        channels, side: of the latents.
        pooled: width of the pooled text vector, 0 where there is none.
        extras: further entries of the checkpoint.
        conditions: further entries of a prompt's CONDITIONING, from its length.
        prediction: what the network must be found to predict.
        layers: number of value projections.
        adapted: number of layers with output projections and feed-forward.
    """

    config: str
    network: Callable[[], nn.Module]
    width: int
    layers: int
    adapted: int
    channels: int = 4
    side: int = 8
    pooled: int = 0
    prediction: str = "epsilon"
    extras: Callable[[], dict[str, Tensor]] = dict
    conditions: Callable[[int], dict] = field(default=lambda length: {})
    frames: bool = False


def ops():
    import comfy.ops

    return comfy.ops.disable_weight_init


def unet(**changes) -> Callable[[], nn.Module]:
    """A UNet of the Stable Diffusion layout with 320 channels, by default one level."""

    def make():
        from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

        config = {
            "image_size": 32, "use_checkpoint": False, "use_spatial_transformer": True,
            "legacy": False, "in_channels": 4, "out_channels": 4, "model_channels": 320,
            "num_res_blocks": [1], "channel_mult": [1], "transformer_depth": [1],
            "transformer_depth_output": [1, 1], "transformer_depth_middle": -1,
            "use_linear_in_transformer": False, "context_dim": 768, "num_heads": 8,
            "num_head_channels": -1, "operations": ops(),
        }  # fmt: skip
        return UNetModel(**{**config, **changes})

    return make


SD2 = {
    "use_linear_in_transformer": True, "context_dim": 1024, "num_heads": -1,
    "num_head_channels": 64,
}  # fmt: skip
SD2_V = {
    **SD2, "num_res_blocks": [11], "transformer_depth": [1] + [0] * 10,
    "transformer_depth_output": [1] + [0] * 11,
}  # fmt: skip


def sdxl(depth: list[int], blocks: list[int], middle: int = -1) -> Callable[[], nn.Module]:
    """An SDXL relative: the transformer depths of the down path tell them apart."""
    last = blocks[-1] + 1  # the deepest level's blocks on the way up come first
    up = [0] * (sum(blocks) + len(blocks) - last) + [1] * last
    return unet(
        **{**SD2, "context_dim": 2048}, adm_in_channels=2816, num_classes="sequential",
        num_res_blocks=blocks, channel_mult=[1] * len(blocks), transformer_depth=depth,
        transformer_depth_output=up, transformer_depth_middle=middle,
    )  # fmt: skip


def mmdit() -> nn.Module:
    from comfy.ldm.modules.diffusionmodules.mmdit import OpenAISignatureMMDITWrapper

    return OpenAISignatureMMDITWrapper(
        input_size=None, patch_size=2, in_channels=16, out_channels=16, depth=2,
        adm_in_channels=2048, num_patches=1024, pos_embed_max_size=32, qk_norm="rms",
        pos_embed_scaling_factor=None, operations=ops(),
        context_embedder_config={
            "target": "torch.nn.Linear", "params": {"in_features": 4096, "out_features": 128}
        },
    )  # fmt: skip


def flux(guidance: bool = True, **changes) -> Callable[[], nn.Module]:
    def make():
        from comfy.ldm.flux.model import Flux

        config = {
            "in_channels": 16, "out_channels": 16, "vec_in_dim": 768, "context_in_dim": 4096,
            "hidden_size": 128, "mlp_ratio": 4.0, "num_heads": 1, "depth": 1,
            "depth_single_blocks": 2, "axes_dim": [16, 56, 56], "theta": 10000, "patch_size": 2,
            "qkv_bias": True, "guidance_embed": guidance, "txt_ids_dims": [],
        }  # fmt: skip
        return Flux(image_model="flux", operations=ops(), **{**config, **changes})

    return make


FLUX2 = {
    "in_channels": 128, "out_channels": 128, "vec_in_dim": None, "context_in_dim": 256,
    "mlp_ratio": 3.0, "axes_dim": [32, 32, 32, 32], "theta": 2000, "patch_size": 1,
    "qkv_bias": False, "txt_ids_dims": [3], "global_modulation": True, "mlp_silu_act": True,
    "ops_bias": False, "default_ref_method": "index", "ref_index_scale": 10.0,
}  # fmt: skip
OVIS = {
    "vec_in_dim": None, "context_in_dim": 256, "yak_mlp": True, "txt_norm": True,
    "txt_ids_dims": [1, 2],
}  # fmt: skip


def pixart(alpha: bool) -> Callable[[], nn.Module]:
    def make():
        from comfy.ldm.pixart.pixartms import PixArtMS

        return PixArtMS(
            input_size=64, in_channels=4, depth=1, pe_interpolation=1,
            model_max_length=120 if alpha else 300, micro_condition=alpha, operations=ops(),
        )  # fmt: skip

    return make


def aura() -> nn.Module:
    from comfy.ldm.aura.mmdit import MMDiT

    return MMDiT(n_double_layers=1, n_layers=2, max_seq=64, operations=ops(), dtype=torch.bfloat16)


def anima() -> nn.Module:
    from comfy.ldm.anima.model import Anima

    return Anima(
        max_img_h=240, max_img_w=240, max_frames=128, in_channels=16, out_channels=16,
        patch_spatial=2, patch_temporal=1, concat_padding_mask=True, model_channels=256,
        crossattn_emb_channels=1024, pos_emb_cls="rope3d", pos_emb_learnable=True,
        use_adaln_lora=True, adaln_lora_dim=256, extra_per_block_abs_pos_emb=False,
        rope_h_extrapolation_ratio=4.0, rope_w_extrapolation_ratio=4.0,
        rope_t_extrapolation_ratio=1.0, rope_enable_fps_modulation=False, operations=ops(),
        image_model="anima",
    )  # fmt: skip


def _position() -> dict[str, Tensor]:
    return {"pos_embed": torch.zeros(1, 1024, 1152)}


def _t5_tokens(length: int) -> dict:
    return {"t5xxl_ids": torch.arange(3, 9), "t5xxl_weights": torch.ones(6)}


FAMILIES = {
    "sd15": Family("SD15", unet(), 768, 6, 18),
    "sd15_inpainting": Family("SD15", unet(in_channels=9), 768, 6, 18),
    "sd2": Family("SD20", unet(**SD2), 1024, 6, 18),
    "sd2_v": Family("SD20", unet(**SD2_V), 1024, 4, 12, prediction="v"),
    "sdxl": Family(
        "SDXL", sdxl([0, 0, 2, 2, 10, 10], [2, 2, 2]), 2048, 54, 162, pooled=1280
    ),
    "sd3": Family(
        "SD3", mmdit, 4096, 4, 13, channels=16, pooled=2048, prediction="flow"
    ),
    "flux_dev": Family(
        "Flux", flux(), 4096, 4, 12, channels=16, pooled=768, prediction="flow",
        conditions=lambda length: {"guidance": 4.5},
    ),
    "flux_schnell": Family(
        "FluxSchnell", flux(False), 4096, 4, 12, channels=16, pooled=768, prediction="flow"
    ),
    "pixart_alpha": Family("PixArtAlpha", pixart(True), 4096, 2, 6, side=40, extras=_position),
    "pixart_sigma": Family("PixArtSigma", pixart(False), 4096, 2, 6, side=40, extras=_position),
    "flux2": Family("Flux2", flux(False, **FLUX2), 256, 4, 12, channels=128, prediction="flow"),
    "ovis_image": Family("FluxSchnell", flux(False, **OVIS), 256, 4, 14, channels=16,
                         prediction="flow"),
    "ssd_1b": Family("SSD1B", sdxl([0, 0, 2, 2, 4, 4], [2, 2, 2]), 2048, 30, 90, pooled=1280),
    "segmind_vega": Family(
        "Segmind_Vega", sdxl([0, 0, 1, 1, 2, 2], [2, 2, 2]), 2048, 18, 54, pooled=1280
    ),
    "koala_700m": Family("KOALA_700M", sdxl([0, 2, 5], [1, 1, 1]), 2048, 18, 54, pooled=1280),
    "anima": Family(
        "Anima", anima, 1024, 32, 96, channels=16, prediction="flow", frames=True,
        conditions=_t5_tokens,
    ),
    "aura_flow": Family("AuraFlow", aura, 2048, 3, 15, prediction="flow"),
}  # fmt: skip


@torch.no_grad()
def fill(module: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights at a scale that neither dies nor explodes."""
    gen = torch.Generator().manual_seed(seed)
    for name, p in [*module.named_parameters(), *module.named_buffers()]:
        if not p.is_floating_point() or "inv_freq" in name or name.endswith("seq"):
            continue
        noise = torch.randn(p.shape, generator=gen)
        if p.ndim >= 2:
            p.copy_(noise * p[0].numel() ** -0.5)
        else:
            is_scale = name.endswith(("weight", "scale"))
            p.copy_(noise * 0.1 + float(is_scale))
    return module


def checkpoint(
    family: Family, path: Path, dtype: torch.dtype = torch.float32, seed: int = 0
) -> Path:
    """Write a family's miniature diffusion file."""
    tensors = fill(family.network(), seed).state_dict()
    tensors |= family.extras()
    save_file({k: v.to(dtype).contiguous().clone() for k, v in tensors.items()}, path)
    return path


def autoencoder(family: Family):
    """The host's own small autoencoder with random weights, in the family's latents."""
    import comfy.sd
    from comfy.taesd.taehv import TAEHV
    from comfy.taesd.taesd import TAESD

    kind = TAEHV if family.frames else TAESD
    tensors = fill(kind(latent_channels=family.channels)).state_dict()
    # Flux 2's shapes do not tell its channels, its file's metadata does.
    return comfy.sd.VAE(sd=tensors, metadata={"tae_latent_channels": family.channels})


def prompt(family: Family, seed: int, length: int = 5) -> list:
    """A prompt's CONDITIONING: random, of the family's widths."""
    gen = torch.Generator().manual_seed(1000 + seed)
    context = torch.randn(1, length, family.width, generator=gen)
    extra = dict(family.conditions(length))
    if family.pooled:
        extra["pooled_output"] = torch.randn(1, family.pooled, generator=gen)
    return [[context, extra]]


_CLIP = {"num_hidden_layers": 3, "intermediate_size": 64}
_T5 = {"num_layers": 1, "d_ff": 64, "num_heads": 2}
_SIZES = {"clip_l_model_config": _CLIP, "clip_g_model_config": _CLIP, "t5xxl_model_config": _T5}
_A_T5 = "encoder.block.23.layer.1.DenseReluDense.wi_1.weight"  # by which the host knows the XXL
TEXT_ENCODERS: dict[str, int] = {"sd15": 1, "sdxl": 2, "flux": 2, "sd3": 3, "pixart": 1}
"""Kind -> number of files it is loaded from."""


def text_encoder(kind: str, seed: int = 0):
    """The host's own text encoders of a kind, of their real widths, with few layers.

    Its loader fixes the number of layers (a whole CLIP-G, a T5 of 4.7 billion parameters), so they
    are made beside it, with the host's setting for other sizes.
    """
    import comfy.sd

    types = comfy.sd.CLIPType  # as the host's loader nodes read their setting
    files: list[dict] = [{} for _ in range(TEXT_ENCODERS[kind])]
    if kind == "pixart":
        files[0][_A_T5] = torch.empty(10240, 1)
    clip = comfy.sd.load_text_encoder_state_dicts(
        files, clip_type=getattr(types, kind.upper(), types.STABLE_DIFFUSION),
        model_options=_SIZES,
    )  # fmt: skip
    fill(clip.cond_stage_model, seed)
    return clip


def clip_file(kind: str, path: Path, seed: int = 0) -> Path:
    """Write CLIP-L or CLIP-G ("l", "g") as such files are, whole: the loader fixes its size."""
    import comfy.sd1_clip
    import comfy.sdxl_clip

    make = {"l": comfy.sd1_clip.SDClipModel, "g": comfy.sdxl_clip.SDXLClipG}[kind]
    tensors = fill(make(dtype=torch.float16).transformer, seed).state_dict()
    save_file({k: v.contiguous() for k, v in tensors.items()}, path)
    return path


def vae_file(channels: int, path: Path) -> Path:
    """Write a small autoencoder of the host's for latents of so many channels."""
    save_file(_small_autoencoder(channels), path)
    return path


def _small_autoencoder(channels: int) -> dict[str, Tensor]:
    from comfy.taesd.taesd import TAESD

    return {k: v.clone() for k, v in fill(TAESD(latent_channels=channels)).state_dict().items()}


def whole_checkpoint(family: Family, clip: Path, path: Path) -> Path:
    """Write network, CLIP and autoencoder in one file, as Stable Diffusion 1.x has them."""
    parts = {
        "model.diffusion_model.": fill(family.network()).state_dict(),
        "cond_stage_model.transformer.": load_file(clip),
        "first_stage_model.": _small_autoencoder(family.channels),
    }
    tensors = {f"{prefix}{k}": v for prefix, part in parts.items() for k, v in part.items()}
    save_file({k: v.contiguous().clone() for k, v in tensors.items()}, path)
    return path
