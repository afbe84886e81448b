"""A run that survives what stops it: the folder it is kept in, and the LoRA so far."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from comfy_api.latest import io

from ...darkminer.config import EraseConfig
from ...darkminer.errors import DarkMinerError
from ...darkminer.files.lora_file import LoraDict, save_lora
from ...darkminer.files.lora_metadata import Origin
from ...darkminer.files.lora_outcome import OUTCOME
from ...darkminer.files.names import MAX_PREFIX, MAX_STEM, checked_folder, file_stem
from ...darkminer.files.stamps import stamp
from ...darkminer.method.erasure import Erasure
from ...darkminer.method.outcome import adds_nothing
from ...darkminer.method.run import Keeping
from ...darkminer.model.adapter import AdapterState
from ...darkminer.model.interface import DiffusionModel
from ...darkminer.room import require_room, size_text
from ...darkminer.runs import KeptRun
from ...darkminer.standing import EVERY
from ...darkminer.types import EmbeddingPool, ImagePool, RetainSet
from ..host.fingerprint import options_fingerprint, text_fingerprint, vae_fingerprint
from ..host.run import below_output, output_folder, say
from .origin import digest

log = logging.getLogger(__name__)

SECONDS = "DARKMINER_CHECKPOINT_SECONDS"
"""The environment variable that says how often a stage that is under way is kept."""
OFF = "off"
RUNS = "darkminer"
"""The folder below the output folder that holds the folders of runs."""
UNFINISHED = "loras/unfinished"


def kept_inputs() -> list:
    """Where a run is kept and how long it may take; they stand behind all other inputs."""
    return [
        io.String.Input(
            "run_folder", default="", optional=True, advanced=True,
            tooltip="The folder below output/darkminer that this run is kept in, so that it goes "
            "on where it was stopped when the same workflow is queued again. Empty: named by the "
            "concept and by all that the run is given. off: nothing is kept.",
        ),
        io.Float.Input(
            "max_minutes", default=0.0, min=0.0, max=100_000.0, step=1.0, optional=True,
            advanced=True,
            tooltip="Minutes after which the run ends with the erasure so far; queued again with "
            "more it goes on. 0: no limit.",
        ),
    ]  # fmt: skip


@dataclass(frozen=True)
class Kept:
    """How a run is kept, as a node's inputs say.

    Attributes:
        folder: its name; empty: made of what the run is given; :data:`OFF`: nothing is kept.
        deadline: :func:`time.monotonic` at which it ends; None: never.
        one_of_several: whether the folder is made for one of several concepts, of which a later one
            begins anew where an earlier one has changed.
        elsewhere_over: whether a run of another machine that holds the folder counts as ended,
            because whoever starts runs knows that it has.
    """

    folder: str = ""
    deadline: float | None = None
    one_of_several: bool = False
    elsewhere_over: bool = False

    @classmethod
    def of(cls, run_folder: str, max_minutes: float) -> Kept:
        """The inputs as a value.

        Raises:
            DarkMinerError: if the name is none that a folder may have.
        """
        name = run_folder.strip()
        if name and name != OFF:
            name = checked_folder(name, "run_folder")
            most = MAX_PREFIX - len(RUNS) - MAX_STEM - 24  # around it, a concept's own and a second
            if len(name.encode()) > most:
                raise DarkMinerError(
                    f"run_folder is {len(name.encode())} bytes long: write at most {most}."
                )
        return cls(name, time.monotonic() + 60 * max_minutes if max_minutes else None)

    def below(self, concept: str) -> Kept:
        """The same for one of several concepts."""
        if not self.named:
            return self
        digits = hashlib.sha256(concept.encode("utf-8", "backslashreplace")).hexdigest()[:6]
        folder = f"{self.folder}/{file_stem(concept)[: MAX_STEM - 8]}-{digits}"
        return Kept(folder, self.deadline, one_of_several=True)

    @property
    def named(self) -> bool:
        """Whether a person has named the folder."""
        return bool(self.folder) and self.folder != OFF

    @property
    def over(self) -> bool:
        """Whether its time is up."""
        return self.deadline is not None and time.monotonic() >= self.deadline


UNKEPT = Kept(OFF)


def given(
    session: DiffusionModel,
    pool: ImagePool,
    about: Origin,
    models: tuple[Any, Any, Any],
    seed: int,
    state: AdapterState | None,
    embeddings: EmbeddingPool | None,
) -> dict[str, str]:
    """What a run is given besides its settings, in words and digests.

    Args:
        about: what the LoRA's file says of it.
        models: MODEL, CLIP and VAE.
    """
    model, clip, vae = models
    encoder = dict(about.encoder or {})
    weights = Path(encoder.get("open_clip_weights", ""))
    if encoder.get("open_clip_weights") and weights.is_file():
        encoder["file"] = stamp(weights)
    before = () if state is None else (*state.up.values(), *state.down.values())
    entries = () if embeddings is None else embeddings.entries
    found = [t for e in entries for t in (e.context, e.anchor, e.latents) if t is not None]
    return {
        "model": session.fingerprint,
        "model_options": options_fingerprint(model),
        "clip": text_fingerprint(clip),
        "vae": vae_fingerprint(vae),
        "pool": f"{len(pool)} pictures of {pool.concept!r} ({digest([pool.images, pool.latents])})",
        "template": f"{pool.prompt!r} {pool.template!r}",
        "anchor_prompt": str(about.anchor),
        "negative_prompt": str(about.negative),
        "seed": str(seed),
        "exclude_words": ", ".join(about.exclude),
        "keep": " ".join(about.keep),
        "encoder": json.dumps(encoder, sort_keys=True),
        "lora": digest(before) if before else "",
        "embeddings": "" if embeddings is None else f"round {embeddings.round} ({digest(found)})",
        "torch": torch.__version__,
        "code": _code()[:12],
    }


def own_name(concept: str, config: EraseConfig, inputs: Mapping[str, str]) -> str:
    """A folder's name made of all that a run's result depends on, but how many rounds it may have
    and how far it may drift: with more of either it goes on.
    """
    plain = asdict(config)
    plain.pop("max_rounds")
    plain["guard"].pop("max_drift")
    about = json.dumps([plain, dict(inputs)], sort_keys=True)
    return f"{file_stem(concept)}-{hashlib.sha256(about.encode()).hexdigest()[:10]}"


@cache
def _code() -> str:
    """A digest of the pack's own code: what another code has made is no result of this one."""
    root, found = Path(__file__).resolve().parents[2], hashlib.sha256()
    for package in ("darkminer", "nodes"):
        for path in sorted((root / package).rglob("*.py")):
            found.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return found.hexdigest()


