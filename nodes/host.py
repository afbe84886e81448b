"""The training session: a MODEL of the host, handed to the method as a :class:`DiffusionModel`.

Nodes run inside ``torch.inference_mode()`` on weights that are inference tensors, so nothing can be
trained where it stands. A session leaves inference mode, copies the diffusion network with the
MODEL's own patches applied, and lets the host's samplers run on that copy. The user's MODEL is only
ever read.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import comfy.lora
import comfy.model_management
import comfy.model_patcher
import comfy.sample
import comfy.utils
import torch
from torch import Tensor, nn

from ..darkminer.config import SamplingConfig
from ..darkminer.diffusion import Prediction, Schedule
from ..darkminer.errors import DarkMinerError
from ..darkminer.types import DiffusionModel
from .host_lora import model_family, names_of

Conditioning = list[list[Any]]

_PREFIX = "diffusion_model."
_PREDICTIONS: dict[str, Prediction] = {
    "EPS": "epsilon",
    "V_PREDICTION": "v",
    "FLOW": "flow",
    "FLUX": "flow",
}


@contextmanager
def training_mode() -> Iterator[None]:
    """Gradients allowed and the host's fused kernels off; both as before afterwards."""
    before = comfy.model_management.in_training
    with torch.inference_mode(False), torch.enable_grad():
        comfy.model_management.in_training = True
        try:
            yield
        finally:
            comfy.model_management.in_training = before


@contextmanager
def training_session(
    model: Any,
    *,
    anchor: Conditioning,
    sampling: SamplingConfig,
    latent_size: tuple[int, int],
    vae: Any = None,
    negative: Conditioning | None = None,
) -> Iterator[DiffusionModel]:
    """Hand a MODEL to the method.

    Args:
        model: the host's ModelPatcher; it is read, never changed.
        anchor: the anchor prompt's CONDITIONING; besides its context it gives whatever else the
            family's network wants (pooled vectors, sizes, guidance).
        sampling: how pictures are made.
        latent_size: height and width of the pictures in latents, see :func:`latent_size`.
        vae: needed where pictures are looked at.
        negative: the empty prompt, for classifier-free guidance; without it guidance is off.

    Raises:
        DarkMinerError: if the MODEL cannot be trained on (its prediction, its layers).
    """
    with training_mode():
        base = _training_copy(model)
        network = base.diffusion_model
        names = names_of(model)
        patcher = comfy.model_patcher.ModelPatcher(base, model.load_device, model.offload_device)
        patcher.object_patches = dict(model.object_patches)
        patcher.model_options = comfy.model_patcher.create_model_options_clone(model.model_options)
        comfy.model_management.load_models_gpu([patcher])
        anchor, negative = _owned(anchor), _owned(negative)
        try:
            yield DiffusionModel(
                network=network,
                denoise=_denoiser(base, anchor, patcher.load_device),
                schedule=_schedule(model),
                sample=_sampler(patcher, anchor, negative, sampling),
                decode=_decoder(base, vae),
                latent_shape=(
                    model.get_model_object("latent_format").latent_channels,
                    *latent_size,
                ),
                context_dim=_context_dim(model, anchor),
                device=torch.device(patcher.load_device),
                names=names,
                fingerprint=fingerprint(model),
                family=model_family(model.model.model_config),
                batch=sampling.batch,
            )
        finally:
            patcher.detach()


def _owned(conditioning: Conditioning | None) -> Any:
    """A copy that may take part in training (inference tensors may not)."""
    if conditioning is None:
        return None

    def own(value: Any) -> Any:
        return value.detach().clone() if isinstance(value, Tensor) else value

    return [[own(c), {k: own(v) for k, v in extra.items()}] for c, extra in conditioning]


def context_of(conditioning: Conditioning, node: str, field: str) -> Tensor:
    """The context ``[B, L, D]`` float32 of a CONDITIONING with one entry.

    Raises:
        DarkMinerError: if it has several entries (combined or timed prompts).
    """
    if len(conditioning) != 1:
        raise DarkMinerError(
            f"{node}: {field} holds {len(conditioning)} prompts and one is needed: connect a "
            "single CLIPTextEncode."
        )
    return conditioning[0][0].detach().float().cpu().clone()


def _original_weight(model: Any, key: str) -> Tensor:
    """A weight without any patch, also while some clone of the MODEL is loaded with its patches."""
    if key in model.backup:
        return model.backup[key].weight
    return comfy.utils.get_attr(model.model, key)


def _training_copy(model: Any) -> Any:
    """The BaseModel around a deep copy of its diffusion network: plain, patched, frozen tensors."""
    network = model.model.diffusion_model
    dtype = _compute_dtype(model)
    memo: dict[int, Any] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        weight = _original_weight(model, _PREFIX + name).detach()
        weight = weight.to(comfy.model_management.unet_offload_device(), copy=True)
        patches = model.patches.get(_PREFIX + name)
        if patches:
            weight = comfy.lora.calculate_weight(patches, weight.float(), _PREFIX + name)
        if weight.is_floating_point():
            weight = weight.to(dtype)
        memo[id(parameter)] = nn.Parameter(weight.clone(), requires_grad=False)
    for buffer in network.buffers():
        memo[id(buffer)] = buffer.detach().clone()
    trained = copy.deepcopy(network, memo)
    if hasattr(trained, "dtype"):
        trained.dtype = dtype
    base = copy.copy(model.model)
    base._modules = dict(model.model._modules)
    base.diffusion_model = trained
    base.manual_cast_dtype = None
    # The host keeps its book of what is loaded on the module: the copy starts a new page.
    base.model_loaded_weight_memory = 0
    base.lowvram_patch_counter = 0
    base.model_lowvram = False
    base.current_weight_patches_uuid = None
    base.current_patcher = None
    return base


