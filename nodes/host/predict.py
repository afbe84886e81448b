"""What a MODEL's network is given and what it predicts, by the host's own conventions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import comfy.ldm.modules.attention
import comfy.model_management
import comfy.model_sampling
import torch
from torch import Tensor

from ...darkminer.errors import DarkMinerError
from ...darkminer.model.schedule import Prediction, Schedule
from .training import repeatable_backward

_PREDICTIONS: dict[Any, Prediction] = {
    comfy.model_sampling.EPS.calculate_denoised: "epsilon",
    comfy.model_sampling.V_PREDICTION.calculate_denoised: "v",
    comfy.model_sampling.CONST.calculate_denoised: "flow",
}
_INPUTS = {
    "epsilon": comfy.model_sampling.EPS.calculate_input,
    "v": comfy.model_sampling.EPS.calculate_input,
    "flow": comfy.model_sampling.CONST.calculate_input,
}


def schedule(model: Any) -> Schedule:
    """Noise levels and prediction of a MODEL, with what sampling nodes have set on it.

    Raises:
        DarkMinerError: if the network is given or predicts what the method does not know.
    """
    sampling = model.get_model_object("model_sampling")
    kind = _PREDICTIONS.get(type(sampling).calculate_denoised)
    plain = float(getattr(sampling, "sigma_data", 1.0)) == 1.0
    plain = plain and float(getattr(sampling, "noise_scale", 1.0)) == 1.0
    if kind is None or type(sampling).calculate_input is not _INPUTS[kind] or not plain:
        raise DarkMinerError(
            f"This MODEL predicts {model.model.model_type.name} with its own scaling, which the "
            "method does not know: use one that predicts epsilon, v or flow."
        )
    sigmas = sampling.sigmas.detach().clone()
    return Schedule.from_sigmas(sigmas, sampling.timestep(sigmas), kind)


def has_frames(model: Any) -> bool:
    """Whether latents carry a frame axis (image models with a video model's latents)."""
    return model.get_model_object("latent_format").latent_dimensions == 3


def fitted(extra: Mapping[str, Any], length: int) -> dict[str, Any]:
    """The anchor's extra conditions for a context of ``length`` tokens.

    A mask says which tokens of the anchor count. A context of another length is not the anchor's:
    all its tokens count.
    """
    mask = extra.get("attention_mask")
    if isinstance(mask, Tensor) and mask.shape[-1] == length:
        return dict(extra)
    return counting_all(extra, length)


def counting_all(extra: Mapping[str, Any], length: int) -> dict[str, Any]:
    """The anchor's extra conditions for ``length`` tokens all of which count."""
    extra = dict(extra)
    mask = extra.get("attention_mask")
    if isinstance(mask, Tensor):
        extra["attention_mask"] = mask.new_ones(*mask.shape[:-1], length)
    return extra


def masked(extra: Mapping[str, Any], anchor: Tensor, context: Tensor) -> dict[str, Any]:
    """The anchor's extra conditions for contexts ``[B, L, D]``.

    The anchor's mask hides what fills its prompt up. It is the anchor's alone: of another context,
    though of the same length, all tokens count.
    """
    mask = extra.get("attention_mask")
    fitting = fitted(extra, context.shape[1])
    if not isinstance(mask, Tensor) or mask.shape[-1] != context.shape[1] or len(mask) != 1:
        return fitting
    same = (context == anchor.to(context)).flatten(1).all(1)
    ones = mask.new_ones(mask.shape).to(context.device)
    rows = same.view(-1, *([1] * (mask.ndim - 1)))
    fitting["attention_mask"] = torch.where(rows, mask.to(context.device), ones)
    return fitting


def fused_attention(_: Any, *args: Any, **kwargs: Any) -> Tensor:
    """torch's fused attention in place of the host's choice, which on a CPU is the split one."""
    answer = comfy.ldm.modules.attention.attention_pytorch(*args, **kwargs)
    if answer.is_cuda and answer.requires_grad:
        repeatable_backward(answer, "ScaledDotProduct")
    return answer


def denoiser(
    base: Any,
    anchor: Any,
    device: torch.device,
    frames: bool,
    load: Callable[[], None],
    options: Callable[[Tensor], dict[str, Any]],
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The network on its own inputs, with what else it wants taken from the anchor.

    Args:
        base: the training copy's BaseModel.
        anchor: one prompt's CONDITIONING.
        device: where the network computes.
        frames: whether the network takes a frame axis, see :func:`has_frames`.
        load: brings the network there.
        options: what else it is handed at a timestep, see :mod:`.patches`.
    """
    extra = anchor[0][1]

    def denoise(x: Tensor, timestep: Tensor, context: Tensor) -> Tensor:
        if base.device != device:  # another model has taken its place
            load()
        dtype = base.get_dtype()
        x = x.to(dtype)
        if frames:
            x = x.unsqueeze(2)
        conditions = _conditions(base, x, context, masked(extra, anchor[0][0], context), device)
        context = conditions.pop("c_crossattn").to(dtype)
        concat = conditions.pop("c_concat", None)
        handed = options(timestep)
        timestep = base.process_timestep(timestep, x=x, **conditions)
        answer = base.diffusion_model(
            x if concat is None else torch.cat([x, concat], dim=1),
            timestep,
            context=context,
            transformer_options=handed,
            **conditions,
        ).float()
        return answer.squeeze(2) if frames else answer

    return denoise


def _conditions(
    base: Any, x: Tensor, context: Tensor, extra: Mapping[str, Any], device: Any
) -> dict[str, Any]:
    """Everything else the network is called with, as the host makes it for this context."""
    # The host's own sampler tells every family 8 pixels per latent, whatever its VAE.
    size = {"width": x.shape[-1] * 8, "height": x.shape[-2] * 8}
    options = {**size, **extra, "prompt_type": "positive"}
    noise = torch.zeros_like(x)
    # An inpainting network is told that the whole picture, so far empty, is to be painted.
    options["latent_image"] = noise
    made = base.extra_conds(noise=noise, device=device, cross_attn=context, **options)
    batch = x.shape[0]
    return {
        name: _like(cond.process_cond(batch_size=batch, area=None).cond, x, name == "c_crossattn")
        for name, cond in made.items()
        if name != "crossattn_controlnet"
    }


def _like(value: Any, x: Tensor, keep: bool) -> Any:
    """An extra condition in the network's own precision, as the host casts it."""
    if isinstance(value, Tensor) and not keep:
        return value.to(x.device, x.dtype if value.is_floating_point() else value.dtype)
    if isinstance(value, list):
        return [_like(v, x, keep) for v in value]
    return value