def checkpoint_seconds() -> float:
    """Seconds between two checkpoints of a stage, as :data:`SECONDS` has it."""
    try:
        return max(0.0, float(os.environ.get(SECONDS, EVERY)))
    except ValueError:
        log.warning("%s is no number: a checkpoint is made every %g seconds.", SECONDS, EVERY)
        return EVERY


class RunKeeper:
    """A run's folder, its LoRA so far, and what is said of both. To be used with ``with``.

    Args:
        kept: what the node says; config, inputs, pool: what the run is given.
        lora_of: adapters, embeddings, number of the bank's prompts and run folder as a LoRA.
        room: bytes that the folder will take.

    Raises:
        DarkMinerError: if the folder that was named holds another run or cannot be used.
    """

    def __init__(
        self,
        kept: Kept,
        config: EraseConfig,
        inputs: Mapping[str, str],
        pool: ImagePool,
        lora_of: Callable[[AdapterState, EmbeddingPool, int | None, str], LoraDict],
        room: int,
    ):
        self._kept, self._lora_of = kept, lora_of
        self._run: KeptRun | None = None
        self._bank: RetainSet | None = None
        self._times, self._seconds, self._room = 0, 0.0, room
        own = own_name(pool.concept, config, inputs)
        self.name = f"{RUNS}/{kept.folder if kept.named else own}"
        for name in () if kept.folder == OFF else self._choices(config, own):
            try:
                require_room(output_folder(), room)
                self._run = KeptRun.open(
                    output_folder(), name, config, inputs, pool,
                    elsewhere_over=kept.elsewhere_over,
                )  # fmt: skip
                self.name = name
                return
            except DarkMinerError as error:
                if kept.named and not kept.one_of_several:
                    raise
                log.warning("%s", error)
        if kept.folder != OFF:
            log.warning("This run is not kept.")  # nobody has asked for a folder

    def _choices(self, config: EraseConfig, own: str) -> list[str]:
        """Folders for the run: where the first holds another run that nobody named, a second."""
        if self._kept.named:
            return [self.name, f"{self.name}-{own.rpartition('-')[2]}"]
        limit = config.guard.max_drift
        guarded = "" if limit is None else f"-{limit:g}"
        return [self.name, f"{self.name}-{config.max_rounds or 'all'}{guarded}"]

    @property
    def where(self) -> str:
        """Where the run is kept and how much room that takes, in words; empty: it is not kept."""
        if self._run is None:
            return ""
        return f"kept in output/{self.name} (about {size_text(self._room)})"

    @property
    def begins(self) -> bool:
        """Whether the run begins; else it goes on."""
        return self._run is None or self._run.begun is None

    def __enter__(self) -> RunKeeper:
        return self

    def __exit__(self, *_: object) -> None:
        if self._run is not None:
            self._run.__exit__(None, None, None)

    def bank(self, make: Callable[[], RetainSet | None]) -> RetainSet | None:
        """The vocabulary bank, made once a run."""
        self._bank = make() if self._run is None else self._run.bank(make)
        return self._bank

    def keeping(self) -> Keeping:
        """What :func:`~...darkminer.method.loop.erase` is given."""
        if self._run is None:
            return Keeping(broken=self.broken, deadline=self._kept.deadline)
        begun = self._run.begun
        if begun is not None:
            words = "is taken from" if begun.over else f"goes on after {len(begun.finished)} stages"
            log.info("The run %s %s (output/%s).", words, begun.embeddings.concept, self.name)
            say(f"{words} output/{self.name}")
            for note in begun.notes:
                log.warning("%s", note)
        return Keeping(
            begun, self._keep, self.broken, checkpoint_seconds(), self._kept.deadline
        )  # fmt: skip

    def _keep(self, so_far: Erasure) -> None:
        assert self._run is not None
        begun = time.monotonic()
        self._run.keep(so_far)
        self._times, self._seconds = self._times + 1, self._seconds + time.monotonic() - begun

    def ended(self, done: Erasure) -> LoraDict:
        """The LoRA that a run ended with; the one so far has no use any more."""
        lora = self._lora(done)
        if self._run is None:
            return lora
        log.info(
            "The run was kept %d times in %.1f s (output/%s).", self._times, self._seconds,
            self.name,
        )  # fmt: skip
        try:
            if done.over:
                self._run.end(done)
                self._so_far.unlink(missing_ok=True)
        except (DarkMinerError, OSError) as error:
            log.warning("What is left of the run cannot be put in order: %s", error)
        return lora

    def _lora(self, erasure: Erasure) -> LoraDict:
        bank = None if self._bank is None else len(self._bank)
        folder = "" if self._run is None else self.name
        return self._lora_of(erasure.adapters, erasure.embeddings, bank, folder)

    @property
    def _so_far(self) -> Path:
        digits = hashlib.sha256(self.name.encode()).hexdigest()[:10]
        stem = file_stem(self.name.rpartition("/")[2])[: MAX_STEM - 11]
        return output_folder() / UNFINISHED / f"{stem}-{digits}.safetensors"

    def broken(self, so_far: Erasure) -> None:
        """Save the LoRA as it stands where something ends the run, and say where it is."""
        if adds_nothing(so_far.adapters):
            return
        path, lora = self._so_far, self._lora(so_far)
        try:
            save_lora(path, lora, lora.metadata | {OUTCOME: "Unfinished: the run was stopped."})
        except DarkMinerError as error:
            log.error("The LoRA so far is lost: %s", error)
            return
        words = f"stopped; the LoRA so far is saved as {below_output(path)}"
        if self._run is not None:
            words += "; queue the same workflow again to go on"
        log.warning("%s", words)
        say(words, ends=True)