def _compute_dtype(model: Any) -> torch.dtype:
    if comfy.model_management.is_device_cpu(model.load_device):
        return torch.float32
    dtype = model.model.get_dtype_inference()
    return dtype if dtype in (torch.float16, torch.bfloat16) else torch.float32


def _schedule(model: Any) -> Schedule:
    kind = model.model.model_type.name
    if kind not in _PREDICTIONS:
        raise DarkMinerError(
            f"This MODEL predicts {kind}, which the method does not know: use one of "
            f"{', '.join(_PREDICTIONS)}."
        )
    sampling = model.get_model_object("model_sampling")
    sigmas = sampling.sigmas.detach().clone()
    return Schedule.from_sigmas(sigmas, sampling.timestep(sigmas), _PREDICTIONS[kind])


def _context_dim(model: Any, anchor: Conditioning) -> int:
    """Width of the cross-attention context; the anchor's must be the same."""
    given = anchor[0][0].shape[-1]
    wanted = model.model.model_config.unet_config.get("context_dim") or given
    if given != wanted:
        raise DarkMinerError(
            f"The prompt's CONDITIONING is {given} wide and this MODEL takes {wanted}: use the "
            "CLIP that belongs to the MODEL."
        )
    return given


def latent_size(vae: Any, width: int, height: int) -> tuple[int, int]:
    """Height and width in latents of pictures of ``width`` x ``height`` pixels.

    Raises:
        DarkMinerError: if the VAE's ratio does not divide them.
    """
    ratio = vae.spacial_compression_encode()
    if width < ratio or height < ratio or width % ratio or height % ratio:
        raise DarkMinerError(
            f"The picture size {width} x {height} cannot be made: width and height must be "
            f"multiples of {ratio}, the VAE's pixels per latent."
        )
    return height // ratio, width // ratio


def _like(value: Any, x: Tensor) -> Any:
    """An extra condition in the network's own precision, as the host casts it."""
    if isinstance(value, Tensor):
        return value.to(x.device, x.dtype if value.is_floating_point() else value.dtype)
    return value


def _denoiser(base: Any, anchor: Conditioning, device: Any):
    """The network on its own inputs, with what else it wants taken from the anchor."""
    network = base.diffusion_model
    context, extra = anchor[0]
    made: dict[tuple[int, ...], dict[str, Any]] = {}

    def conditions(x: Tensor) -> dict[str, Any]:
        shape = tuple(x.shape)
        if shape not in made:
            noise = torch.zeros(shape, device=x.device)
            size = {"width": x.shape[-1] * 8, "height": x.shape[-2] * 8}
            options = {**size, **extra, "cross_attn": context, "prompt_type": "positive"}
            conds = base.extra_conds(noise=noise, device=device, **options)
            made[shape] = {
                k: _like(v.process_cond(batch_size=x.shape[0], area=None).cond, x)
                for k, v in conds.items()
                if k not in ("c_crossattn", "crossattn_controlnet")
            }
        return made[shape]

    def denoise(x: Tensor, timestep: Tensor, context: Tensor) -> Tensor:
        dtype = base.get_dtype()
        timestep = base.process_timestep(timestep)
        return network(
            x.to(dtype),
            timestep,
            context=context.to(dtype),
            transformer_options={},
            **conditions(x),
        ).float()

    return denoise


def _sampler(
    patcher: Any, anchor: Conditioning, negative: Conditioning | None, config: SamplingConfig
):
    """The host's sampler on the training copy, model-space latents out."""
    extra = anchor[0][1]
    guided = negative is not None

    @torch.no_grad()
    def sample(context: Tensor, noise: Tensor) -> Tensor:
        positive = [[context, dict(extra)]]
        latents = comfy.sample.sample(
            patcher,
            noise.cpu(),
            config.steps,
            config.cfg if guided else 1.0,
            config.sampler,
            config.scheduler,
            positive,
            negative if guided else positive,
            torch.zeros_like(noise, device="cpu"),
            disable_pbar=True,
            seed=0,
        )
        return patcher.model.process_latent_in(latents.float()).to(noise.device)

    return sample


def _decoder(base: Any, vae: Any):
    def decode(latents: Tensor) -> Tensor:
        if vae is None:
            raise DarkMinerError("Pictures are needed here and no VAE is connected: connect one.")
        with torch.no_grad():
            images = vae.decode(base.process_latent_out(latents.cpu()))
        return images.float().cpu().clone()

    return decode


def fingerprint(model: Any) -> str:
    """Twelve hex digits that name the MODEL's weights (names, shapes, a sample of values)."""
    digest = hashlib.sha256()
    for name, _ in sorted(model.model.diffusion_model.named_parameters()):
        weight = _original_weight(model, _PREFIX + name).detach()
        flat = weight.reshape(-1)
        some = flat[:: max(1, flat.numel() // 256)].float().cpu().contiguous()
        digest.update(f"{name}{tuple(weight.shape)}".encode() + some.numpy().tobytes())
    return digest.hexdigest()[:12]


def encode_images(model: Any, vae: Any, images: Tensor) -> Tensor:
    """Images ``[N, H, W, 3]`` in 0..1 -> model-space latents ``[N, C, h, w]`` float32 CPU."""
    with torch.no_grad():
        latents = vae.encode(images)
    return model.model.process_latent_in(latents.float()).cpu().clone()
