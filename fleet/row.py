"""One row of a plan: what is erased from which checkpoint, how, and what attacks it then."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ..darkminer.config import PRESETS, EraseConfig
from ..darkminer.files.names import file_stem
from ..darkminer.settings import changed_by

GALLERY = "gallery"
"""What a checkpoint is called that is no file but the pack's own small model."""


@dataclass(frozen=True)
class Kind:
    """What goes without saying of a kind of concept."""

    template: str
    anchor: str
    detector: str


KINDS = {
    "style": Kind("a * painting", "a painting", "style (CLIP)"),
    "object": Kind("a * photo", "a photo", "object (CLIP)"),
    "unsafe": Kind("a * photo", "a photo", "nudity (NudeNet)"),
}
DRAWING = Kind("a * drawing", "a drawing", "gallery judge")
"""The same of whatever the gallery draws."""
GALLERY_SETTINGS = {"sampling.cfg": "3", "sampling.batch": "64"}
"""How the gallery's pictures are made, where a row does not say otherwise."""


@dataclass(frozen=True)
class Row:
    """What a row asks for. Empty texts and sizes of 0 are filled in by :meth:`whole`.

    Attributes:
        checkpoint: its name in the plan; source: its path or URL, or :data:`GALLERY`.
        concept: what is erased; kind: one of :data:`KINDS`.
        template: prompt of the pool's pictures, ``*`` in the concept's place.
        anchor, negative, keep, exclude: as the loop node's inputs.
        preset, settings: a recipe, and what differs from it (place -> value as text).
        pictures, width, height: of the image pool.
        attacks: names of the attacks whose report card is made; before: whether the model before
            its erasure is attacked as well; prompts: how many prompts are attacked.
        bake: whether the checkpoint is saved with the erasure merged into it.
        clip_vision: a file of the image encoder; else open_clip's architecture and weights.
        name: what the row is called; files and results have this name.
    """

    checkpoint: str
    source: str
    concept: str
    kind: str = "style"
    template: str = ""
    anchor: str = ""
    negative: str = ""
    keep: tuple[str, ...] = ()
    exclude: str = ""
    preset: str = "fast"
    settings: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0
    pictures: int = 200
    width: int = 0
    height: int = 0
    attacks: tuple[str, ...] = ()
    before: bool = False
    detector: str = ""
    effort: str = "short"
    prompts: int = 8
    bake: bool = False
    clip_vision: str = ""
    open_clip: str = "ViT-L-14"
    open_clip_weights: str = "openai"
    name: str = ""

    def whole(self, side: int) -> Row:
        """The row with all that goes without saying; ``side``: the family's size of pictures."""
        of = DRAWING if self.source == GALLERY else KINDS[self.kind]
        settings = GALLERY_SETTINGS if self.source == GALLERY else {}
        stem = f"{file_stem(self.checkpoint)}-{file_stem(self.concept)}-{self.preset}-{self.seed}"
        return Row(**{
            **self.plain(),
            "template": self.template or of.template,
            "anchor": self.anchor or of.anchor,
            "detector": self.detector or of.detector,
            "settings": {**settings, **self.settings},
            "width": self.width or side,
            "height": self.height or side,
            "name": self.name or stem,
        })  # fmt: skip

    def plain(self) -> dict[str, Any]:
        """Its fields by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def config(self) -> EraseConfig:
        """The settings of its erasure.

        Raises:
            SettingError: if one of them is none.
        """
        return changed_by(PRESETS[self.preset], self.settings)

    def digest(self, contents: str) -> str:
        """Names all that its result depends on, but for the pack's own version.

        Args:
            contents: of the checkpoint's file, see :func:`~.places.stamp`.
        """
        plain = asdict(self)
        del plain["name"], plain["source"]  # a file that was moved is the same file
        text = json.dumps([plain, contents], sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Row:
        """A row as JSON has it."""
        lists = {name: tuple(plain[name]) for name in ("keep", "attacks")}
        return cls(**{**plain, **lists})
