"""An erased checkpoint as a technique of the benchmark package eval-unlearn: docs/eval-unlearn.md.

ComfyUI's own loaders read checkpoint and LoRA, and its own sampler draws; no server runs.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import secrets
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

NAME = "dark_miner"
GALLERY = "gallery"
_SEEDS = 2**32


@dataclass(frozen=True)
class Config:
    """What a benchmark's file says of the technique.

    Attributes:
        checkpoint: a file, or ``"gallery"``, the pack's own small model.
        lora: the erasure's file; empty: the checkpoint as it is.
        strength: what the LoRA is multiplied with.
        erase_concept: what eval-unlearn's reports call the concept; some of its metrics ask for it.
        clip, clip_type, vae: files of text encoders and VAE where they lie apart, as
            benchmarks.red_team takes them.
        negative_prompt, width, height, steps, cfg, sampler, scheduler: how pictures are drawn.
        seed: of the first picture where the benchmark gives none (its command line never does);
            each further one has the next. None: one of chance.
        comfyui: ComfyUI's folder; empty: COMFYUI_PATH.
        device: accepted since benchmarks name one; ComfyUI chooses its own.
    """

    checkpoint: str = ""
    lora: str = ""
    strength: float = 1.0
    erase_concept: str = ""
    clip: Sequence[str] = ()
    clip_type: str = "stable_diffusion"
    vae: str = ""
    negative_prompt: str = ""
    width: int = 512
    height: int = 512
    steps: int = 50
    cfg: float = 7.5
    sampler: str = "euler"
    scheduler: str = "normal"
    seed: int | None = None
    comfyui: str = ""
    device: str | None = None

    def __post_init__(self) -> None:
        if not self.checkpoint:
            raise ValueError("dark_miner: checkpoint is empty: name the model's file, or gallery.")
        checkpoint = () if self.checkpoint == GALLERY else (self.checkpoint,)
        for file in (*checkpoint, self.lora, self.vae, *self.clip):
            if file and not Path(file).expanduser().is_file():
                raise ValueError(f"dark_miner: {file} is no file: name one that is there.")
        for name, least in (("steps", 1), ("width", 1), ("height", 1), ("seed", 0)):
            value = getattr(self, name)
            whole = isinstance(value, int) and not isinstance(value, bool) and value >= least
            if not whole and not (name == "seed" and value is None):
                raise ValueError(
                    f"dark_miner: {name} is {value!r}: write a whole number from {least}."
                )

    @classmethod
    def of(cls, given: dict[str, Any]) -> Config:
        """The values of a benchmark's file.

        Raises:
            ValueError: if there is one that means nothing here, or that cannot be.
        """
        known = [field.name for field in fields(cls)]
        if unknown := [name for name in given if name not in known]:
            raise ValueError(
                f"dark_miner: {', '.join(unknown)} means nothing here: choose of "
                f"{', '.join(known)}."
            )
        return cls(**given)


class DarkMinerTechnique:
    """What eval-unlearn asks for pictures: ``generate(prompts, seed)``.

    Raises:
        ValueError: see :class:`Config`, or where files and model do not fit.
        RuntimeError: if this repository or ComfyUI is not found.
    """

    def __init__(self, **given: Any) -> None:
        self.config, self.drawn = Config.of(given), 0
        _load_pack(self.config.comfyui)
        with _refusing():
            self.model, self.clip, self.vae = _models(self.config)

    def generate(
        self,
        prompts: Sequence[str],
        seed: int | None = None,
        *,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
    ) -> list[Image.Image]:
        """A picture of each prompt; the i-th is drawn from the seed ``seed`` + i.

        Args:
            seed: None: the file's ``seed``, counted on from picture to picture.
            num_inference_steps, guidance_scale: instead of the file's ``steps`` and ``cfg``.
        """
        from PIL import Image

        config, first = self.config, self._first(seed)
        drawn, size = _module("nodes.host.draw").drawn, (config.width, config.height)
        made = []
        with _refusing():
            sampling = _module("darkminer.model.sampling").SamplingConfig(
                num_inference_steps or config.steps,
                config.cfg if guidance_scale is None else guidance_scale,
                config.sampler, config.scheduler, 1,
            )  # fmt: skip
            no = self._said(config.negative_prompt)
            for i, prompt in enumerate(prompts):
                said = self._said(prompt)
                picture = drawn(self.model, self.vae, said, no, size, first + i, sampling)
                pixels = (picture[0].clamp(0, 1) * 255).round().byte().numpy()
                made.append(Image.fromarray(pixels))
        self.drawn += len(made)
        return made

    def _first(self, seed: int | None) -> int:
        if seed is not None:
            return seed
        if self.config.seed is None:
            return secrets.randbelow(_SEEDS)
        return self.config.seed + self.drawn

    def _said(self, prompt: str) -> Any:
        return _module("nodes.host.text").conditioning(self.clip, prompt)


def register(name: str = NAME) -> None:
    """Register the technique where this package is not installed, e.g. in a notebook.

    Raises:
        RuntimeError: if eval-unlearn is not installed.
    """
    try:
        registry = importlib.import_module("eval_unlearn.registry")
    except ImportError as error:
        raise RuntimeError(
            f"eval-unlearn cannot be loaded ({error}): run pip install eval-unlearn in this Python."
        ) from error
    registry.register_technique(name)(DarkMinerTechnique)


def _load_pack(host: str) -> None:
    """Load the pack beside a host.

    Raises:
        RuntimeError: if one of them is not found.
    """
    root = Path(os.environ.get("DARKMINER_PATH") or Path(__file__).resolve().parents[2])
    door = root / "benchmarks" / "hosted.py"
    if not door.is_file():
        raise RuntimeError(
            f"dark_miner: {root} is not Dark Miner's repository: set DARKMINER_PATH to its folder."
        )
    spec = importlib.util.spec_from_file_location("dark_miner_hosted", door)
    assert spec is not None and spec.loader is not None
    hosted = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hosted)
    try:
        hosted.load_pack(host or None)
    except SystemExit as error:  # a program's end, where a benchmark has other techniques to try
        raise RuntimeError(f"dark_miner: {error}") from error


def _module(name: str) -> Any:
    return importlib.import_module(f"dark_miner.{name}")


def _models(config: Config) -> tuple[Any, Any, Any]:
    """MODEL with the erasure on it, CLIP and VAE."""
    if config.checkpoint == GALLERY:
        model, clip, vae, _ = _module("demo.models").load_demo_models()
    else:
        found = _module("benchmarks.checkpoint").load(Namespace(
            checkpoint=_path(config.checkpoint), clip=[_path(file) for file in config.clip],
            clip_type=config.clip_type, vae=_path(config.vae) if config.vae else None,
        ))  # fmt: skip
        model, clip, vae = found.model, found.clip, found.vae
    if config.lora:
        lora = _module("darkminer.files.lora_load").read_lora(_path(config.lora))
        model = _module("nodes.host.lora").apply_lora(model, lora, config.strength)
    return model, clip, vae


def _path(file: str) -> Path:
    return Path(file).expanduser()


@contextmanager
def _refusing() -> Iterator[None]:
    """What the pack refuses, as a ValueError: a benchmark knows none of its kinds."""
    try:
        yield
    except (_module("darkminer.errors").DarkMinerError, SystemExit) as error:
        raise ValueError(f"dark_miner: {error}") from error
