"""Make the templates' thumbnails from the picture grid that the demo left.

python scripts/make_thumbnails.py output/erase_ink_0.png --style ink
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from run_demo import CELL, EDGE, GAP, HEAD, ROOT, STYLES

SIDE, BAND, HALF = 512, 64, 256
TITLES = {
    "erase_demo": ("Erase a style", "#3f789e"),
    "erase_demo_as_graph": ("Erase a style, step by step", "#2e6b4f"),
    "erase_style": ("Erase from your checkpoint", "#8f3b3b"),
    "erase_style_sdxl": ("Erase from SDXL", "#8f6b3b"),
    "erase_style_flux": ("Erase from Flux", "#3b6b8f"),
    "erase_style_as_graph": ("Your checkpoint, step by step", "#6b4f8f"),
    "red_team_loop": ("Attack, then erase again", "#7a3b5f"),
    "use_erasure": ("Use an erasure", "#5a5a5a"),
    "bake_erasure": ("Bake an erasure", "#5a3f2e"),
}


def cell(grid: Image.Image, style: str, row: int, after: bool) -> Image.Image:
    """One picture of the grid."""
    left = EDGE + STYLES.index(style) * CELL
    if after:
        left += len(STYLES) * CELL + GAP
    top = HEAD + row * CELL
    return grid.crop((left, top, left + CELL - 4, top + CELL - 4))


def thumbnail(grid: Image.Image, styles: tuple[str, str], title: str, colour: str) -> Image.Image:
    """Left before, right after; above the erased style, below a neighbour."""
    page = Image.new("RGB", (SIDE, SIDE), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(28)
    draw.rectangle((0, 0, SIDE, BAND), fill=colour)
    draw.text((16, 16), title, "white", font)
    for after in (False, True):
        left = HALF * after
        draw.text((left + 16, BAND + 6), "after" if after else "before", "black", font)
        for number, style in enumerate(styles):
            for row in range(2):
                picture = cell(grid, style, row, after).resize((116, 116), Image.Resampling.BICUBIC)
                spot = (left + 8 + row * 122, BAND + 48 + number * 196)
                page.paste(picture, spot)
            colour_of = "#c00000" if number == 0 else "black"
            draw.text((left + 12, BAND + 168 + number * 196), style, colour_of, font)
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("grid", type=Path, help="the demo's picture grid")
    parser.add_argument("--style", choices=STYLES, default="ink", help="the style it erased")
    options = parser.parse_args()
    neighbour = STYLES[STYLES.index(options.style) - 1]
    with Image.open(options.grid) as grid:
        for name, (title, colour) in TITLES.items():
            page = thumbnail(grid.convert("RGB"), (options.style, neighbour), title, colour)
            page.save(ROOT / "workflows" / f"{name}.jpg", quality=88)


if __name__ == "__main__":
    main()
