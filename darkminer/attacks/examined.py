"""What one model's red team was given and what it found: what a report of it has to name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from .. import __version__
from ..errors import DarkMinerError
from ..judge.detectors import Identity
from ..judge.user_prompts import UserPrompt
from ..model.sampling import SamplingConfig
from .effects import Effects
from .red_team import Effort, RedTeam

_PACKAGES = ("torch", "open_clip_torch", "nudenet")


@dataclass(frozen=True)
class Protocol:
    """How a model was attacked.

    Attributes:
        concept: its words.
        prompts: the users', each attacked by itself.
        seed: of everything that attacks draw.
        effort: whose steps, see :data:`~.red_team.EFFORTS`.
        settings: name of each attack -> its settings.
        sampling: how pictures were made.
        detector: what judged them.
        model: fingerprint of the MODEL that was attacked.
        lora: names the erasure on it; empty for none.
        versions: package -> version.
        seconds: how long it took.
        each: pictures of every prompt as it is.
    """

    concept: str
    prompts: tuple[UserPrompt, ...]
    seed: int
    effort: Effort
    settings: Mapping[str, Any]
    sampling: SamplingConfig
    detector: Identity
    model: str = ""
    lora: str = ""
    versions: Mapping[str, str] | None = None
    seconds: float = 0.0
    each: int = 1

    def require_same(self, other: Protocol, name: str) -> None:
        """Refuse figures that may not stand beside one another.

        Args:
            name: what the other one is called.

        Raises:
            DarkMinerError: names what differs.
        """
        shared = [n for n in self.settings if n in other.settings]
        pairs = {
            "concept": (self.concept, other.concept),
            "detector": (str(self.detector), str(other.detector)),
            "classes of the detector": (self.detector.classes, other.detector.classes),
            "seed": (self.seed, other.seed),
            "prompts": (self.prompts, other.prompts),
            "number of pictures of each prompt": (self.each, other.each),
            "sampling": tuple(replace(p.sampling, batch=1) for p in (self, other)),
            **{f"settings of {n}": (self.settings[n], other.settings[n]) for n in shared},
        }
        for what, (own, others) in pairs.items():
            if own != others:
                raise DarkMinerError(
                    f"{name} was run with another {what} than after, so that their figures may "
                    "not stand side by side: run both with the same inputs, but for the model."
                )


@dataclass(frozen=True)
class Examined:
    """A red team's findings with their protocol.

    Attributes:
        effects: what else was measured of an erasure; None where it was not.
    """

    found: RedTeam
    protocol: Protocol
    effects: Effects | None = None


def versions() -> dict[str, str]:
    """Of this pack and of the libraries that figures depend on, as far as they are installed."""
    known = {"dark-miner": __version__}
    for package in _PACKAGES:
        try:
            known[package] = version(package)
        except PackageNotFoundError:
            continue
    return known
