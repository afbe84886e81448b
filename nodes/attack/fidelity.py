"""MeasureFidelity: CLIP score of drawn captions, and their Fréchet distance to real pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from comfy_api.latest import io
from torch import Tensor

from ...darkminer.errors import DarkMinerError
from ...darkminer.files.pictures import read_picture
from ...darkminer.image_encoder import OpenClip, open_clip_pair
from ...darkminer.judge import fidelity
from ...darkminer.judge.captions import read_captions
from ...darkminer.judge.fidelity import ENOUGH, WEIGHTS, Frechet, Gauge, Score
from ...darkminer.model.sampling import SamplingConfig
from ...darkminer.progress.plan import Expected, Part, Plan, parts_of
from ...darkminer.types import Report, Tally
from .. import inputs, sockets
from ..erase.verify import encoder_inputs
from ..fields import named
from ..host.draw import drawn
from ..host.folders import file_stamp, folder_files, folder_stamp, permitted_file
from ..host.lora import apply_lora
from ..host.run import Progress, stop_if_asked
from ..host.session import latent_size
from ..host.text import conditioning
from ..watched import WatchesEncoder

NODE = "MeasureFidelity"
STAGE, REAL = "fidelity", "real"
_LAST_SEED = 0xFFFFFFFFFFFFFFFF
_SHOWN = 16


class MeasureFidelity(WatchesEncoder):
    @classmethod
    def define_schema(cls):
        _, clip_name, clip_weights = encoder_inputs()
        return io.Schema(
            node_id=NODE,
            display_name="Measure CLIP Score and FID",
            category="DarkMiner",
            search_aliases=["clip score", "fid", "coco", "image quality"],
            description="Draws captions and says how well the pictures fit them (CLIP score) and "
            "how far they lie from real ones (FID): what an erasure costs a model.",
            inputs=[
                io.Model.Input("model", tooltip="The model that draws, erased or not."),
                io.Clip.Input("clip", tooltip="Its text encoder."),
                io.Vae.Input("vae", tooltip="Its VAE."),
                io.String.Input(
                    "captions", multiline=True, default="",
                    tooltip="What to draw, one caption a line; used where captions_file is empty.",
                ),
                io.String.Input(
                    "captions_file", default="",
                    tooltip="A file in ComfyUI's input folder: COCO's captions_val2017.json (of "
                    "annotations_trainval2017.zip, yours to download) or a text, one a line.",
                ),
                io.Int.Input(
                    "count", default=64, min=2, max=100_000,
                    tooltip="How many captions are drawn, the first ones; papers take 5000 or "
                    "more of COCO's.",
                ),
                io.String.Input(
                    "negative_prompt", default="",
                    tooltip="The other side of classifier-free guidance.",
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
                    tooltip="Of the first picture; each caption has the next seed.",
                ),
                *inputs.rare(inputs.sampling()[:-1]),
                io.String.Input(
                    "folder", default="", optional=True,
                    tooltip="Real pictures in ComfyUI's input folder, such as COCO's val2017: the "
                    "distance to them is taken. Empty: CLIP score alone.",
                ),
                io.String.Input(
                    "fid_weights", default="", optional=True,
                    tooltip=f"Inception's weights in the input folder: {WEIGHTS} of "
                    "torch-fidelity's releases. Empty: the distance is taken on CLIP's features, "
                    "which is no FID.",
                ),
                sockets.Lora.Input("lora", optional=True, tooltip="An erasure to put on model."),
                clip_name,
                clip_weights,
            ],
            outputs=[
                io.Float.Output(
                    display_name="clip_score",
                    tooltip="Mean of max(100 cos, 0) between pictures and captions.",
                ),
                io.Float.Output(
                    display_name="distance",
                    tooltip="FID, or the Fréchet distance on CLIP's features; the summary says "
                    "which. No number (nan) where folder is empty.",
                ),
                io.Image.Output(display_name="pictures", tooltip="The first pictures drawn."),
                io.String.Output(display_name="summary", tooltip="Both figures, in words."),
            ],
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, captions_file="", folder="", fid_weights="", **given):
        files = (
            super().fingerprint_inputs(**given), file_stamp(captions_file or "", "captions_file"),
            file_stamp(fid_weights or "", "fid_weights"), folder and folder_stamp(folder),
        )  # fmt: skip
        return " ".join(filter(None, files))

    @classmethod
    def execute(
        cls, model, clip, vae, captions, captions_file, count, negative_prompt, width, height, seed,
        sampling_steps, cfg, sampler_name, scheduler, folder="", fid_weights="", lora=None,
        open_clip_model="ViT-L-14", open_clip_weights="openai",
    ):  # fmt: skip
        with named(NODE):
            lines = captions_of(captions, captions_file)[:count]
            if seed + len(lines) - 1 > _LAST_SEED:
                raise DarkMinerError(f"seed is {seed} and has no {len(lines)} after it: lower it.")
            latent_size(vae, width, height)
            weights = permitted_file(fid_weights, "fid_weights") if fid_weights.strip() else None
            real = real_pictures(folder, weights)
            network = model if lora is None else apply_lora(model, lora)
            pair = open_clip_pair(open_clip_model, open_clip_weights, waiting=stop_if_asked)
            gauge = gauge_of(pair, weights) if real else None
            sampling = SamplingConfig(sampling_steps, cfg, sampler_name, scheduler)
            progress = Progress(NODE, fidelity_plan(len(lines), len(real), sampling))
            no = conditioning(clip, negative_prompt)

            def draw(caption: str, i: int) -> Tensor:
                positive = conditioning(clip, caption)
                return drawn(network, vae, positive, no, (width, height), seed + i, sampling)

            found = measured(draw, lines, pair, gauge, real, progress)
        progress.done(found.words)
        distance = float("nan") if found.distance is None else found.distance.value
        return io.NodeOutput(found.score.value, distance, found.pictures, found.words)


@dataclass(frozen=True)
class Measured:
    """What a model's pictures came to.

    Attributes:
        score: their CLIP score; clip: whose.
        distance: to real ones, where there were any.
        pictures: the first of them, ``[n, H, W, 3]``.
    """

    score: Score
    clip: str
    distance: Frechet | None
    pictures: Tensor

    @property
    def words(self) -> str:
        """Both figures."""
        told = f"CLIP score {self.score} ({self.score.count} pictures, {self.clip})"
        return f"{told}; {self.distance or 'no folder of real pictures, so no distance'}"


def captions_of(text: str, file: str) -> tuple[str, ...]:
    """The captions of a node: of its file, or else its own lines.

    Raises:
        DarkMinerError: if both are given, or none.
    """
    own = tuple(line.strip() for line in text.splitlines() if line.strip())
    if bool(own) == bool(file.strip()):
        how = "both given" if own else "both empty"
        raise DarkMinerError(
            f"captions and captions_file are {how}: write captions into one of them."
        )
    found = own or read_captions(permitted_file(file, "captions_file"))
    if len(found) < 2:
        raise DarkMinerError("captions holds one line and two are needed: write more.")
    return found


def real_pictures(folder: str, weights: Path | None) -> list[Path]:
    """The files of a folder of real pictures; none where none is named.

    Raises:
        DarkMinerError: if it holds fewer than two, the library for the distance is missing, or
            weights for it are named and no folder.
    """
    if not folder.strip():
        if weights is not None:
            raise DarkMinerError(
                "fid_weights is given and folder is empty: name a folder of real pictures, which "
                "FID is the distance to, or leave both empty."
            )
        return []
    fidelity.require()
    files = folder_files(folder)
    if len(files) < 2:
        raise DarkMinerError(
            f"folder holds {len(files)} pictures and a distance needs two at least (FID {ENOUGH} "
            "and more): put real ones there."
        )
    return files


def gauge_of(pair: OpenClip, weights: Path | None) -> Gauge:
    """What takes the distance: Inception where its weights are there, else CLIP's images."""
    if weights is None:
        return Gauge(pair.images, fidelity.ON_CLIP)
    return Gauge(fidelity.inception(weights), fidelity.FID)


