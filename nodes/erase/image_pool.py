"""ImagePoolBuilder: pictures of the concept, made by the MODEL or collected."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from comfy_api.latest import io
from torch import Tensor

from ...darkminer.errors import DarkMinerError
from ...darkminer.method.image_pool import build_pool, concept_prompt
from ...darkminer.model.sampling import SamplingConfig
from ...darkminer.progress.plan import pool_plan
from ...darkminer.types import ImagePool, Report
from .. import inputs, sockets
from ..checks import accepted, check_text, each
from ..fields import named
from ..host.fingerprint import fingerprint, latent_format
from ..host.folders import folder_stamp, picture_folder, read_folder
from ..host.lora import model_family
from ..host.run import Progress, say
from ..host.session import context_of, encode_images, latent_size, training_session
from ..host.text import conditioning
from ..host.training import training_mode

NODE = "ImagePoolBuilder"

log = logging.getLogger(__name__)


class ImagePoolBuilder(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id=NODE,
            display_name="Image Pool Builder",
            category="DarkMiner",
            search_aliases=["erase concept", "concept pictures", "collect images"],
            description="Pictures of the concept: made by the original model, or your own.",
            is_input_list=True,
            inputs=[
                io.Model.Input("model", tooltip="The model to erase from."),
                io.Clip.Input("clip", tooltip="Its text encoder."),
                io.Vae.Input("vae", tooltip="Its VAE."),
                io.String.Input(
                    "concept", default="van gogh",
                    tooltip="What is to be erased, in the words a prompt would use.",
                ),
                *picture_inputs(),
                inputs.seed(),
                *inputs.sampling(),
                io.String.Input(
                    "negative", default="", optional=True,
                    tooltip="The negative prompt of the pictures.",
                ),
                io.Image.Input(
                    "images", optional=True,
                    tooltip="Your own pictures of the concept instead of made ones; a list of them "
                    "makes one pool.",
                ),
                io.String.Input(
                    "folder", default="", optional=True,
                    tooltip="A folder of your own pictures (png, jpg, webp, bmp, tif, gif), all of "
                    "one size. A relative one lies in the input folder.",
                ),
                inputs.settings(),
            ],
            outputs=[
                sockets.Pool.Output(
                    display_name="pool", is_output_list=True,
                    tooltip="For all other nodes.",
                ),
                io.Image.Output(
                    display_name="preview", is_output_list=True,
                    tooltip="The first pictures of the pool.",
                ),
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, concept=None, template=None, folder=None):
        return accepted(cls, {}, lambda: check_words(concept, template, folder))

    @classmethod
    def fingerprint_inputs(cls, folder=(), **_):
        # What a link will bring is not known here: such a folder counts as changed.
        return [
            float("nan") if text is None else folder_stamp(text) if text.strip() else ""
            for text in folder
        ]

    @classmethod
    def execute(cls, images=None, **given):
        pools, notes = [], []
        with named(NODE):
            images = joined(images)
            if images is not None and any(text.strip() for text in given.get("folder", ())):
                raise DarkMinerError(
                    "images and folder both bring pictures: disconnect images, or empty folder."
                )
            for one in each(given):
                pool, note = pool_of(images=images, **one)
                pools.append(pool)
                notes += [note] if note else []
        for note in notes:
            log.info("%s: %s", NODE, note)
        if notes:
            say("\n".join(notes))
        previews = [pool.floats(range(min(16, len(pool)))) for pool in pools]
        return io.NodeOutput(pools, previews, ui={"text": notes} if notes else None)


def check_words(
    concept: Sequence[str | None] | None,
    template: Sequence[str | None] | None,
    folder: Sequence[str | None] | None,
) -> None:
    """Refuse words from which no pool can be made.

    Raises:
        DarkMinerError: if so.
    """
    for text in _written(concept):
        check_text("concept", text)
        if not text.strip():
            raise DarkMinerError("concept is empty: write what is to be erased, e.g. van gogh.")
    for text in _written(template):
        if "*" not in text:
            raise DarkMinerError("template has no *: put a * where the concept belongs.")
    for text in _written(folder):
        if text.strip():
            picture_folder(text)


def _written(values: Sequence[str | None] | None) -> list[str]:
    """The texts of a list input that are known when the workflow is queued."""
    return [v for v in values or () if v is not None]


def joined(images: Sequence[Tensor | None] | None) -> Tensor | None:
    """A list of IMAGEs ``[n, H, W, C]`` as one ``[N, H, W, 3]``; None if there is none.

    Raises:
        DarkMinerError: if two differ in size.
    """
    parts = [part[..., :3] for part in images or () if part is not None]
    sizes = dict.fromkeys(f"{part.shape[2]} x {part.shape[1]}" for part in parts)
    if len(sizes) > 1:
        raise DarkMinerError(
            f"images holds pictures of {' and '.join(list(sizes)[:3])}: bring all to one size."
        )
    return torch.cat(parts) if parts else None


def pool_of(
    model, clip, vae, concept, template, size, width, height, seed, sampling_steps, cfg,
    sampler_name, scheduler, batch_size, negative="", images=None, folder="", settings=None,
) -> tuple[ImagePool, str]:  # fmt: skip
    """The pool of one set of inputs, and what is to be said of it."""
    sampling = inputs.sampling_config(
        sampling_steps, cfg, sampler_name, scheduler, batch_size, settings
    )
    concept_prompt(concept, template)  # refuses before pictures are read
    note = ""
    if folder.strip():
        found = read_folder(folder)
        images, note = found.images, found.summary()
    if images is not None:
        return collected(model, vae, images, concept, seed, template), note
    progress = Progress(NODE, pool_plan(size, sampling))
    pool = made(
        model, clip, vae, concept, template, negative, size, width, height, seed, sampling,
        progress,
    )  # fmt: skip
    progress.done(f"{len(pool)} pictures")
    return pool, note


def picture_inputs() -> list:
    """Prompt, number and size of a pool's pictures."""
    return [
        io.String.Input(
            "template", default="a * photo",
            tooltip="The prompt of the pictures; * stands for the concept.",
        ),
        io.Int.Input(
            "size", default=200, min=1, max=10_000,
            tooltip="How many pictures to make (the paper: 200).",
        ),
        io.Int.Input(
            "width", default=512, min=8, max=4096, tooltip="In pixels, of pictures that are made."
        ),
        io.Int.Input(
            "height", default=512, min=8, max=4096, tooltip="In pixels, of pictures that are made."
        ),
    ]  # fmt: skip


