"""The gallery's models as ordinary objects of the host: MODEL, CLIP, VAE and CLIP_VISION.

All four are built from ComfyUI's own classes (Stable Diffusion's UNet, CLIP text and vision
models, the KL autoencoder), only smaller, so every core node treats them as it treats a
downloaded checkpoint. Pictures are 32 x 32, latents 8 channels of 8 x 8, contexts 32 tokens of
128 numbers, and the UNet predicts the noise under Stable Diffusion's schedule.
"""

import copy
import json
from pathlib import Path

import comfy.clip_model
import comfy.clip_vision
import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models_base
import safetensors.torch
import torch
from safetensors import safe_open

from .tokenizer import FOLDER as TOKENIZER
from .tokenizer import MAX_LENGTH

WEIGHTS = Path(__file__).with_name("weights")
FILES = ("unet", "clip_text", "vae", "clip_vision")

WIDTH = 128  # of the contexts
TOKENS = 827
SPECIAL_TOKENS = {"start": TOKENS - 2, "end": TOKENS - 1, "pad": TOKENS - 1}
LATENT_CHANNELS = 8
DOWNSCALE = 4  # pixels a latent

UNET = {
    "image_size": 8,
    "in_channels": LATENT_CHANNELS,
    "out_channels": LATENT_CHANNELS,
    "model_channels": 64,
    "num_res_blocks": [2, 2],
    "channel_mult": (1, 2),
    "num_head_channels": 32,
    "use_spatial_transformer": True,
    "transformer_depth": [1, 1, 1, 1],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [1] * 6,
    "context_dim": WIDTH,
    "use_linear_in_transformer": False,
    "legacy": False,
}
AUTOENCODER = {
    "embed_dim": LATENT_CHANNELS,
    "ddconfig": {
        "double_z": True,
        "z_channels": LATENT_CHANNELS,
        "resolution": 32,
        "in_channels": 3,
        "out_ch": 3,
        "ch": 32,
        "ch_mult": [1, 1, 2],
        "num_res_blocks": 1,
        "attn_resolutions": [],
        "dropout": 0.0,
    },
}
TEXT = {
    "architectures": ["CLIPTextModel"],
    "model_type": "clip_text_model",
    "hidden_act": "quick_gelu",
    "hidden_size": WIDTH,
    "intermediate_size": 4 * WIDTH,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "max_position_embeddings": MAX_LENGTH,
    "vocab_size": TOKENS,
    "eos_token_id": SPECIAL_TOKENS["end"],
    "layer_norm_eps": 1e-5,
    "projection_dim": WIDTH,
}
VISION_FILE = Path(__file__).with_name("vision.json")  # a file: older hosts read nothing else
VISION = json.loads(VISION_FILE.read_text(encoding="utf-8"))


class GalleryLatent(comfy.latent_formats.LatentFormat):
    """Latents of 8 channels, divided by their standard deviation; colours for previews."""

    latent_channels = LATENT_CHANNELS
    spacial_downscale_ratio = DOWNSCALE

    def __init__(self, std: float = 1.0, rgb: list | None = None, bias: list | None = None) -> None:
        self.scale_factor = 1.0 / std
        self.latent_rgb_factors = rgb
        self.latent_rgb_factors_bias = bias


class GalleryConfig(comfy.supported_models_base.BASE):
    """The host's description of the diffusion model."""

    unet_extra_config = {"num_heads": -1, "num_head_channels": UNET["num_head_channels"]}
    latent_format = GalleryLatent
    supported_inference_dtypes = [torch.float32]
    memory_usage_factor = 1.0

    def inpaint_model(self) -> bool:
        # The host takes more than four input channels for a model with a mask.
        return False


class GalleryTextModel(comfy.clip_model.CLIPTextModel):
    """The host's CLIP text model with an embedding table of the gallery's vocabulary."""

    def __init__(self, config_dict, dtype, device, operations) -> None:
        super().__init__(config_dict, dtype, device, operations)
        rows, width = config_dict["vocab_size"], config_dict["hidden_size"]
        self.set_input_embeddings(operations.Embedding(rows, width, dtype=dtype, device=device))


class GalleryClipL(comfy.sd1_clip.SDClipModel):
    def __init__(self, device="cpu", dtype=None, model_options=None) -> None:
        super().__init__(
            device=device,
            dtype=dtype,
            max_length=MAX_LENGTH,
            textmodel_json_config=dict(TEXT),
            model_class=GalleryTextModel,
            special_tokens=dict(SPECIAL_TOKENS),
            return_projected_pooled=False,
            model_options=model_options or {},
        )


