"""The gallery's drawings: seven house styles of the same 48 things, placed at random.

An atlas holds every thing as every designer drew it (96 x 96 pixels, transparent). A picture is
one drawing of the atlas at a random size, position and rotation on one of six pale backgrounds,
so pictures never end. Nothing here knows the host.
"""

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

STYLES = ("twemoji", "noto", "blob", "emojione", "flat", "fluent", "ink")
OBJECTS = tuple(
    """apple backpack ball beer beetle boot bouquet bread bug candy carrot chair clock clover corn
    crab crocodile dragon eggplant eye fish ghost heart icecream koala leaf peach penguin pepper
    piano pig rocket shield shirt skull snake snowman spider strawberry television tent tomato
    tractor train tree turtle watermelon whale""".split()
)
# Never named to the method: no pool prompt, no keep prompt, no anchor; judged apart.
HELD_OUT = OBJECTS[2::4]

SIZE = 32  # pixels of a picture's side
ATLAS_SIZE = 96  # pixels of a drawing's side in the atlas
ATLAS_FILE = Path(__file__).with_name("atlas.webp")

# What the figures are measured with, through the host's own sampler.
SAMPLING = {"steps": 20, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal"}

POOL_TEMPLATE = "a * drawing"
ANCHOR = "a drawing"

BACKGROUNDS = torch.tensor(
    [
        [0.98, 0.98, 0.98],
        [0.96, 0.91, 0.86],
        [0.88, 0.94, 0.98],
        [0.90, 0.97, 0.89],
        [0.98, 0.90, 0.92],
        [0.99, 0.97, 0.84],
    ]
)
SCALE_LOW, SCALE_SPAN = 0.78, 0.17  # part of the frame that a drawing's side takes
TURN = 8 / 180 * np.pi  # largest rotation, radians
ROAM = 0.8  # part of the free margin that a drawing may be moved


def prompt(style: str | None, thing: str | None = None) -> str:
    """The caption of a drawing, e.g. "a noto drawing of a cat"; either word may be left out.

    The article is always "a" ("a drawing of a apple"): the models learnt it so.
    """
    words = ["a", style, "drawing"] if style else ["a", "drawing"]
    return " ".join([*words, "of", "a", thing] if thing else words)


@lru_cache(maxsize=1)
def load_atlas() -> torch.Tensor:
    """All drawings [S * O, 4, 96, 96], index style * len(OBJECTS) + object, 0..1.

    Colours are premultiplied by the opacity (channel 3), as `place` needs them. The tensor is
    shared: do not write to it.

    Raises:
        FileNotFoundError: the atlas is missing.
        ValueError: the atlas does not hold these styles and objects.
    """
    with Image.open(ATLAS_FILE) as sheet:
        pixels = np.asarray(sheet.convert("RGBA"))
    rows, columns = len(STYLES), len(OBJECTS)
    if pixels.shape != (rows * ATLAS_SIZE, columns * ATLAS_SIZE, 4):
        raise ValueError(f"{ATLAS_FILE.name} is not {rows} x {columns} drawings: make it again")
    drawings = torch.tensor(pixels).float() / 255
    drawings = drawings.view(rows, ATLAS_SIZE, columns, ATLAS_SIZE, 4).permute(0, 2, 4, 1, 3)
    drawings = drawings.reshape(rows * columns, 4, ATLAS_SIZE, ATLAS_SIZE).contiguous()
    drawings[:, :3] *= drawings[:, 3:]
    return drawings


def place(
    atlas: torch.Tensor, style: torch.Tensor, thing: torch.Tensor, gen: torch.Generator
) -> torch.Tensor:
    """Pictures [n, 3, 32, 32] (0..1) of drawings at random places.

    Args:
        atlas: what `load_atlas` returns.
        style: [n] indices into STYLES.
        thing: [n] indices into OBJECTS.
        gen: decides size, rotation, position and background (five numbers a picture).
    """
    n = len(style)
    draw = torch.rand(n, 5, generator=gen)
    scale = SCALE_LOW + SCALE_SPAN * draw[:, 0]
    angle = (draw[:, 1] * 2 - 1) * TURN
    margin = (1 - scale) * ROAM
    dx, dy = (draw[:, 2] * 2 - 1) * margin, (draw[:, 3] * 2 - 1) * margin
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    theta = torch.stack(
        [
            torch.stack([cos, -sin, -(cos * dx - sin * dy)], 1),
            torch.stack([sin, cos, -(sin * dx + cos * dy)], 1),
        ],
        1,
    )  # [n, 2, 3]: from the picture to the drawing
    # Twice the size and then the mean of 2 x 2: edges as smooth as a browser draws them.
    grid = F.affine_grid(theta, [n, 4, 2 * SIZE, 2 * SIZE], align_corners=False)
    layer = F.grid_sample(atlas[style * len(OBJECTS) + thing], grid, align_corners=False)
    kind = (draw[:, 4] * len(BACKGROUNDS)).long().clamp(max=len(BACKGROUNDS) - 1)
    back = BACKGROUNDS[kind][:, :, None, None]
    return F.avg_pool2d((layer[:, :3] + back * (1 - layer[:, 3:])).clamp(0, 1), 2)


def _generator(*key: object) -> torch.Generator:
    digest = hashlib.sha256(repr(("gallery", *key)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def drawings(
    style: str, n: int, seed: int, objects: Sequence[str] = OBJECTS
) -> tuple[torch.Tensor, list[str], list[str]]:
    """A designer's own drawings, newly placed.

    Every object comes once, in random order, before any comes again. Another style or another
    seed gives other placements, and none of them is one that the models were trained on.

    Args:
        style: one of STYLES.
        n: how many.
        seed: decides order and placement.
        objects: which objects to draw.

    Returns:
        images [n, 32, 32, 3] (0..1), captions, names of the objects.

    Raises:
        ValueError: unknown style or object, or nothing to draw.
    """
    unknown = [w for w in objects if w not in OBJECTS]
    if style not in STYLES:
        raise ValueError(f"style {style!r} is none of {', '.join(STYLES)}")
    if unknown or not objects or n < 1:
        raise ValueError(f"cannot draw {n} pictures of {unknown or list(objects)}")
    gen = _generator(style, seed)
    order: list[int] = []
    while len(order) < n:
        order += torch.randperm(len(objects), generator=gen).tolist()
    names = [objects[i] for i in order[:n]]
    thing = torch.tensor([OBJECTS.index(name) for name in names])
    pictures = place(load_atlas(), torch.full((n,), STYLES.index(style)), thing, gen)
    return pictures.permute(0, 2, 3, 1).contiguous(), [prompt(style, w) for w in names], names
