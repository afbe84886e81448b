"""Files that a node reads though they are no input: the host asks whether they changed."""

from __future__ import annotations

import os
from pathlib import Path

from comfy_api.latest import io

from ..darkminer.files import stamps as file_stamps


class WatchesEncoder(io.ComfyNode):
    """A node whose ``open_clip_weights`` may name a file.

    A name that comes by a link is not known when the host asks; such a file is not watched.
    """

    @classmethod
    def fingerprint_inputs(cls, open_clip_weights=None, **_):
        if open_clip_weights and os.path.isfile(open_clip_weights):
            return file_stamps.stamp(Path(open_clip_weights))
        return ""
