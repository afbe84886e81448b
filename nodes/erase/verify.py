"""VerifyDeltaCLIP: do the mined embeddings still produce the concept?"""

from __future__ import annotations

import logging
from dataclasses import replace

from comfy_api.latest import io

from ...darkminer.config import PAPER
from ...darkminer.errors import DarkMinerError
from ...darkminer.image_encoder import open_clip_encoder
from ...darkminer.method.verify import AGAINST, VerifyConfig, verify
from ...darkminer.progress.plan import verify_plan
from .. import inputs, sockets
from ..checks import accepted
from ..fields import named
from ..host.run import Progress, stop_if_asked
from ..host.session import context_of
from ..host.vision import vision_encoder
from ..watched import WatchesEncoder
from .mined import mined_into
from .stages import check_width, stage

NODE = "VerifyDeltaCLIP"

log = logging.getLogger(__name__)


def encoder_inputs() -> list:
    return [
        io.ClipVision.Input(
            "clip_vision", optional=True,
            tooltip="The image encoder of the verification; without it open_clip is used.",
        ),
        io.String.Input(
            "open_clip_model", default="ViT-L-14", optional=True,
            tooltip="open_clip architecture, used when no clip_vision is connected. With a file "
            "as weights the endings -quickgelu (OpenAI, DFN, MetaCLIP) and -gelu (LAION, DataComp) "
            "say which activation they were trained with.",
        ),
        io.String.Input(
            "open_clip_weights", default="openai", optional=True,
            tooltip="open_clip weights: a tag of its list (downloaded once, when the node starts) "
            "or a file.",
        ),
    ]  # fmt: skip


def against_input():
    """What a picture is held against."""
    return io.Combo.Input(
        "against", options=[inputs.AS_PRESET, *AGAINST], default=inputs.AS_PRESET,
        optional=True,
        tooltip="pairs: one reference picture and a few pool images, as in the paper. means: the "
        "mean of many, which tells the concept apart better; use it with threshold auto.",
    )  # fmt: skip


def encoder(clip_vision, open_clip_model: str, open_clip_weights: str, node: str):
    """The image encoder the user asked for."""
    if clip_vision is not None:
        return vision_encoder(clip_vision, node)
    return open_clip_encoder(open_clip_model, open_clip_weights, waiting=stop_if_asked)


def verify_config(
    base: VerifyConfig, threshold: str, draws: int, against: str = inputs.AS_PRESET
) -> VerifyConfig:
    """Verification's settings with what the user changed (empty and 0 mean the preset's)."""
    if threshold.strip():
        base = replace(base, threshold=threshold_of(threshold))
    return inputs.override(base, draws=draws, against=inputs.unless_preset(against))


def threshold_of(text: str) -> float | str:
    """``"auto"`` or a number."""
    text = text.strip().lower()
    if text == "auto":
        return "auto"
    try:
        return float(text)
    except ValueError:
        raise DarkMinerError(
            f"threshold is {text!r}: write a number such as 0.2, or auto."
        ) from None


class VerifyDeltaCLIP(WatchesEncoder):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id=NODE,
            display_name="Verify (Delta CLIP)",
            category="DarkMiner",
            description="Scores mined embeddings by CLIP delta features (eq. 6).",
            inputs=[
                io.Model.Input("model", tooltip="The original model."),
                io.Vae.Input("vae", tooltip="Its VAE."),
                io.Conditioning.Input("mined", tooltip="The mined embeddings."),
                io.Conditioning.Input(
                    "reference", tooltip="What is compared with: the anchor prompt, e.g. a photo."
                ),
                sockets.Pool.Input("pool", tooltip="Pictures of the concept."),
                inputs.preset(),
                inputs.seed(),
                *inputs.sampling(),
                io.String.Input(
                    "threshold", default="", optional=True,
                    tooltip="Go on while a score is above it (the paper: 0.2); auto calibrates it "
                    "for this image encoder. Empty: as the preset says.",
                ),
                io.Int.Input(
                    "draws", default=0, min=0, max=64, optional=True,
                    tooltip="Noise draws averaged per embedding. 0: as the preset says.",
                ),
                *encoder_inputs(),
                against_input(),
                sockets.Lora.Input("lora", optional=True, tooltip="The erasure so far."),
                sockets.Embeddings.Input(
                    "embeddings", optional=True,
                    tooltip="Where the mined embeddings lie; those that fail are dropped.",
                ),
                inputs.negative(),
                inputs.settings(),
            ],
            outputs=[
                io.Boolean.Output(
                    display_name="still_there",
                    tooltip="True: an embedding still produces the concept (its score is above the "
                    "threshold), go on erasing. False: nothing was found.",
                ),
                io.Float.Output(display_name="score", tooltip="The highest score."),
                io.Image.Output(display_name="target", tooltip="Pictures from the embeddings."),
                io.Image.Output(display_name="reference", tooltip="Pictures from the reference."),
                sockets.Embeddings.Output(
                    display_name="embeddings",
                    tooltip="All embeddings, scored; failed ones dropped.",
                ),
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, threshold=None):
        return accepted(cls, {}, lambda: verify_config(PAPER.verify, threshold or "", 0))

    @classmethod
    def execute(
        cls, model, vae, mined, reference, pool, preset, seed, sampling_steps, cfg, sampler_name,
        scheduler, batch_size, threshold="", draws=0, clip_vision=None,
        open_clip_model="ViT-L-14", open_clip_weights="openai", lora=None, embeddings=None,
        negative=None, against=inputs.AS_PRESET, settings=None,
    ):  # fmt: skip
        with named(NODE):
            chosen = inputs.preset_config(preset, settings)
            if settings is not None and settings.reference_prompt.strip():
                log.info(
                    "%s: what is connected to reference is what counts here; the reference_prompt "
                    "of settings, %r, is for whole runs.", NODE, settings.reference_prompt,
                )  # fmt: skip
            config = verify_config(chosen.verify, threshold, draws, against)
            encode = encoder(clip_vision, open_clip_model, open_clip_weights, NODE)
            found = mined_into(embeddings, mined, pool.concept, NODE)
            sampling = inputs.sampling_config(
                sampling_steps, cfg, sampler_name, scheduler, batch_size, settings
            )
            where, entries = f"round {found.round}", len(found.current())
            progress = Progress(
                NODE, verify_plan(config, found.round, entries, sampling, where=where)
            )
            with stage(
                model, node=NODE, anchor=reference, negative=negative, pool=pool, vae=vae,
                sampling=sampling, config=chosen.lora, seed=seed, lora=lora,
            ) as (session, adapters):  # fmt: skip
                check_width(session, mined, NODE, "mined")
                verdict = verify(
                    session, encode, found.current(), context_of(reference, NODE, "reference"),
                    pool, config, seed=seed,
                    round_=found.round, adapters=adapters, report=progress,
                )  # fmt: skip
        said = "still there" if verdict.verified else "nothing found"
        progress.done(f"{said} · score {verdict.score:.2f}, threshold {verdict.threshold:.2f}")
        return io.NodeOutput(
            verdict.verified, verdict.score, verdict.target, verdict.reference,
            found.judged(verdict),
        )  # fmt: skip
