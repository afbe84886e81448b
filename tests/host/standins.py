"""Stand-ins for downloaded files: checkpoints of the real layout and widths, with random weights.

One file holds network, text encoders and autoencoder, as a download does, and the host's own
detection says what it is. Widths, tokens and the autoencoder are the real ones, so prompts are 77
tokens long and 768 or 2048 wide. Only depth is small: the network's (which detection reads from the
file) and the encoders', which the host reads from configuration files of its own instead. It
therefore runs from a copy of its folder in which those say fewer layers; no line of code differs.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from .miniature import FAMILIES, fill, ops

LAYERS = 3  # SDXL takes the last but one, and the host wants one before it
DATA = ("models", "input", "output", "user", "temp", "custom_nodes", ".git")
CONFIGS: dict[str, tuple[str, dict]] = {
    "l": ("sd1_clip_config.json", {"num_hidden_layers": LAYERS}),
    "g": ("clip_config_bigg.json", {"num_hidden_layers": LAYERS}),
    # A layer of the real T5-XXL has 193 million numbers: its inner widths are small as well.
    "t5": ("text_encoders/t5_config_xxl.json", {"num_layers": 1, "d_ff": 64, "num_heads": 2}),
    "vision": ("clip_vision_config_vitl.json", {"num_hidden_layers": LAYERS}),
}
"""The host's configuration files of encoders, and what they say in the copy."""

# The names that the templates ask for.
SD15, SDXL = "v1-5-pruned-emaonly-fp16.safetensors", "sd_xl_base_1.0.safetensors"
FLUX, FLUX_VAE = "flux1-dev.safetensors", "ae.safetensors"
CLIP_L, T5 = "clip_l.safetensors", "t5xxl_fp16.safetensors"
OTHER_LORA = "another_style.safetensors"
VISION = "clip_vision_l.safetensors"
OPEN_CLIP, OPEN_CLIP_FILE = "ViT-S-32-alt", "open_clip.safetensors"

_VAE = {
    "double_z": True, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128,
    "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0,
}  # fmt: skip
_VIT_L = "vision_model.encoder.layers.22.layer_norm1.weight"  # by which the host knows a ViT-L


def host_of_few_layers(host: Path, copy: Path) -> Path:
    """A copy of the host's folder whose encoders have few layers."""
    shutil.copytree(host, copy, ignore=lambda folder, _: DATA if Path(folder) == host else ())
    for name, changes in CONFIGS.values():
        path = copy / "comfy" / name
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return copy


def _config(kind: str) -> dict:
    import comfy

    name, changes = CONFIGS[kind]
    return json.loads((Path(comfy.__path__[0]) / name).read_text()) | changes


def _weights(module: nn.Module, seed: int) -> dict[str, Tensor]:
    return dict(fill(module, seed).state_dict())


def clip(kind: str, seed: int = 0) -> dict[str, Tensor]:
    """CLIP-L or CLIP-G ("l", "g") by the names of their own files."""
    import comfy.clip_model

    made = comfy.clip_model.CLIPTextModel(_config(kind), torch.float16, "cpu", ops())
    return _weights(made, seed)


def t5() -> dict[str, Tensor]:
    import comfy.text_encoders.t5

    return _weights(comfy.text_encoders.t5.T5(_config("t5"), torch.float16, "cpu", ops()), 0)


def vision() -> dict[str, Tensor]:
    """CLIP's ViT-L; an entry of layer 22 stands for the ones that are left out."""
    import comfy.clip_model

    config = _config("vision")
    made = comfy.clip_model.CLIPVisionModelProjection(config, torch.float16, "cpu", ops())
    return _weights(made, 0) | {_VIT_L: torch.ones(config["hidden_size"])}


def autoencoder(channels: int) -> dict[str, Tensor]:
    """The autoencoder of Stable Diffusion, whole; with 16 channels that of Flux."""
    from comfy.ldm.models.autoencoder import AutoencoderKL

    made = AutoencoderKL(ddconfig={**_VAE, "z_channels": channels}, embed_dim=channels)
    tensors = _weights(made, 0)
    return {k: v for k, v in tensors.items() if channels == 4 or "quant_conv" not in k}


def open_clip() -> dict[str, Tensor]:
    """Random weights of an open_clip model, in its own layout."""
    import open_clip as library

    return _weights(library.create_model(OPEN_CLIP), 0)


def checkpoint(family: str) -> dict[str, Tensor]:
    """Network, text encoders and autoencoder by the names that the host itself saves them under."""
    import comfy.supported_models

    made = FAMILIES[family]
    kind = getattr(comfy.supported_models, made.config)
    config = kind(kind.unet_config)
    encoders = {"l": clip("l", 1)} | ({"g": clip("g", 2)} if family == "sdxl" else {})
    text = {
        f"clip_{name}.transformer.{k}": v for name, part in encoders.items()
        for k, v in part.items()
    }  # fmt: skip
    return {
        **config.process_unet_state_dict_for_saving(_weights(made.network(), 0)),
        **config.process_clip_state_dict_for_saving(text),
        **config.process_vae_state_dict_for_saving(autoencoder(made.channels)),
    }


def some_lora(seed: int = 0) -> dict[str, Tensor]:
    """A LoRA of somebody else's for Stable Diffusion 1.5: attention of network and CLIP."""
    gen = torch.Generator().manual_seed(seed)
    block = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_"
    text = "lora_te_text_model_encoder_layers_0_self_attn_"
    shapes = {f"{block}q": (320, 320), f"{block}v": (320, 768), f"{text}q_proj": (768, 768)}
    made = {}
    for stem, (out, inner) in shapes.items():
        made[f"{stem}.lora_up.weight"] = 0.05 * torch.randn(out, 4, generator=gen)
        made[f"{stem}.lora_down.weight"] = torch.randn(4, inner, generator=gen)
        made[f"{stem}.alpha"] = torch.tensor(4.0)
    return made


def _files() -> Iterator[tuple[str, str, Mapping[str, Tensor]]]:
    """Folder, name and tensors, one file after the other."""
    yield "checkpoints", SD15, checkpoint("sd15")
    yield "checkpoints", SDXL, checkpoint("sdxl")
    yield "diffusion_models", FLUX, _weights(FAMILIES["flux_dev"].network(), 0)
    yield "text_encoders", CLIP_L, clip("l", 1)
    yield "text_encoders", T5, t5()
    yield "vae", FLUX_VAE, autoencoder(16)
    yield "clip_vision", VISION, vision()
    yield "clip_vision", OPEN_CLIP_FILE, open_clip()
    yield "loras", OTHER_LORA, some_lora()


@contextmanager
def placed(models: Path) -> Iterator[Path]:
    """A server's model folders with every stand-in (2 GB); removed afterwards."""
    try:
        for folder, name, tensors in _files():
            (models / folder).mkdir(parents=True, exist_ok=True)
            half = {
                k: (v.half() if v.is_floating_point() else v).contiguous().clone()
                for k, v in tensors.items()
            }
            save_file(half, models / folder / name)
        yield models
    finally:
        shutil.rmtree(models)
