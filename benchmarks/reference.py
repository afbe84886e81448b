"""The paper's procedure written plainly on diffusers and PEFT: float32, one forward per term.

The peer that ``benchmarks.speed`` measures against, and a second opinion on what the engine
computes (``tests/host/test_reference.py``). Nothing here is shared with the engine: network,
schedule, losses and adapters are diffusers' and PEFT's, the frozen network is a copy of its own.
Draws come from outside (:class:`MineDraw`, :class:`CircumventDraw`), so that both can be given the
very same.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from peft import LoraConfig
from torch import Tensor, nn

RATE, LATE_RATE, DROP, CLIP = 0.1, 0.01, 500, 10.0  # mining
ADAPTER_RATE, ADAPTER_LATE_RATE, ADAPTER_DROP, ADAPTER_CLIP = 0.01, 0.001, 800, 100.0
ALPHA_C, ALPHA_P, RANK = 1.0, 0.5, 8


@dataclass(frozen=True)
class MineDraw:
    """What one mining step draws: clean latents and noise ``[3, C, h, w]``, timesteps ``[3]``."""

    x: Tensor
    noise: Tensor
    timestep: Tensor


@dataclass(frozen=True)
class CircumventDraw:
    """What one circumventing step draws.

    Attributes:
        x, noise: ``[1, C, h, w]``, a picture of the embedding by the original model and noise.
        timestep: ``[1]``.
        context: the embedding, ``[1, L, D]``.
    """

    x: Tensor
    noise: Tensor
    timestep: Tensor
    context: Tensor


def unet_from_ldm(
    weights: Mapping[str, Tensor], shape: Mapping[str, Any], names: Mapping[str, str]
) -> UNet2DConditionModel:
    """diffusers' UNet with the weights of an LDM-layout UNet of Stable Diffusion 1's kind.

    Args:
        weights: LDM names -> tensors.
        shape: the LDM configuration, e.g. ``demo.models.UNET``; each level has attention in all of
            its blocks or in none.
        names: diffusers name -> LDM name, as the host's ``comfy.utils.unet_to_diffusers`` gives.

    Raises:
        RuntimeError: if a weight is missing or left over.
    """
    widths = [shape["model_channels"] * m for m in shape["channel_mult"]]
    blocks = shape["num_res_blocks"][0]
    attends = [bool(d) for d in shape["transformer_depth"][::blocks]]
    if "num_heads" in shape:
        heads = [shape["num_heads"]] * len(widths)
    else:
        heads = [w // shape["num_head_channels"] for w in widths]
    unet = UNet2DConditionModel(
        sample_size=shape["image_size"],
        in_channels=shape["in_channels"],
        out_channels=shape["out_channels"],
        layers_per_block=blocks,
        block_out_channels=widths,
        down_block_types=["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends],
        up_block_types=["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in attends[::-1]],
        cross_attention_dim=shape["context_dim"],
        # By this name diffusers takes the number of heads.
        attention_head_dim=heads,
    )
    unet.load_state_dict({d: weights[n].float() for d, n in names.items() if n in weights})
    left = set(weights) - set(names.values())
    if left:
        raise RuntimeError(f"diffusers has no place for {sorted(left)[:3]}")
    return unet.requires_grad_(False).eval()


def scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise schedule."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


class Reference:
    """One erasure: the original network, a copy of it with adapters, and the schedule."""

    def __init__(self, unet: UNet2DConditionModel):
        self.original = unet
        self.erased = copy.deepcopy(unet)
        targets = r".*\.attn[12]\.to_v"
        self.erased.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=targets))
        self.scheduler = scheduler()

    def adapters(self) -> dict[str, nn.Parameter]:
        """diffusers' module path and ``.A`` or ``.B`` -> the adapter's tensor."""
        return {
            name.replace(".lora_A.default.weight", ".A").replace(".lora_B.default.weight", ".B"): p
            for name, p in self.erased.named_parameters()
            if "lora_" in name
        }

    def mine(
        self, start: Tensor, draws: Iterable[MineDraw], first: int = 0
    ) -> tuple[Tensor, list[float]]:
        """Equation 5 from ``start`` ``[L, D]``, a step per draw: the embedding and its losses.

        Args:
            first: number of the first draw's step, where a run is taken up again.
        """
        for p in self.adapters().values():
            p.requires_grad_(False)
        context = start.clone()[None].requires_grad_(True)
        optimizer = torch.optim.SGD([context], lr=RATE)
        losses = []
        for step, d in enumerate(draws, first):
            optimizer.param_groups[0]["lr"] = RATE if step < DROP else LATE_RATE
            noisy = self.scheduler.add_noise(d.x, d.noise, d.timestep)  # type: ignore[arg-type]
            predicted = predict(self.erased, noisy, d.timestep, context.expand(len(d.x), -1, -1))
            loss = distance(predicted, d.noise)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_([context], CLIP)
            optimizer.step()
            losses.append(loss.item())
        return context.detach()[0], losses

    def circumvent(
        self, anchor: Tensor, draws: Iterable[CircumventDraw], first: int = 0
    ) -> list[float]:
        """Equations 7 and 8 with c0 = ``anchor`` ``[1, L0, D]``, a step per draw: the losses.

        Args:
            first: number of the first draw's step, where a run is taken up again.
        """
        parameters = list(self.adapters().values())
        for p in parameters:
            p.requires_grad_(True)
        optimizer = torch.optim.SGD(parameters, lr=ADAPTER_RATE)
        losses = []
        for step, d in enumerate(draws, first):
            optimizer.param_groups[0]["lr"] = (
                ADAPTER_RATE if step < ADAPTER_DROP else ADAPTER_LATE_RATE
            )
            noisy = self.scheduler.add_noise(d.x, d.noise, d.timestep)  # type: ignore[arg-type]
            circumventing = self._term(noisy, d.timestep, d.context, anchor)
            kept = (anchor, 0.0 * d.context, -1.0 * d.context)
            preserving = [self._term(noisy, d.timestep, c, c) for c in kept]
            loss = ALPHA_C * circumventing + ALPHA_P * sum(preserving)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, ADAPTER_CLIP)
            optimizer.step()
            losses.append(loss.item())
        return losses

    def _term(self, noisy: Tensor, timestep: Tensor, context: Tensor, target: Tensor) -> Tensor:
        """|e_theta(x_t, context) - e_theta0(x_t, target)|^2."""
        with torch.no_grad():
            wanted = predict(self.original, noisy, timestep, target)
        return distance(predict(self.erased, noisy, timestep, context), wanted)

    @torch.no_grad()
    def pictures(
        self,
        unet: UNet2DConditionModel,
        context: Tensor,
        empty: Tensor,
        noise: Tensor,
        *,
        steps: int,
        guidance: float,
    ) -> Tensor:
        """Latents ``[n, C, h, w]`` from noise of that shape, by DDIM with guidance.

        Args:
            unet: ``self.original`` or ``self.erased``.
            context, empty: the prompt and the empty prompt, ``[1, L, D]`` each; where their
                lengths differ the two sides are asked one after the other.
        """
        self.scheduler.set_timesteps(steps)
        n, x = len(noise), noise
        for t in self.scheduler.timesteps:
            if context.shape == empty.shape:
                both = torch.cat([empty.expand(n, -1, -1), context.expand(n, -1, -1)])
                without, with_ = predict(unet, torch.cat([x, x]), t, both).chunk(2)
            else:
                without = predict(unet, x, t, empty.expand(n, -1, -1))
                with_ = predict(unet, x, t, context.expand(n, -1, -1))
            guided = without + guidance * (with_ - without)
            x = self.scheduler.step(guided, t, x).prev_sample  # type: ignore[arg-type]
        return x


def predict(unet: UNet2DConditionModel, x: Tensor, timestep: Tensor, context: Tensor) -> Tensor:
    """The network's noise prediction, ``[b, C, h, w]``."""
    return unet(x, timestep, encoder_hidden_states=context).sample


def distance(prediction: Tensor, target: Tensor) -> Tensor:
    """Squared L2 norm, summed over C, h, w, mean over the batch."""
    return ((prediction - target) ** 2).sum(dim=(1, 2, 3)).mean()