def made(
    model, clip, vae, concept: str, template: str, negative: str, size: int, width: int,
    height: int, seed: int, sampling: SamplingConfig, report: Report,
) -> ImagePool:  # fmt: skip
    """A pool of pictures that the MODEL makes from the concept in the template."""
    prompt = concept_prompt(concept, template)
    anchor = conditioning(clip, prompt)
    with training_session(
        model, anchor=anchor, negative=conditioning(clip, negative), sampling=sampling,
        latent_size=latent_size(vae, width, height), vae=vae,
    ) as session:  # fmt: skip
        return build_pool(
            session, context_of(anchor, NODE, "template"), size=size, seed=seed,
            concept=concept.strip(), prompt=prompt, template=template, report=report,
        )  # fmt: skip


def collected(model, vae, images: Tensor, concept: str, seed: int, template: str = "") -> ImagePool:
    """A pool of the user's own pictures ``[N, H, W, 3]``."""
    latent_size(vae, images.shape[2], images.shape[1])
    with training_mode():
        images = images[..., :3].detach().clone().float()
        latents = encode_images(model, vae, images)
        pixels = (images.clamp(0, 1) * 255).round().to(torch.uint8).cpu()
        return ImagePool(
            latents, pixels, concept.strip(), "", seed, fingerprint(model),
            family=model_family(model.model.model_config), latent_format=latent_format(model),
            template=template,
        )  # fmt: skip
