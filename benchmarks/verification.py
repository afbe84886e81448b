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

import torch
from torch import Tensor

from .hosted import load_pack


def pair_scores(target: Tensor, reference: Tensor, concept: Tensor, same: bool) -> Tensor:
    """Equation 6 of every target, reference and concept picture: features ``[n, F]`` each.

    Args:
        same: targets are the concept pictures themselves; none is held against itself.
    """
    from dark_miner.darkminer.method.verify import delta_score

    scores = []
    for i, picture in enumerate(target):
        wanted = torch.cat([concept[:i], concept[i + 1 :]]) if same else concept
        others = reference
        if not same:  # targets are anchor pictures: none is its own reference
            others = torch.cat([reference[:i], reference[i + 1 :]])
        n, k = len(others), len(wanted)
        each = delta_score(
            picture.expand(n * k, -1), others.repeat_interleave(k, 0), wanted.repeat(n, 1)[:, None]
        )
        scores.append(each)
    return torch.cat(scores)


def against_means(anchors: Tensor, pictures: Tensor) -> tuple[Tensor, Tensor]:
    """The score against means of concept and of anchor pictures, features ``[n, F]`` each.

    Each half is scored against the means of the other halves.
    """
    from dark_miner.darkminer.method.verify import mean_score

    folds = list(zip(anchors.chunk(2), pictures.chunk(2), strict=True))
    with_it, without = [], []
    for (origin, concept), (other_anchors, others) in zip(folds, folds[::-1], strict=True):
        with_it.append(mean_score(others, origin, concept))
        without.append(mean_score(other_anchors, origin, concept))
    return torch.cat(with_it), torch.cat(without)


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
    from dark_miner.darkminer.method.verify import best_cut
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
        with_it = pair_scores(pictures, anchors, pictures, same=True)
        without = pair_scores(anchors, anchors, pictures, same=False)
        # A hundred thousand pairs of each kind: best_cut compares all with all.
        gen = torch.Generator().manual_seed(i)
        some = [s[torch.randperm(len(s), generator=gen)[:4000]] for s in (with_it, without)]
        cut, auc = best_cut(*some)
        mean_cut, mean_auc = best_cut(*against_means(anchors, pictures))
        found[style] = {
            "auc": auc, "threshold": cut, "pairs": len(with_it) + len(without),
            "auc_means": mean_auc, "threshold_means": mean_cut,
        }  # fmt: skip
        print(f"{style:10} pairs: AUC {auc:.4f}, best threshold {cut:.3f}; "
              f"means: {mean_auc:.4f}, {mean_cut:.3f}", flush=True)  # fmt: skip
    for key in ("auc", "auc_means"):
        print(f"worst {key} {min(f[key] for f in found.values()):.4f}")
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
