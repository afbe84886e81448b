"""Guidance away from a concept, as a function that the host calls after its own guidance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import comfy.sampler_helpers
import comfy.samplers
import torch
from torch import Tensor

from ...darkminer.compare.sld import SafeGuidance, SLDConfig
from ...darkminer.errors import DarkMinerError
from .session import Conditioning


def guided_away(model: Any, concept: Conditioning, config: SLDConfig) -> Any:
    """A clone of a MODEL whose sampling is guided away from a prompt, see :mod:`~...compare.sld`.

    Predictions are compared as ``(x - denoised) / sigma``, which is the noise for epsilon and v and
    the velocity for flow.
    """
    patched = model.clone()
    patched.set_model_sampler_post_cfg_function(_Away(concept, config))
    return patched


class _Away:
    def __init__(self, concept: Conditioning, config: SLDConfig):
        self._said = comfy.sampler_helpers.convert_cond(concept)
        self._config = config
        self._guidance = SafeGuidance(config)
        self._last = 0.0

    def __call__(self, args: Mapping[str, Any]) -> Tensor:
        plain, x, sigma = args["denoised"], args["input"], args["sigma"]
        if not self._config.scale:
            return plain
        if args["uncond"] is None:
            raise DarkMinerError(
                "SafeLatentDiffusion needs guidance, and cfg is 1 in the sampler: set cfg above 1."
            )
        level = float(sigma.max())
        if not 0.0 < level < self._last:
            self._guidance.begin()
        self._last = level
        model, options = args["model"], args["model_options"]
        said = comfy.samplers.encode_model_conds(
            model.extra_conds, self._said, x, x.device, "negative"
        )
        (shown,) = comfy.samplers.calc_cond_batch(model, [said], x, sigma, options)
        scale = sigma.view(-1, *([1] * (x.ndim - 1))).clamp(min=1e-8)

        def noise(denoised: Tensor) -> Tensor:
            return (x - denoised) / scale

        away = self._guidance.away(
            noise(args["cond_denoised"]), noise(args["uncond_denoised"]), noise(shown),
            _share(options, level),
        )  # fmt: skip
        return plain + args["cond_scale"] * scale * away if bool(away.any()) else plain


def _share(options: Mapping[str, Any], level: float) -> float:
    """Share of the sampler's steps that lie before a level; none where the host does not say."""
    sigmas = options.get("transformer_options", {}).get("sample_sigmas")
    if not isinstance(sigmas, torch.Tensor) or len(sigmas) < 2:
        return 0.0
    done = int((sigmas > level * (1 + 1e-5)).sum())
    return min(done, len(sigmas) - 2) / (len(sigmas) - 1)
