"""MeasureVerification: how well the verification's score tells the concept apart (table 12)."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ...darkminer.errors import DarkMinerError
from ...darkminer.finite import finite_features
from ...darkminer.method.separation import Separation, separation
from ...darkminer.method.verify import AGAINST
from ..fields import named
from ..host.run import say, stop_if_asked
from ..watched import WatchesEncoder
from .verify import encoder, encoder_inputs, threshold_of

NODE = "MeasureVerification"
_LEAST, _MOST = 4, 128  # pictures of a kind: the paper takes 100
_BATCH = 16


class MeasureVerification(WatchesEncoder):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id=NODE,
            display_name="Measure Verification",
            category="DarkMiner",
            description="How well the verification's score (eq. 6) tells pictures with the concept "
            "from others: area under the ROC curve, and the threshold that parts them best.",
            inputs=[
                io.Image.Input("concept", tooltip="Pictures with the concept (the paper: 100)."),
                io.Image.Input("plain", tooltip="Pictures of the anchor prompt (the paper: 100)."),
                *encoder_inputs(),
                io.Combo.Input(
                    "against", options=list(AGAINST), default=AGAINST[0], optional=True,
                    tooltip="pairs: one reference and one picture of the concept at a time, as in "
                    "the paper. means: the means of half of them.",
                ),
                io.String.Input(
                    "threshold", default="0.2", optional=True,
                    tooltip="Whose rates are told: the paper's 0.2, another, or auto for the best.",
                ),
                io.Image.Input(
                    "kept", optional=True,
                    tooltip="Pictures of what must stay: how many the score takes for the concept.",
                ),
            ],
            outputs=[
                io.Float.Output(
                    display_name="auc",
                    tooltip="How often a picture with the concept scores higher; 0.5 is chance.",
                ),
                io.Float.Output(
                    display_name="threshold",
                    tooltip="The threshold with the largest true minus false positive rate.",
                ),
                io.String.Output(display_name="table", tooltip="All of it in words."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, concept, plain, clip_vision=None, open_clip_model="ViT-L-14",
        open_clip_weights="openai", against=AGAINST[0], threshold="0.2", kept=None,
    ):  # fmt: skip
        with named(NODE):
            limit = threshold_of(threshold)
            for name, images in (("concept", concept), ("plain", plain)):
                if not _LEAST <= len(images) <= _MOST:
                    raise DarkMinerError(
                        f"{name} holds {len(images)} pictures: connect {_LEAST} to {_MOST}."
                    )
            encode = finite_features(encoder(clip_vision, open_clip_model, open_clip_weights, NODE))
            features = [None if i is None else _features(encode, i) for i in (concept, plain, kept)]
            found = separation(
                features[0], features[1], features[2], means=against == "means",
                threshold=None if limit == "auto" else limit,
            )  # fmt: skip
        say(f"AUC {found.auc:.3f}, best threshold {found.cut:.2f}")
        at = found.cut if limit == "auto" else limit
        return io.NodeOutput(found.auc, found.cut, table(found, at))


def _features(encode, images):
    parts = []
    for part in images.split(_BATCH):
        stop_if_asked()
        parts.append(encode(part))
    return torch.cat(parts)


def table(found: Separation, threshold: float) -> str:
    """The figures, a line each."""
    lines = [
        f"area under the ROC curve: {found.auc:.4f} ({found.pairs} scores)",
        f"best threshold: {found.cut:.3f}",
        f"above {threshold:.3f} with the concept: {found.caught:.3f}",
        f"above {threshold:.3f} without it: {found.mistaken:.3f}",
    ]
    if found.kept is not None:
        lines.append(f"above {threshold:.3f} of what must stay: {found.kept:.3f}")
    return "\n".join(lines)
