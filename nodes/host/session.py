"""The training session: a MODEL of the host, handed to the method as a :class:`DiffusionModel`.

Nodes run inside ``torch.inference_mode()`` on weights that are inference tensors, so nothing can be
trained where it stands. A session leaves inference mode, copies the diffusion network with the
MODEL's own patches applied, and lets the host's samplers run on that copy. The user's MODEL is only
ever read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import comfy.model_management
import torch
from torch import Tensor

from ...darkminer.errors import DarkMinerError
from ...darkminer.finite import TEXT_ENCODER, VAE, finite
from ...darkminer.model.interface import DiffusionModel
from ...darkminer.model.memory import Memory
from ...darkminer.model.sampling import SamplingConfig
from ...darkminer.model.schedule import Schedule
from .carry import carry, check_carried, check_prompt, settle
from .copy import WholePatcher, training_copy
from .fingerprint import fingerprint, latent_format
from .finite import check_levels, sampled_by, seen_unclamped
from .lora import model_family, names_of
from .patches import NetworkOptions, try_out
from .predict import denoiser, fused_attention, has_frames, schedule
from .sampler import sampler
from .training import training_mode

Conditioning = list[list[Any]]


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
        DarkMinerError: if the MODEL cannot be trained on (its prediction, its layers, what it
            carries: :mod:`.carry`).
    """
    check_carried(model)
    check_prompt(anchor, "anchor")
    check_prompt(negative or (), "negative")
    with training_mode():
        settle(model, model.model.diffusion_model)
        names, levels, frames = names_of(model), schedule(model), has_frames(model)
        base = training_copy(model)
        patcher = WholePatcher(base, model.load_device, model.offload_device)
        carry(model, patcher)
        options = NetworkOptions(patcher, levels, fused_attention)

        def load() -> None:
            comfy.model_management.load_models_gpu([patcher])

        check_levels(patcher, sampling)
        _load_first(load, patcher)
        anchor, negative = _owned(anchor), _owned(negative)
        try:
            session = _session(
                model, base, patcher, anchor=anchor, negative=negative, sampling=sampling,
                latent_size=latent_size, vae=vae, levels=levels, names=names, frames=frames,
                load=load, options=options,
            )  # fmt: skip
            try_out(session, options, anchor[0][0])
            yield session
        finally:
            patcher.detach()


def _session(
    model: Any,
    base: Any,
    patcher: Any,
    *,
    anchor: Conditioning,
    negative: Conditioning | None,
    sampling: SamplingConfig,
    latent_size: tuple[int, int],
    vae: Any,
    levels: Schedule,
    names: dict[str, str],
    frames: bool,
    load: Callable[[], None],
    options: NetworkOptions,
) -> DiffusionModel:
    """The training copy ``base``, on its own ``patcher``, as the method sees it."""
    device = torch.device(patcher.load_device)
    memory = Memory(lambda: comfy.model_management.get_free_memory(device))
    denoise = denoiser(base, anchor, device, frames, load, options)
    return DiffusionModel(
        network=base.diffusion_model,
        denoise=memory.denoiser(denoise, base.diffusion_model),
        schedule=levels,
        sample=sampler(patcher, anchor, negative, sampling, frames),
        decode=_decoder(base, vae, frames),
        latent_shape=(model.get_model_object("latent_format").latent_channels, *latent_size),
        context_dim=_context_dim(model, anchor),
        device=device,
        names=names,
        fingerprint=fingerprint(model),
        family=model_family(model.model.model_config),
        latent_format=latent_format(model),
        batch=sampling.batch,
        memory=memory,
        guided=lambda cfg: sampler(patcher, anchor, negative, replace(sampling, cfg=cfg), frames),
        sampled_by=sampled_by(sampling),
    )


def _load_first(load: Callable[[], None], patcher: Any) -> None:
    try:
        load()
    except torch.OutOfMemoryError as error:
        raise DarkMinerError(
            f"Training needs this MODEL whole on the GPU, {patcher.model_size() / 2**30:.1f} GiB: "
            "free so much of its memory, or use a smaller model."
        ) from error


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
    check_prompt(conditioning, f"{node}: {field}")
    if len(conditioning) != 1:
        raise DarkMinerError(
            f"{node}: {field} holds {len(conditioning)} prompts and one is needed: connect a "
            "single CLIPTextEncode."
        )
    context = conditioning[0][0].detach().float().cpu().clone()
    return finite(context, TEXT_ENCODER, f"contexts for {field}")


def _context_dim(model: Any, anchor: Conditioning) -> int:
    """Width of the cross-attention context; the anchor's must be the same."""
    given = anchor[0][0].shape[-1]
    config = model.model.model_config.unet_config
    wanted = config.get("context_dim") or config.get("context_in_dim") or given
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


def _decoder(base: Any, vae: Any, frames: bool):
    def decode(latents: Tensor) -> Tensor:
        if vae is None:
            raise DarkMinerError("Pictures are needed here and no VAE is connected: connect one.")
        latents = (latents.unsqueeze(2) if frames else latents).cpu()
        with torch.no_grad():
            images = seen_unclamped(vae).decode(base.process_latent_out(latents))
        if images.ndim == 5:  # one frame each
            images = images.flatten(0, 1)
        return images.float().cpu().clone()

    return decode


def encode_images(model: Any, vae: Any, images: Tensor) -> Tensor:
    """Images ``[N, H, W, 3]`` in 0..1 -> model-space latents ``[N, C, h, w]`` float32 CPU.

    Raises:
        NotFiniteError: if the VAE gives latents that are not finite.
    """
    frames = has_frames(model)
    with torch.no_grad():
        # A video model's VAE takes a batch of pictures for the frames of one film.
        parts = images.split(1) if frames else (images,)
        latents = finite(torch.cat([vae.encode(part) for part in parts]), VAE, "latents")
    latents = model.model.process_latent_in(latents.float()).cpu().clone()
    return latents.squeeze(2) if frames else latents
