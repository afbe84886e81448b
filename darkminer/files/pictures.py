"""Pictures from files, with the values that the host's *Load Image* reads from them.

Only regular files are opened, and a file's header is read before its pixels are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..errors import DarkMinerError

ENDINGS = frozenset({
    ".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"
})  # fmt: skip
MAX_PIXELS = 1 << 26
"""Of one picture (8192 x 8192); its header is asked before memory is."""

_NAMED = 5


@dataclass(frozen=True)
class FolderPictures:
    """What a folder held.

    Attributes:
        images: ``[N, H, W, 3]`` float32 in 0..1, by name.
        names: N file names.
        skipped: names of what is no picture that can be read: other files, hidden ones, folders.
    """

    images: Tensor
    names: tuple[str, ...]
    skipped: tuple[str, ...]

    def summary(self) -> str:
        """How many pictures were read and what was not, in words."""
        return f"{len(self.names)} pictures read from folder{_left_out(self.skipped)}"


def picture_files(
    folder: Path, permitted: Callable[[Path], bool] = lambda _: True
) -> tuple[list[Path], list[str]]:
    """The picture files of a folder by name, and the names of everything else in it.

    Args:
        permitted: whether a file may be opened, asked with links followed.

    Raises:
        DarkMinerError: if the folder is none or cannot be listed.
    """
    try:
        entries = sorted(folder.iterdir(), key=lambda p: p.name)
        taken = [p for p in entries if _is_picture(p) and permitted(p.resolve())]
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DarkMinerError(
            f"folder {str(folder)!r} cannot be listed ({reason}): name a folder of pictures."
        ) from error
    chosen = set(taken)
    return taken, [p.name for p in entries if p not in chosen]


def _is_picture(path: Path) -> bool:
    # A pipe or a device would be waited for; a file of macOS's own bears a picture's ending.
    return (
        path.suffix.lower() in ENDINGS and not path.name.startswith(".") and path.is_file()
    )  # fmt: skip


def read_pictures(paths: Sequence[Path], skipped: Sequence[str] = ()) -> FolderPictures:
    """Read picture files of one size.

    Raises:
        DarkMinerError: if there is none, one cannot be read or is too large, or two differ in size;
            names the file.
    """
    if not paths:
        raise DarkMinerError(
            f"folder holds no pictures{_left_out(skipped)}: put png, jpg, webp, bmp, tif or gif "
            "files there."
        )
    pictures: list[Tensor] = []
    for path in paths:
        pictures.append(read_picture(path))
        (height, width, _), first = pictures[-1].shape, pictures[0].shape
        if (height, width) != tuple(first[:2]):
            raise DarkMinerError(
                f"{path.name!r} in folder is {width} x {height} and {paths[0].name!r} is "
                f"{first[1]} x {first[0]}: bring all pictures to one size."
            )
    return FolderPictures(torch.stack(pictures), tuple(p.name for p in paths), tuple(skipped))


def read_picture(path: Path) -> Tensor:
    """A picture file ``[H, W, 3]`` float32 in 0..1, upright; of a moving one the first frame.

    Raises:
        DarkMinerError: if it cannot be read or has more than :data:`MAX_PIXELS`; names the file.
    """
    size: tuple[int, int] | None = None
    rgb = None
    try:
        with Image.open(path) as picture:
            size = picture.size
            if picture.width * picture.height <= MAX_PIXELS:
                rgb = _rgb(ImageOps.exif_transpose(picture))
    except Image.DecompressionBombError:
        pass  # Pillow's own limit, at twice as many
    except Exception as error:  # Pillow's decoders raise many kinds on broken files
        raise DarkMinerError(
            f"{path.name!r} in folder cannot be read ({error}): replace or remove it."
        ) from error
    if rgb is None:
        said = "has" if size is None else f"is {size[0]} x {size[1]},"
        raise DarkMinerError(
            f"{path.name!r} in folder {said} more than the {MAX_PIXELS} pixels that a picture may "
            "have: make it smaller or remove it."
        )
    return rgb


def _rgb(picture: Image.Image) -> Tensor:
    """``[H, W, 3]`` in 0..1; colours under a transparent place stay, 16 bits keep their range."""
    if picture.mode == "F":
        raise ValueError("its values are floating-point numbers without a known white")
    if picture.mode.startswith("I"):
        grey = np.asarray(picture).astype(np.float32) / 65535.0
        return torch.from_numpy(grey).clamp(0, 1)[..., None].repeat(1, 1, 3)
    return torch.from_numpy(np.array(picture.convert("RGB"))).float() / 255.0


def _left_out(names: Sequence[str]) -> str:
    """``"; 7 files skipped ('a.heic', ...)"``, or nothing."""
    if not names:
        return ""
    shown = ", ".join(repr(name) for name in names[:_NAMED])
    more = ", ..." if len(names) > _NAMED else ""
    files = "file" if len(names) == 1 else "files"
    return f"; {len(names)} {files} skipped ({shown}{more})"
