"""CompareErasure: the same prompts and seeds before and after an erasure, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ...darkminer.errors import DarkMinerError
from ...darkminer.model.sampling import SamplingConfig
from ...darkminer.progress.plan import Expected, Part, Plan
from ...darkminer.types import Tally
from .. import inputs, sockets
from ..checks import accepted
from ..fields import named
from ..host.draw import drawn
from ..host.lora import apply_lora
from ..host.run import Progress
from ..host.session import latent_size
from ..host.text import conditioning
from .sheet import sheet

NODE = "CompareErasure"
STAGE = "compare"
_MOST = 16  # strengths
_LAST_SEED = 0xFFFFFFFFFFFFFFFF


class CompareErasure(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id=NODE,
            display_name="Compare Erasure",
            category="DarkMiner",
            search_aliases=["before and after", "erase concept", "unlearn", "strength"],
            description="Draws prompts before and after an erasure from the same noise.",
            inputs=[
                io.Model.Input("model", tooltip="The model before the erasure."),
                io.Clip.Input("clip", tooltip="Its text encoder."),
                io.Vae.Input("vae", tooltip="Its VAE."),
                io.String.Input(
                    "prompts", multiline=True, default="a van gogh painting of a village\n"
                    "a watercolour of a village",
                    tooltip="What to draw, one prompt a line: the concept, and what must stay.",
                ),
                io.String.Input(
                    "negative_prompt", default="",
                    tooltip="The other side of classifier-free guidance.",
                ),
                io.Int.Input(
                    "pictures", default=2, min=1, max=16,
                    tooltip="Pictures of each prompt; each has the next seed.",
                ),
                io.Int.Input(
                    "width", default=512, min=8, max=4096, tooltip="Of each picture, in pixels."
                ),
                io.Int.Input(
                    "height", default=512, min=8, max=4096, tooltip="Of each picture, in pixels."
                ),
                io.Int.Input(
                    "seed", default=0, min=0, max=_LAST_SEED,
                    control_after_generate=io.ControlAfterGenerate.fixed,
                    tooltip="Of the first picture: a KSampler with this seed draws the same.",
                ),
                *inputs.rare(inputs.sampling()[:-1]),
                io.String.Input(
                    "strengths", default="1", optional=True,
                    tooltip="Strengths of lora, separated by commas, a column each: 0.5, 1, 1.5.",
                ),
                sockets.Lora.Input("lora", optional=True, tooltip="The erasure."),
                io.Model.Input(
                    "erased", optional=True,
                    tooltip="Instead of lora: the erased model, from any loader.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="sheet", tooltip="All pictures on a page, a row for each prompt."
                ),
                io.Image.Output(
                    display_name="before", tooltip="The pictures before, prompt by prompt."
                ),
                io.Image.Output(
                    display_name="after",
                    tooltip="The same after, at the last of strengths: for Image Compare.",
                ),
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, prompts=None, strengths=None):
        def check() -> None:
            if prompts is not None:
                lines_of(prompts)
            if strengths is not None:
                strengths_of(strengths)

        return accepted(cls, {}, check)

    @classmethod
    def execute(
        cls, model, clip, vae, prompts, negative_prompt, pictures, width, height, seed,
        sampling_steps, cfg, sampler_name, scheduler, strengths="1", lora=None, erased=None,
    ):  # fmt: skip
        with named(NODE):
            lines, levels = lines_of(prompts), strengths_of(strengths)
            latent_size(vae, width, height)
            if seed + pictures - 1 > _LAST_SEED:
                raise DarkMinerError(f"seed is {seed} and has no {pictures} after it: lower it.")
            models = columns(model, lora, erased, levels)
            sampling = SamplingConfig(sampling_steps, cfg, sampler_name, scheduler)
            count = len(lines) * pictures * len(models)
            progress = Progress(NODE, compare_plan(count, sampling))
            tally = Tally(progress, STAGE, 0, count)
            negative = conditioning(clip, negative_prompt)
            said = [conditioning(clip, line) for line in lines]

            def column(network: Any) -> list[Tensor]:
                found = []
                for positive in said:
                    for i in range(pictures):
                        found.append(drawn(
                            network, vae, positive, negative, (width, height), seed + i, sampling
                        ))  # fmt: skip
                        tally(1)
                return found

            found = {name: torch.cat(column(network)) for name, network in models.items()}
        progress.done(f"{count} pictures")
        before, *_, after = found.values()
        return io.NodeOutput(sheet(lines, found, seed), before, after)


def columns(
    model: Any, lora: Mapping[str, Tensor] | None, erased: Any, strengths: Sequence[float]
) -> dict[str, Any]:
    """What each column is called, and the MODEL that draws it.

    Raises:
        DarkMinerError: if it is not one of ``lora`` and ``erased`` that is given, or strengths
            are asked of a MODEL.
    """
    if (lora is None) == (erased is None):
        how = "neither is" if lora is None else "both are"
        raise DarkMinerError(f"lora and erased: {how} connected: connect one of them.")
    if lora is None:
        if list(strengths) != [1.0]:
            raise DarkMinerError(
                "strengths are of lora and erased is connected instead: set strengths to 1, or "
                "connect the erasure to lora."
            )
        return {"before": model, "after": erased}
    named = {"after" if len(strengths) == 1 and s == 1.0 else f"strength {s:g}": s
             for s in strengths}  # fmt: skip
    return {"before": model, **{name: apply_lora(model, lora, s) for name, s in named.items()}}


def compare_plan(count: int, sampling: SamplingConfig) -> Plan:
    """What the node will do."""
    cost = count * Expected(sampling).picture
    return Plan((Part(STAGE, 0, "", "pictures to compare", cost, "picture"),))


def lines_of(text: str) -> list[str]:
    """The prompts of a text with one a line.

    Raises:
        DarkMinerError: if there is none.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise DarkMinerError("prompts is empty: write what to draw, one prompt a line.")
    return lines


def strengths_of(text: str) -> list[float]:
    """The strengths of a text, each once.

    Raises:
        DarkMinerError: if one is no number from -10 to 10, or there are none or too many.
    """
    found: dict[float, None] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        try:
            strength = float(part)
        except ValueError:
            strength = float("nan")
        if not -10.0 <= strength <= 10.0:
            raise DarkMinerError(
                f"strengths holds {part[:20]!r}: write numbers from -10 to 10, separated by commas."
            )
        found[strength] = None
    if not 1 <= len(found) <= _MOST:
        raise DarkMinerError(f"strengths holds {len(found)} numbers: write 1 to {_MOST}.")
    return list(found)