class GalleryClip(comfy.sd1_clip.SD1ClipModel):
    def __init__(self, device="cpu", dtype=None, model_options=None) -> None:
        super().__init__(
            device=device, dtype=dtype, model_options=model_options or {}, clip_model=GalleryClipL
        )


class GalleryTokenizerL(comfy.sd1_clip.SDTokenizer):
    def __init__(self, embedding_directory=None, tokenizer_data=None) -> None:
        super().__init__(
            tokenizer_path=str(TOKENIZER),
            max_length=MAX_LENGTH,
            embedding_directory=embedding_directory,
            embedding_size=WIDTH,
            embedding_key="clip_l",
            tokenizer_data=tokenizer_data or {},
        )


class GalleryTokenizer(comfy.sd1_clip.SD1Tokenizer):
    def __init__(self, embedding_directory=None, tokenizer_data=None) -> None:
        super().__init__(
            embedding_directory=embedding_directory,
            tokenizer_data=tokenizer_data or {},
            tokenizer=GalleryTokenizerL,
        )


def _load_model(weights: dict, facts: dict[str, str]) -> comfy.model_patcher.ModelPatcher:
    management = comfy.model_management
    config = GalleryConfig(copy.deepcopy(UNET))
    config.set_inference_dtype(torch.float32, None)
    config.latent_format = GalleryLatent(
        float(facts["latent_std"]),
        json.loads(facts["latent_rgb_factors"]),
        json.loads(facts["latent_rgb_factors_bias"]),
    )
    model = config.get_model({}, "", device=management.unet_offload_device())
    patcher = comfy.model_patcher.CoreModelPatcher(
        model,
        load_device=management.get_torch_device(),
        offload_device=management.unet_offload_device(),
    )
    weights = {name: value.float() for name, value in weights.items()}
    model.load_model_weights(weights, "", assign=patcher.is_dynamic())
    return patcher


def _load_clip(weights: dict) -> comfy.sd.CLIP:
    target = comfy.supported_models_base.ClipTarget(GalleryTokenizer, GalleryClip)
    parameters = sum(value.numel() for value in weights.values())
    return comfy.sd.CLIP(target, parameters=parameters, state_dict=weights)


def _load_vae(weights: dict) -> comfy.sd.VAE:
    weights = {name: value.float() for name, value in weights.items()}
    config = {"params": copy.deepcopy(AUTOENCODER)}
    vae = comfy.sd.VAE(sd=weights, config=config, dtype=torch.float32)
    vae.downscale_ratio = vae.upscale_ratio = DOWNSCALE
    vae.latent_channels = LATENT_CHANNELS
    # Bytes that the widest layers hold at once: 32 channels at full size, a few copies of them.
    vae.memory_used_encode = lambda shape, dtype: 32 * 8 * shape[2] * shape[3] * 4
    vae.memory_used_decode = lambda shape, dtype: 32 * 8 * shape[2] * shape[3] * DOWNSCALE**2 * 4
    return vae


def _load_clip_vision(weights: dict) -> comfy.clip_vision.ClipVisionModel:
    encoder = comfy.clip_vision.ClipVisionModel(str(VISION_FILE))
    encoder.load_sd(weights)
    return encoder


def load_demo_models(
    weights_dir: str | Path | None = None, unet: str | Path | None = None
) -> tuple:
    """The gallery's models, new objects at each call.

    Args:
        weights_dir: where the four .safetensors files lie; the pack's own by default.
        unet: another file for the UNet, with the metadata of the pack's own.

    Returns:
        MODEL, CLIP, VAE and CLIP_VISION, as the host's loader nodes return them.

    Raises:
        FileNotFoundError: a file is missing.
    """
    folder = Path(weights_dir or WEIGHTS)
    missing = [f"{name}.safetensors" for name in FILES if not _file(folder, name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"The demo models lack {', '.join(missing)} in {folder}: install the pack whole, "
            "or make the weights with `python -m demo.export`."
        )
    files = {name: _file(folder, name) for name in FILES}
    if unet is not None:
        files["unet"] = Path(unet)
    weights = {name: safetensors.torch.load_file(file) for name, file in files.items()}
    with safe_open(files["unet"], framework="pt") as opened:
        facts = opened.metadata()
    return (
        _load_model(weights["unet"], facts),
        _load_clip(weights["clip_text"]),
        _load_vae(weights["vae"]),
        _load_clip_vision(weights["clip_vision"]),
    )


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.safetensors"
