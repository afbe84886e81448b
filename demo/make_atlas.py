"""Makes the atlas of drawings from the openly licensed emoji sets of the npm registry.

    python -m demo.make_atlas [--packages FOLDER]

`npm pack` fetches the seven packages at fixed versions into a temporary folder (or they are
taken from FOLDER, where `npm pack` put them before); resvg renders each drawing. Needs npm and
resvg-py. Licences and authors of the drawings: ATTRIBUTION.md.
"""

import argparse
import io
import json
import subprocess
import tarfile
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from .gallery import ATLAS_FILE, ATLAS_SIZE, OBJECTS, STYLES

PACKAGES = {
    "twemoji": ("twemoji", "1.2.5"),
    "noto": ("noto", "1.2.9"),
    "blob": ("noto-v1", "1.2.5"),
    "emojione": ("emojione", "1.2.3"),
    "flat": ("fluent-emoji-flat", "1.2.6"),
    "fluent": ("fluent-emoji", "1.2.7"),
    "ink": ("fluent-emoji-high-contrast", "1.2.6"),
}

# Words whose icon has another name in the sets; every other word is its icon's name.
ICONS = {
    "apple": "red-apple",
    "ball": "soccer-ball",
    "beer": "beer-mug",
    "beetle": "lady-beetle",
    "boot": "womans-boot",
    "chair": "seat",
    "clock": "alarm-clock",
    "clover": "four-leaf-clover",
    "corn": "ear-of-corn",
    "dragon": "dragon-face",
    "fish": "tropical-fish",
    "heart": "red-heart",
    "icecream": "ice-cream",
    "leaf": "maple-leaf",
    "pepper": "hot-pepper",
    "piano": "musical-keyboard",
    "pig": "pig-face",
    "shirt": "t-shirt",
    "snowman": "snowman-without-snow",
    "train": "locomotive",
    "tree": "deciduous-tree",
    "whale": "spouting-whale",
}


def archive(style: str, folder: Path) -> Path:
    """The package of a style as a .tgz in `folder`, fetched by npm unless it is there."""
    name, version = PACKAGES[style]
    file = folder / f"iconify-json-{name}-{version}.tgz"
    if not file.exists():
        command = ["npm", "pack", f"@iconify-json/{name}@{version}", "--silent"]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return file


def icons(file: Path) -> dict:
    """The package's icons.json: name -> SVG body, with the sizes they are drawn at."""
    with tarfile.open(file) as package:
        member = package.extractfile("package/icons.json")
        if member is None:
            raise ValueError(f"{file.name} has no package/icons.json")
        return json.load(member)


def render(sheet: dict, name: str, size: int = ATLAS_SIZE) -> np.ndarray:
    """One icon as RGBA [size, size, 4], uint8."""
    import resvg_py

    icon = sheet["icons"][name]
    width = icon.get("width", sheet.get("width", 16))
    height = icon.get("height", sheet.get("height", 16))
    box = f"{icon.get('left', 0)} {icon.get('top', 0)} {width} {height}"
    body = icon["body"].replace("currentColor", "#000")
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{box}" width="{size}" height="{size}">{body}</svg>'
    )
    picture = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg))))
    return np.asarray(picture.convert("RGBA").resize((size, size)))


def make(folder: Path) -> Image.Image:
    """The atlas as one sheet: a row a style, a column an object."""
    rows = []
    for style in STYLES:
        sheet = icons(archive(style, folder))
        rows.append([render(sheet, ICONS.get(word, word)) for word in OBJECTS])
    pixels = np.concatenate([np.concatenate(row, axis=1) for row in rows])
    pixels[pixels[..., 3] == 0] = 0  # colour nobody sees only takes space
    return Image.fromarray(pixels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--packages", type=Path, help="folder with the .tgz files of npm pack")
    parser.add_argument("--out", type=Path, default=ATLAS_FILE)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        sheet = make(args.packages or Path(scratch))
    sheet.save(args.out, "WEBP", lossless=True, exact=True, quality=100, method=6)
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
