"""The judge: a classifier that tells style and object of a picture.

It is trained apart from the gallery's image encoder and no part of the method ever sees it.
Nothing here knows the host.
"""

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from .gallery import OBJECTS, SIZE, STYLES

WEIGHTS = Path(__file__).with_name("weights")

Judgement = tuple[torch.Tensor, torch.Tensor]


class Judge(nn.Module):
    """Three stages of strided convolutions, one head for the style and one for the object."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        channels = [3, width, 2 * width, 4 * width]
        layers: list[nn.Module] = []
        for before, after in zip(channels, channels[1:], strict=False):
            layers += [nn.Conv2d(before, after, 3, 2, 1), nn.BatchNorm2d(after), nn.SiLU()]
            layers += [nn.Conv2d(after, after, 3, 1, 1), nn.BatchNorm2d(after), nn.SiLU()]
        features = channels[-1] * (SIZE // 8) ** 2
        self.body = nn.Sequential(*layers)
        self.drop = nn.Dropout(0.3)
        self.style = nn.Linear(features, len(STYLES))
        self.object = nn.Linear(features, len(OBJECTS))

    def forward(self, pictures: torch.Tensor) -> Judgement:
        """Logits [B, 7] and [B, 48] of pictures [B, 3, 32, 32] (0..1)."""
        hidden = self.drop(self.body(pictures * 2 - 1).flatten(1))
        return self.style(hidden), self.object(hidden)


def load_judge(
    folder: str | Path | None = None, device: str | torch.device = "cpu"
) -> Callable[[torch.Tensor], Judgement]:
    """The trained judge.

    Args:
        folder: where judge.safetensors lies; the pack's own weights by default.
        device: where to compute.

    Returns:
        A function of images [B, H, W, 3] (0..1; made 32 x 32 if they are not) that gives the
        probabilities of the styles [B, 7] and of the objects [B, 48], float32 on the CPU.

    Raises:
        FileNotFoundError: no weights there.
    """
    net = _trained(folder, device)

    def judge(images: torch.Tensor) -> Judgement:
        pictures = _pictures(images, device)
        with torch.no_grad():
            parts = [net(part) for part in pictures.split(256)]  # bounded memory
        style, thing = (torch.cat(logits).softmax(-1).cpu() for logits in zip(*parts, strict=True))
        return style, thing

    return judge


def load_distance(
    folder: str | Path | None = None, device: str | torch.device = "cpu"
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """How different pictures look to the judge: LPIPS (Zhang et al., 2018) without its weights.

    After each of the judge's stages the channels at every place are scaled to length 1, and their
    squared differences are averaged over the places; the distance is the mean of the stages.

    Returns:
        A function of images [B, H, W, 3] twice (0..1) that gives distances [B], 0 to 4.
    """
    net = _trained(folder, device)

    def stages(images: torch.Tensor) -> list[torch.Tensor]:
        found, hidden = [], _pictures(images, device) * 2 - 1
        for i, layer in enumerate(net.body):
            hidden = layer(hidden)
            if i % 6 == 5:  # two convolutions a stage, each with its norm and its activation
                found.append(F.normalize(hidden, dim=1))
        return found

    @torch.no_grad()
    def distance(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        pairs = zip(stages(one), stages(other), strict=True)
        each = [(a - b).square().sum(1).mean((1, 2)) for a, b in pairs]
        return torch.stack(each).mean(0).cpu()

    return distance


class Neighbourhood:
    """Whether pictures lie among pictures of a concept: a judge that may say "none of these".

    The classifier has to name one of its answers, whatever it sees; black strokes are nearest to
    ink among seven styles and need not be ink. Here a picture is placed by the judge's last stage,
    averaged over places, and its distance is the mean cosine distance to the ``NEAREST`` nearest
    of many real pictures.

    Args:
        references: real pictures of the concept [R, H, W, 3] (0..1).
        limit: the largest distance that counts as among them.
        folder, device: as in `load_judge`.
    """

    NEAREST = 5

    def __init__(
        self,
        references: torch.Tensor,
        limit: float,
        folder: str | Path | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        self._net, self._device, self.limit = _trained(folder, device), device, limit
        self._places = self._place(references)

    def _place(self, images: torch.Tensor) -> torch.Tensor:
        """Unit vectors [B, 192]."""
        with torch.no_grad():
            parts = [
                self._net.body(part * 2 - 1).mean((2, 3))
                for part in _pictures(images, self._device).split(256)
            ]
        return F.normalize(torch.cat(parts), dim=1)

    def distance(self, images: torch.Tensor) -> torch.Tensor:
        """Distance [B] of images [B, H, W, 3] (0..1), 0 to 2, float32 on the CPU."""
        similar = self._place(images) @ self._places.T
        return 1 - similar.topk(min(self.NEAREST, len(self._places)), dim=1).values.mean(1).cpu()

    def holds(self, images: torch.Tensor) -> torch.Tensor:
        """Which images [B, H, W, 3] lie among the references, [B] bool."""
        return self.distance(images) <= self.limit


def _trained(folder: str | Path | None, device: str | torch.device) -> Judge:
    file = Path(folder or WEIGHTS) / "judge.safetensors"
    if not file.is_file():
        raise FileNotFoundError(f"The judge's weights {file} are missing: install the pack whole.")
    net = Judge()
    net.load_state_dict({name: value.float() for name, value in load_file(file).items()})
    return net.eval().requires_grad_(False).to(device)


def _pictures(images: torch.Tensor, device: str | torch.device) -> torch.Tensor:
    """Images as the judge takes them, [B, 3, 32, 32] in 0..1."""
    pictures = images[..., :3].to(device, torch.float32).movedim(-1, 1).clamp(0, 1)
    if pictures.shape[-2:] != (SIZE, SIZE):
        pictures = F.interpolate(pictures, (SIZE, SIZE), mode="bilinear", antialias=True)
    return pictures
