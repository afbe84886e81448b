"""CLIP as a detector: which of several texts a picture is nearest to.

Styles are judged as the Dark Miner preprint judges them (section 4.1): a softmax over "an image in
the style of [STYLE]" for a list of styles. ``styles.txt`` and ``objects.txt`` are this pack's own
lists; a figure that is to stand beside a published one needs the list, the CLIP and the weights of
that one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

from ..errors import DarkMinerError
from .detectors import Identity, Sight

STYLE, OBJECT = "an image in the style of {}", "a photo of a {}"
_LISTS = {STYLE: "styles.txt", OBJECT: "objects.txt"}


@dataclass(frozen=True)
class ZeroShot:
    """A softmax over texts; a picture counts where the concept's text is the nearest.

    Attributes:
        images: images ``[N, H, W, 3]`` in 0..1 -> features ``[N, F]``.
        texts: features ``[K, F]`` of K texts of the same CLIP.
        scale: what cosines are multiplied with, CLIP's own logit scale.
        concept: the concept's number among the texts.
        identity: its name and version.
    """

    images: Callable[[Tensor], Tensor]
    texts: Tensor
    scale: float
    concept: int
    identity: Identity

    def probabilities(self, images: Tensor) -> Tensor:
        """Of each text, ``[N, K]`` float32."""
        features = F.normalize(self.images(images).float(), dim=1)
        cosines = features @ F.normalize(self.texts.float(), dim=1).T
        return (self.scale * cosines).softmax(1)

    def __call__(self, images: Tensor) -> Sight:
        chances = self.probabilities(images)
        return Sight(chances[:, self.concept], chances.argmax(1) == self.concept)


def zero_shot(
    images: Callable[[Tensor], Tensor],
    texts: Callable[[Sequence[str]], Tensor],
    scale: float,
    version: str,
    concept: str,
    template: str,
    others: Sequence[str] | None = None,
) -> ZeroShot:
    """A detector of a style or an object.

    Args:
        images, texts, scale: both sides of one CLIP, see
            :class:`~..image_encoder.OpenClip`.
        version: names that CLIP.
        concept: the style's or the object's words; added where they are not in the list.
        template: :data:`STYLE`, :data:`OBJECT`, or another text with ``{}`` for the words.
        others: what it is told from; None takes the template's own list.

    Raises:
        DarkMinerError: if there is no concept, or nothing to tell it from.
    """
    if not concept.strip():
        raise DarkMinerError("The detector needs the concept's words: write them, e.g. Van Gogh.")
    listed = listing(template) if others is None else tuple(others)
    rest = [word for word in listed if word.casefold() != concept.strip().casefold()]
    if not rest:
        raise DarkMinerError(
            f"The detector has nothing to tell {concept!r} from: name other styles or objects."
        )
    prompts = [template.format(word) for word in (concept.strip(), *rest)]
    kind = "CLIP style" if template == STYLE else "CLIP object"
    identity = Identity(
        kind, f"{version}, {len(prompts)} texts", None, (concept.strip(), *rest)
    )  # fmt: skip
    return ZeroShot(images, texts(prompts), scale, 0, identity)


def listing(template: str) -> tuple[str, ...]:
    """The words of the pack's list for a template, one a line; # begins a comment."""
    file = Path(__file__).with_name(_LISTS[template])
    lines = (line.partition("#")[0].strip() for line in file.read_text("utf-8").splitlines())
    return tuple(line for line in lines if line)
