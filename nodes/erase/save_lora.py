"""SaveErasureLoRA: the file that every loader takes."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ...darkminer.errors import DarkMinerError
from ...darkminer.files.atomic import write_whole
from ...darkminer.files.lora_check import lora_layers
from ...darkminer.files.lora_file import LoraDict, for_diffusers, save_lora
from ...darkminer.files.lora_outcome import require_work
from ...darkminer.files.names import CONCEPT, checked_prefix, file_stem
from ...darkminer.markup import picture_source
from ...darkminer.report.page import as_page
from ...darkminer.report.told import as_json
from .. import sockets
from ..checks import accepted
from ..fields import named
from ..host.run import below_output, output_file, save_picture, say, workflow_metadata

NODE = "SaveErasureLoRA"

log = logging.getLogger(__name__)


class SaveErasureLoRA(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id=NODE,
            display_name="Save Erasure LoRA",
            category="DarkMiner",
            search_aliases=["save lora", "erase concept", "unlearn"],
            description="Saves the erasure under output/loras, with its settings as metadata.",
            is_output_node=True,
            inputs=[
                sockets.Lora.Input("lora", tooltip="The erasure."),
                io.String.Input(
                    "filename_prefix", default="loras/erase",
                    tooltip="Below the output folder; the host lists output/loras among its LoRAs. "
                    "%concept% stands for the erased concept, in letters that file names may hold.",
                ),
                io.Combo.Input(
                    "format", options=["kohya", "diffusers"], default="kohya", optional=True,
                    tooltip="kohya: every loader here and in other interfaces. diffusers: only for "
                    "Stable Diffusion 3, whose kohya files diffusers does not read.",
                ),
                io.Image.Input(
                    "image", optional=True,
                    tooltip="Saved beside the file under its name, for LoRA managers to show; of "
                    "several the first.",
                ),
                io.Boolean.Input(
                    "save_empty", default=False, optional=True,
                    tooltip="Also save a LoRA that changes nothing, because nothing was found to "
                    "erase. Off: that is an error that says what to check.",
                ),
            ],
            outputs=[io.String.Output(display_name="path", tooltip="The file that was written.")],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, filename_prefix=None):
        return accepted(cls, {}, lambda: filename_prefix is None or checked_prefix(filename_prefix))

    @classmethod
    def execute(cls, lora, filename_prefix, format="kohya", image=None, save_empty=False):
        with named(NODE):
            prefix = checked_prefix(filename_prefix)
            lora_layers(lora, "lora")
            if not save_empty:
                require_work(lora)
            told = getattr(lora, "told", None)
            lora = LoraDict(lora, getattr(lora, "metadata", {}))
            concept = file_stem(lora.metadata.get("darkminer_concept", ""))
            path = output_file(prefix.replace(CONCEPT, concept))
            lora = for_diffusers(lora) if format == "diffusers" else lora
            save_lora(path, lora, lora.metadata | workflow_metadata(cls.hidden))
            if image is not None:
                save_picture(path.with_suffix(".png"), image)
            save_report(path, lora.metadata, told, image)
        shown = below_output(path)
        say(f"saved as {shown}")
        return io.NodeOutput(str(path), ui={"text": [shown]})


def save_report(path: Path, metadata: Mapping[str, str], told: Any, image: Tensor | None) -> None:
    """Write the report beside the file, as a page and as JSON; without one the file is whole."""
    picture = None if image is None else picture_source(image[0])
    written = {
        ".report.html": as_page(metadata, told, path.name, picture),
        ".report.json": as_json(metadata, told, path.name),
    }
    try:
        for ending, text in written.items():
            write_whole(path.with_suffix(ending), [text.encode("utf-8")])
    except (DarkMinerError, OSError) as error:
        log.warning("%s: the report is not written: %s", NODE, error)
