"""LoadErasureLoRA: an erasure of yesterday, to go on with today."""

from __future__ import annotations

import logging

from comfy_api.latest import io

from ...darkminer.errors import DarkMinerError
from ...darkminer.files import stamps as file_stamps
from ...darkminer.files.lora_file import LoraDict
from ...darkminer.files.lora_load import read_lora, rounds_told, run_folder_told
from ...darkminer.method.erasure import Erasure
from ...darkminer.runs import read_erasure
from ...darkminer.types import EmbeddingPool
from .. import sockets
from ..fields import named
from ..host.run import lora_file, lora_files, output_folder, say
from .origin import digest

NODE = "LoadErasureLoRA"
log = logging.getLogger(__name__)


class LoadErasureLoRA(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id=NODE,
            display_name="Load Erasure LoRA",
            category="DarkMiner",
            description="Loads an erasure that was saved, with the embeddings of its run, so that "
            "a loop or the stage nodes go on with it.",
            inputs=[
                io.Combo.Input(
                    "lora_name", options=lora_files(),
                    tooltip="The file of Save Erasure LoRA, in the kohya format.",
                ),
            ],
            outputs=[
                sockets.Lora.Output(display_name="lora", tooltip="The erasure."),
                sockets.Embeddings.Output(
                    display_name="embeddings",
                    tooltip="What its run had found, from its run folder; without the folder only "
                    "its rounds and scores.",
                ),
                io.String.Output(display_name="summary", tooltip="What was loaded, in words."),
            ],
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, lora_name=None):
        path = lora_file(lora_name) if lora_name else None
        return file_stamps.stamp(path) if path is not None else ""

    @classmethod
    def execute(cls, lora_name):
        with named(NODE):
            path = lora_file(lora_name)
            if path is None:
                raise DarkMinerError(
                    f"lora_name {lora_name!r} is not among the host's LoRAs: choose one of them."
                )
            lora = read_lora(path)
            found, words = embeddings_of(lora)
        say(words)
        return io.NodeOutput(lora, found, words, ui={"text": [words]})


def embeddings_of(lora: LoraDict) -> tuple[EmbeddingPool, str]:
    """What an erasure's run had found, and a sentence on it.

    Raises:
        DarkMinerError: as :func:`~...darkminer.files.lora_load.rounds_told`.
    """
    told = rounds_told(lora.metadata)
    what = f'The erasure of "{told.concept}" after {told.round} rounds'
    folder = run_folder_told(lora.metadata)
    if folder:
        try:
            erasure, state = read_erasure(output_folder(), folder)
        except DarkMinerError as error:
            log.warning("%s", error)
        else:
            notes = "".join(f" {note}" for note in state.notes)
            if _of_one_run(lora, erasure, told):
                count = len(erasure.embeddings.entries)
                return erasure.embeddings, f"{what}, with {count} embeddings of its run.{notes}"
    return told, (
        f"{what}. The folder of its run is not there or has gone on: what was found before is not "
        "trained on again; rounds and seeds are counted on."
    )


def _of_one_run(lora: LoraDict, erasure: Erasure, told: EmbeddingPool) -> bool:
    """Whether the folder's run stands where the file was made."""
    found = erasure.embeddings
    kept = {digest([down]) for down in erasure.adapters.down.values()}
    ours = {digest([t]) for key, t in lora.items() if key.endswith(".lora_down.weight")}
    return (found.round, found.concept, kept) == (told.round, told.concept, ours)
