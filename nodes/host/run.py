"""What nodes need of the running host: progress, interrupts, sampler names, output paths."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.samplers
import comfy.utils
import folder_paths
import numpy as np
from comfy.cli_args import args
from PIL import Image

from ...darkminer.errors import DarkMinerError
from ...darkminer.types import StepReport

SAMPLERS: list[str] = list(comfy.samplers.KSampler.SAMPLERS)
SCHEDULERS: list[str] = list(comfy.samplers.KSampler.SCHEDULERS)

_SECONDS_BETWEEN_UPDATES = 0.1
_PREVIEW_SIDE = 512


class Progress:
    """A report that moves the node's progress bar, shows pictures and obeys the stop button."""

    def __init__(self) -> None:
        self._part: tuple[str, int] | None = None
        self._last = 0.0

    def __call__(self, report: StepReport) -> None:
        stop_if_asked()
        now = time.monotonic()
        due = now - self._last >= _SECONDS_BETWEEN_UPDATES
        if not due and report.images is None and report.step < report.steps:
            return
        self._last = now
        preview = None
        if report.images is not None:
            preview = ("JPEG", _row(report.images), _PREVIEW_SIDE)
        if self._part != (report.stage, report.round):
            # The host drops a value below the last one sent: each part gets a bar of its own.
            self._part = (report.stage, report.round)
            self._bar = comfy.utils.ProgressBar(report.steps)
        self._bar.update_absolute(report.step, report.steps, preview)


def _row(images) -> Image.Image:  # [B, H, W, 3] in 0..1
    pixels = (images.clamp(0, 1).numpy() * 255).round().astype(np.uint8)
    row = Image.fromarray(np.concatenate(list(pixels), axis=1))
    scale = max(1, 128 // row.height)
    return row.resize((row.width * scale, row.height * scale), Image.Resampling.NEAREST)


def stop_if_asked() -> None:
    """Raise what the host raises where its stop button was pressed."""
    comfy.model_management.throw_exception_if_processing_interrupted()


def output_file(prefix: str) -> Path:
    """The next free ``<output>/<prefix>_00001_.safetensors``, numbered as the host numbers.

    Raises:
        DarkMinerError: if its folder cannot be made.
    """
    try:
        folder, name, counter, _, _ = folder_paths.get_save_image_path(
            prefix, folder_paths.get_output_directory()
        )
    except OSError as error:
        raise DarkMinerError(
            f"filename_prefix {prefix!r} names a folder that cannot be made ({error}): name "
            "another one below the output folder."
        ) from error
    return Path(folder) / f"{name}_{counter:05}_.safetensors"


def workflow_metadata(hidden: Any) -> dict[str, str]:
    """The workflow that is running, under the names by which the host's page finds it in a file.

    Nothing where the host was started with ``--disable-metadata``.
    """
    if hidden is None or args.disable_metadata:
        return {}
    # The host notes on each node what it was asked whether files changed; that is no part of it.
    prompt = {
        name: {k: v for k, v in node.items() if k != "is_changed"}
        for name, node in (hidden.prompt or {}).items()
    }
    found = {"prompt": prompt, **(hidden.extra_pnginfo or {})}
    return {name: json.dumps(value) for name, value in found.items() if value}


def save_picture(path: Path, images) -> None:
    """Write the first of images ``[B, H, W, 3]`` in 0..1 as a file."""
    pixels = (images[0].clamp(0, 1).cpu().numpy() * 255).round().astype(np.uint8)
    Image.fromarray(pixels).save(path)