def fidelity_plan(captions: int, real: int, sampling: SamplingConfig) -> Plan:
    """What the node will do."""
    cost = captions * (Expected(sampling).picture + 1.0)
    return parts_of([
        Part(STAGE, 0, REAL, "real pictures", real * 1.0, "picture"),
        Part(STAGE, 0, "", "pictures of captions", cost, "picture"),
    ])  # fmt: skip


def measured(
    draw: Callable[[str, int], Tensor],
    captions: Sequence[str],
    pair: OpenClip,
    gauge: Gauge | None,
    real: Sequence[Path],
    report: Report,
) -> Measured:
    """Draw every caption, and keep of each picture its features alone.

    Args:
        draw: a caption and its number -> its picture ``[1, H, W, 3]``.
        gauge: takes the distance to the files ``real``; None: none is taken.
    """
    if gauge is not None:
        look = Tally(report, STAGE, 0, len(real), REAL)
        for file in real:
            gauge.real.append(gauge.extract(read_picture(file)[None]))
            look(1)
    tally = Tally(report, STAGE, 0, len(captions))
    scores: list[Tensor] = []
    shown: list[Tensor] = []
    for i, caption in enumerate(captions):
        picture = draw(caption, i)
        scores.append(fidelity.clip_scores(pair.images(picture), pair.texts([caption])))
        if gauge is not None:
            gauge.made.append(gauge.extract(picture))
        if len(shown) < _SHOWN:
            shown.append(picture)
        tally(1)
    distance = None if gauge is None else gauge.distance()
    return Measured(Score.of(torch.cat(scores)), pair.name, distance, torch.cat(shown))
