"""How good a model's pictures are: CLIP score, and the Fréchet distance to real ones (FID).

The library torch-fidelity computes FID, with its own Inception network and its own arithmetic. The
network's weights are the user's file; nothing is fetched here. Without them the same library takes
the distance on CLIP's features instead, which is another figure and is never called FID.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import DarkMinerError
from .evaluate import interval_of_mean

WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"
"""The file of torch-fidelity's release v0.2.0 that holds Inception's weights."""

FID, ON_CLIP = "FID", "Fréchet distance on CLIP features (no FID)"
ENOUGH = 2048
"""Pictures below which Inception's 2048 features have no covariance of full rank."""

_INSTALL = "run pip install torch-fidelity in ComfyUI's own environment, and restart"

Extractor = Callable[[Tensor], Tensor]
"""Pictures ``[B, H, W, 3]`` in 0..1 -> features ``[B, F]`` float32 CPU."""


def clip_scores(images: Tensor, texts: Tensor) -> Tensor:
    """100 times the cosine of each picture and its caption, at least 0: ``[N]`` float32.

    Hessel et al. (CLIPScore, 2021) weigh the same cosine by 2.5 and put "A photo depicts" before a
    caption; papers on diffusion models, and torchmetrics, report it as here.

    Args:
        images, texts: features of both sides of one CLIP, ``[N, F]`` each.
    """
    cosines = (F.normalize(images.float(), dim=1) * F.normalize(texts.float(), dim=1)).sum(1)
    return (100.0 * cosines).clamp(min=0.0)


@dataclass(frozen=True)
class Score:
    """A mean of CLIP scores with its 95 % interval (normal approximation).

    Attributes:
        value: the mean, 0 to 100; low, high: its bounds; count: of how many pictures.
    """

    value: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, scores: Tensor) -> Score:
        """Of scores ``[n]``."""
        return cls(*interval_of_mean(scores, 0.0, 100.0), len(scores))

    def __str__(self) -> str:
        return f"{self.value:.2f}, 95 % interval {self.low:.2f} to {self.high:.2f}"


@dataclass(frozen=True)
class Frechet:
    """A distance between made and real pictures.

    Attributes:
        name: :data:`FID` or :data:`ON_CLIP`.
        value: the distance; made, real: of how many pictures.
    """

    name: str
    value: float
    made: int
    real: int

    def __str__(self) -> str:
        told = f"{self.name} {self.value:.3f} ({self.made} pictures to {self.real})"
        if min(self.made, self.real) < ENOUGH and self.name == FID:
            told += f"; of fewer than {ENOUGH} it is far too high"
        return told


@dataclass
class Gauge:
    """Takes features of pictures as they come, so that none has to be kept.

    Args:
        extract: gives a picture's features.
        name: of the distance between them.
    """

    extract: Extractor
    name: str
    made: list[Tensor] = field(default_factory=list)
    real: list[Tensor] = field(default_factory=list)

    def distance(self) -> Frechet:
        """Of all that were made to all that are real, by the library.

        Raises:
            DarkMinerError: if there are fewer than two of a kind, or the library is missing.
        """
        if min(len(self.made), len(self.real)) < 2:
            raise DarkMinerError(
                "A Fréchet distance needs two pictures made and two real ones at least: raise "
                "count, or put more into folder."
            )
        with _library() as metric:
            given = [
                metric.fid_features_to_statistics(torch.cat(f)) for f in (self.made, self.real)
            ]
            found = metric.fid_statistics_to_metric(*given, False)[metric.KEY_METRIC_FID]
        return Frechet(self.name, float(found), len(self.made), len(self.real))


def inception(weights: Path) -> Extractor:
    """torch-fidelity's Inception, as FID has it: 2048 features of a picture in 8 bits.

    Args:
        weights: a file such as :data:`WEIGHTS`; one that holds anything but tensors is refused.

    Raises:
        DarkMinerError: if the library is missing, or the file is no such weights.
    """
    with _library():
        module = importlib.import_module("torch_fidelity.feature_extractor_inceptionv3")
    try:
        torch.load(weights, map_location="cpu", weights_only=True)  # the library runs what it holds
        network: Any = module.FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(weights)
        )
    except Exception as error:  # torch raises many kinds on files that are none
        raise DarkMinerError(
            f"fid_weights {weights.name!r} holds no weights of Inception as torch-fidelity has "
            f"them ({type(error).__name__}): name its {WEIGHTS}, or leave it empty."
        ) from error

    @torch.no_grad()
    def extract(images: Tensor) -> Tensor:
        return network(in_bytes(images).movedim(-1, 1).contiguous())[0].float().cpu()

    return extract


def in_bytes(images: Tensor) -> Tensor:
    """Pictures in 0..1 with the values of their 8-bit files, uint8."""
    return (images.detach().cpu().float().clamp(0, 1) * 255).round().byte()


def require() -> None:
    """Refuse what needs the library where it is missing.

    Raises:
        DarkMinerError: says how to install it.
    """
    with _library():
        pass


@contextmanager
def _library() -> Iterator[Any]:
    try:
        metric = importlib.import_module("torch_fidelity.metric_fid")
    except Exception as error:  # what is half installed raises anything
        raise DarkMinerError(
            f"A Fréchet distance needs torch-fidelity, which cannot be imported "
            f"({type(error).__name__}): {_INSTALL}, or leave folder empty."
        ) from error
    yield metric
