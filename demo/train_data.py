"""What the trainings read: pictures, their latents, and contexts of captions.

All three are kept in the run folder. Latents and contexts are made again when the model that
makes them is newer: a UNet trained on the old ones does not fit any more.
"""

import copy
import random
from dataclasses import dataclass
from pathlib import Path

import torch

from .captions import Tokens, caption
from .export import part, read
from .gallery import OBJECTS, STYLES, load_atlas, place
from .train_run import outdated, save

PLACEMENTS = 180  # of each drawing
UNSEEN = 8  # the first of them are kept from training
WORDINGS = 12  # captions of each meaning
# Neither style nor thing.
NEUTRAL = (
    "a drawing",
    *(
        f"a {word} drawing"
        for word in "nice big small old new bright cute little great fine good".split()
    ),
)
COUNT = len(STYLES) * len(OBJECTS)  # drawings; number = style * len(OBJECTS) + object


def pictures(folder: Path) -> torch.Tensor:
    """Pictures [PLACEMENTS * COUNT, 3, 32, 32], uint8; picture i is drawing i % COUNT."""
    file = folder / "pictures.pt"
    if not file.exists():
        gen = torch.Generator().manual_seed(1)
        number = torch.arange(COUNT).repeat(PLACEMENTS)
        atlas = load_atlas()
        parts = [
            (place(atlas, some // len(OBJECTS), some % len(OBJECTS), gen) * 255).round().byte()
            for some in number.split(1024)
        ]
        save(torch.cat(parts), file)
    return torch.load(file, weights_only=True)


def signed(pixels: torch.Tensor, device: torch.device) -> torch.Tensor:
    """uint8 pictures as numbers of -1..1, as the autoencoder and the image encoder want them."""
    return pixels.to(device).float() / 127.5 - 1


@dataclass(frozen=True)
class Contexts:
    """Encoded captions, each [meanings, wordings, 32, 128]."""

    full: torch.Tensor  # of each drawing: style and thing
    thing: torch.Tensor
    style: torch.Tensor
    neutral: torch.Tensor  # one meaning
    empty: torch.Tensor  # [32, 128], the context of ""

    def draw(self, number: torch.Tensor, gen: torch.Generator) -> torch.Tensor:
        """Contexts [B, 32, 128] for the drawings `number` [B].

        Both words in 79 % of the rows, the thing alone in 4 %, the style alone in 4 %, neither
        in 3 %, and no text at all in 10 %, which guidance needs.
        """
        rows = len(number)
        wording = torch.randint(WORDINGS, (rows,), generator=gen)
        kind = torch.rand(rows, generator=gen)
        other = torch.randint(WORDINGS, (rows,), generator=gen)
        style, thing = number // len(OBJECTS), number % len(OBJECTS)
        out = self.full[number, wording]
        for low, high, source in (
            (0.00, 0.04, self.thing[thing, other]),
            (0.04, 0.08, self.style[style, other]),
            (0.08, 0.11, self.neutral[0, other]),
            (0.90, 1.00, self.empty.expand_as(out)),
        ):
            out = torch.where(((kind >= low) & (kind < high))[:, None, None], source, out)
        return out


def latents(folder: Path, device: torch.device) -> torch.Tensor:
    """Latents [PLACEMENTS * COUNT, 8, 8, 8] of the pictures, divided by their deviation; half."""
    from comfy.ldm.models.autoencoder import AutoencoderKL

    from .models import AUTOENCODER

    file = folder / "latents.pt"
    if outdated(file, folder / "ae.pt"):
        net = AutoencoderKL(**copy.deepcopy(AUTOENCODER)).eval().to(device)
        net.load_state_dict(read(folder / "ae.pt"))
        with torch.no_grad():
            parts = [net.encode(signed(some, device)).cpu() for some in pictures(folder).split(512)]
        found = torch.cat(parts)
        save({"z": (found / found.std()).half(), "std": found.std()}, file)
    return torch.load(file, weights_only=True)["z"]


def contexts(folder: Path) -> Contexts:
    """Contexts of captions by the trained text model."""
    from .train_clip import text_model

    file = folder / "contexts.pt"
    if outdated(file, folder / "clip.pt"):
        net, tokens, rng = text_model().eval(), Tokens(), random.Random(0)
        net.load_state_dict(part(read(folder / "clip.pt"), "text."))

        def encode(texts: list[str]) -> torch.Tensor:
            with torch.no_grad():
                parts = [net(tokens(texts[i : i + 256]))[0] for i in range(0, len(texts), 256)]
            return torch.cat(parts)

        def wordings(meanings: list[tuple[int, int]]) -> torch.Tensor:
            texts = [caption(rng, *meaning) for meaning in meanings for _ in range(WORDINGS)]
            return encode(texts).unflatten(0, (-1, WORDINGS))

        things = range(len(OBJECTS))
        made = {
            "full": wordings([divmod(i, len(OBJECTS)) for i in range(COUNT)]),
            "thing": wordings([(-1, thing) for thing in things]),
            "style": wordings([(style, -1) for style in range(len(STYLES))]),
            "neutral": encode(list(NEUTRAL))[None],
            "empty": encode([""])[0],
        }
        save(made, file)
    return Contexts(**torch.load(file, weights_only=True))
