"""What nodes need of the running host: progress, interrupts, sampler names, output paths."""

from __future__ import annotations

import json
import logging
import os
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

from ...darkminer.errors import DarkMinerError, writable
from ...darkminer.progress.lines import Lines
from ...darkminer.progress.plan import Plan
from ...darkminer.progress.words import duration
from ...darkminer.types import StepReport
from .panel import Panel, note
from .running import running

SAMPLERS: list[str] = list(comfy.samplers.KSampler.SAMPLERS)
SCHEDULERS: list[str] = list(comfy.samplers.KSampler.SCHEDULERS)

log = logging.getLogger(__name__)

_BAR = 1000  # steps of a node's bar
_SECONDS_BETWEEN_UPDATES = 0.1
_SECONDS_BETWEEN_TEXTS = 0.3
_PREVIEW_SIDE = 512


class Progress:
    """A report that moves the node's one bar, writes on the node and in the log what is being done,
    shows pictures and obeys the stop button.

    Args:
        node: its name, for the log.
        plan: all that is to come, see :mod:`~...darkminer.progress.plan`.
    """

    def __init__(self, node: str, plan: Plan | None = None):
        self._node = node
        self._lines = Lines(lambda line: log.info("%s: %s", node, line), plan)
        self._course = self._lines.course
        self._bar = comfy.utils.ProgressBar(_BAR)
        self._panel = Panel(node, self._course)
        self._begun = self._moved = self._said = time.monotonic()
        _write("loading the model")

    def __call__(self, report: StepReport) -> None:
        stop_if_asked()
        self._lines(report)
        self._panel(report)
        if not report.steps:
            return
        now = time.monotonic()
        if now - self._said >= _SECONDS_BETWEEN_TEXTS:
            self._said = now
            _write(self._course.words(report))
        last = report.step >= report.steps
        if now - self._moved >= _SECONDS_BETWEEN_UPDATES or last or report.images is not None:
            self._moved = now
            preview = None
            if report.images is not None:
                preview = ("JPEG", _row(report.images), _PREVIEW_SIDE)
            self._bar.update_absolute(int(self._course.share * _BAR), _BAR, preview)

    def expect(self, pace: float, also: str = "", begins: bool = True) -> None:
        """Say how long it will take, before it begins.

        Args:
            pace: seconds that a row through the network takes.
            also: what else is to be said before.
            begins: whether all of the plan is to come; else no time is said yet.
        """
        self._course.expect(pace)
        words = " · ".join(filter(None, (self._course.ahead() * begins, also)))
        if words:
            log.info("%s: %s", self._node, words)
            _write(words)
        if also:
            self._panel.note(also)

    def done(self, words: str) -> None:
        """Fill the bar, and leave on the node what has come of it and how long it took."""
        self._bar.update_absolute(_BAR, _BAR)
        between = "\n" if words.endswith(".") else " · "
        said = f"{words}{between}{duration(time.monotonic() - self._begun)}"
        self._panel.done(said)
        _write(said)


def say(text: str, *, ends: bool = False) -> None:
    """Write a line on the node that is running; nothing where the host cannot show one.

    The host's page keeps it there after the run. It shows no other text of a node but of its own
    text previews, and what the pack's panel shows.

    Args:
        ends: whether it says that something ends the run.
    """
    where = running()
    if where is not None:
        note(where, text, ends=ends)
        _write(text)


def _write(text: str) -> None:
    """The same for what the panel shows by itself."""
    where = running()
    if where is not None and hasattr(where.server, "send_progress_text"):
        where.server.send_progress_text(writable(text), where.node, where.server.client_id)


def _row(images) -> Image.Image:  # [B, H, W, 3] in 0..1
    pixels = (images.clamp(0, 1).numpy() * 255).round().astype(np.uint8)
    row = Image.fromarray(np.concatenate(list(pixels), axis=1))
    scale = max(1, 128 // row.height)
    return row.resize((row.width * scale, row.height * scale), Image.Resampling.NEAREST)


def stop_if_asked() -> None:
    """Raise what the host raises where its stop button was pressed."""
    comfy.model_management.throw_exception_if_processing_interrupted()


def output_file(prefix: str, ending: str = ".safetensors") -> Path:
    """The next free ``<output>/<prefix>_00001_<ending>``, numbered as the host numbers.

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
    return Path(folder) / f"{name}_{counter:05}_{ending}"


def output_folder() -> Path:
    """The host's output folder."""
    return Path(folder_paths.get_output_directory())


def lora_files() -> list[str]:
    """The host's LoRAs, by the names that its loaders show."""
    return list(folder_paths.get_filename_list("loras"))


def lora_file(name: str) -> Path | None:
    """The file of one of :func:`lora_files`; None where there is none of the name."""
    if name not in lora_files():
        return None
    path = folder_paths.get_full_path("loras", name)
    return None if path is None else Path(path)


def below_output(path: Path) -> str:
    """A file's place below the output folder, with ``/`` between folders."""
    return Path(os.path.relpath(path, folder_paths.get_output_directory())).as_posix()


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
