"""ImagePoolBuilder: pictures of the concept, made by the MODEL or collected."""

from __future__ import annotations

from pathlib import Path

import torch
from comfy_api.latest import io
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ..darkminer.config import SamplingConfig
from ..darkminer.errors import DarkMinerError
from ..darkminer.image_pool import build_pool, concept_prompt
from ..darkminer.types import ImagePool, Report
from . import inputs, sockets
from .host import context_of, encode_images, latent_size, training_session
from .host_fingerprint import fingerprint, latent_format
from .host_lora import model_family
from .host_run import Progress, named
from .host_text import conditioning
from .host_training import training_mode

NODE = "ImagePoolBuilder"
_ENDINGS = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


class ImagePoolBuilder(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id=NODE,
            display_name="Image Pool Builder",
            category="DarkMiner",
            description="Pictures of the concept: made by the original model, or your own.",
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
                    tooltip="Your own pictures of the concept instead of made ones.",
                ),
                io.String.Input(
                    "folder", default="", optional=True,
                    tooltip="A folder of your own pictures (png, jpg, webp), all of one size.",
                ),
            ],
            outputs=[
                sockets.Pool.Output(display_name="pool", tooltip="For MineEmbedding and others."),
                io.Image.Output(display_name="preview", tooltip="The first pictures of the pool."),
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, concept=None, template=None):
        if concept is not None and not concept.strip():
            return f"{NODE}: concept is empty: write what is to be erased, e.g. van gogh."
        if template is not None and "*" not in template:
            return f"{NODE}: template has no *: put a * where the concept belongs."
        return True

    @classmethod
    def execute(
        cls, model, clip, vae, concept, template, size, width, height, seed, sampling_steps, cfg,
        sampler_name, scheduler, batch_size, negative="", images=None, folder="",
    ):  # fmt: skip
        sampling = inputs.sampling_config(sampling_steps, cfg, sampler_name, scheduler, batch_size)
        with named(NODE):
            prompt = concept_prompt(concept, template)
            if folder.strip():
                images = read_folder(Path(folder.strip()))
            if images is not None:
                pool = collected(model, vae, images, concept, seed)
            else:
                pool = made(
                    model, clip, vae, concept, prompt, negative, size, width, height, seed,
                    sampling, Progress(),
                )  # fmt: skip
        return io.NodeOutput(pool, pool.floats(range(min(16, len(pool)))))


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
        io.Int.Input("width", default=512, min=8, max=4096, tooltip="In pixels."),
        io.Int.Input("height", default=512, min=8, max=4096, tooltip="In pixels."),
    ]  # fmt: skip


def made(
    model, clip, vae, concept: str, prompt: str, negative: str, size: int, width: int, height: int,
    seed: int, sampling: SamplingConfig, report: Report,
) -> ImagePool:  # fmt: skip
    """A pool of pictures that the MODEL makes from the prompt."""
    anchor = conditioning(clip, prompt)
    with training_session(
        model, anchor=anchor, negative=conditioning(clip, negative), sampling=sampling,
        latent_size=latent_size(vae, width, height), vae=vae,
    ) as session:  # fmt: skip
        return build_pool(
            session, context_of(anchor, NODE, "template"), size=size, seed=seed,
            concept=concept.strip(), prompt=prompt, report=report,
        )  # fmt: skip


def collected(model, vae, images: Tensor, concept: str, seed: int) -> ImagePool:
    """A pool of the user's own pictures ``[N, H, W, 3]``."""
    latent_size(vae, images.shape[2], images.shape[1])
    with training_mode():
        images = images[..., :3].detach().clone().float()
        latents = encode_images(model, vae, images)
        pixels = (images.clamp(0, 1) * 255).round().to(torch.uint8).cpu()
        return ImagePool(
            latents, pixels, concept.strip(), "", seed, fingerprint(model),
            family=model_family(model.model.model_config), latent_format=latent_format(model),
        )  # fmt: skip


def read_folder(folder: Path) -> Tensor:
    """All pictures of a folder by name, ``[N, H, W, 3]`` in 0..1.

    Raises:
        DarkMinerError: if there is no such folder, no picture, one that cannot be read, or two
            sizes; names the file.
    """
    if not folder.is_dir():
        raise DarkMinerError(f"folder {folder} does not exist: name a folder of pictures.")
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in _ENDINGS)
    if not paths:
        raise DarkMinerError(
            f"folder {folder} holds no pictures: put png, jpg or webp files there."
        )
    pictures = []
    for path in paths:
        try:
            with Image.open(path) as picture:
                rgb = picture.convert("RGB")
        except (OSError, UnidentifiedImageError) as error:
            raise DarkMinerError(
                f"{path.name} in folder cannot be read ({error}): replace or remove it."
            ) from error
        data = torch.frombuffer(bytearray(rgb.tobytes()), dtype=torch.uint8)
        pictures.append(data.view(rgb.height, rgb.width, 3))
        if pictures[-1].shape != pictures[0].shape:
            raise DarkMinerError(
                f"{path.name} in folder is {rgb.width} x {rgb.height} and {paths[0].name} is not: "
                "bring all pictures to one size."
            )
    return torch.stack(pictures).float() / 255.0
