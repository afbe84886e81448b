"""The paper's table 12 on the gallery: does the verification's score tell the concept apart?

    python -m benchmarks.verification [--images 48] [--json FILE]

For every style, pictures of the anchor prompt ("a drawing") and of the concept's prompt ("a ink
drawing") by the unerased model. Each picture is a target, each anchor picture a reference and each
concept picture what is looked for: the score of equation 6 should be high where the target shows
the concept. Prints the area under the ROC curve per style; the paper reaches .960 to 1.000 on
SD v1.4. Beside it the score against means (``VerifyConfig.against``): every picture is a target,
held against the mean of half the anchor pictures and half the concept's, none of them its own.
COMFYUI_PATH names the host.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

from .hosted import load_pack


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.verification",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--images", type=int, default=48, help="pictures of each prompt")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    load_pack()
    logging.basicConfig(level=logging.WARNING, force=True)
    from dark_miner.darkminer.method.separation import separation
    from dark_miner.demo.gallery import STYLES
    from dark_miner.nodes.host.vision import vision_encoder

    from .erasure import ANCHOR
    from .figures import PICTURE_SEED, Studio
    from .targets import Target

    studio = Studio(None)
    encode = vision_encoder(studio.vision, "verification")
    anchors = encode(studio.draw([ANCHOR] * args.images, PICTURE_SEED))
    found: dict[str, dict[str, float]] = {}
    for i, style in enumerate(STYLES, start=1):
        prompt = Target(style).template.replace("*", style)
        pictures = encode(studio.draw([prompt] * args.images, PICTURE_SEED + i))
        pairs = separation(pictures, anchors)
        means = separation(pictures, anchors, means=True)
        found[style] = {
            "auc": pairs.auc, "threshold": pairs.cut, "pairs": pairs.pairs,
            "auc_means": means.auc, "threshold_means": means.cut,
        }  # fmt: skip
        print(f"{style:10} pairs: AUC {pairs.auc:.4f}, best threshold {pairs.cut:.3f}; "
              f"means: {means.auc:.4f}, {means.cut:.3f}", flush=True)  # fmt: skip
    for key in ("auc", "auc_means"):
        print(f"worst {key} {min(f[key] for f in found.values()):.4f}")
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
