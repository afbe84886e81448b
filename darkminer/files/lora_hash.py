"""Hashes by which LoRA managers tell files apart, as kohya's trainer writes them.

A manager that finds them does not read the file again. Both are of the tensors, so that metadata
may change and the file stays the same one to it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from torch import Tensor

from .tensor_file import tensor_parts

_LEGACY_START, _LEGACY_LENGTH = 0x100000, 0x10000


def hashes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, str]:
    """The two fields of a file's metadata.

    ``sshs_model_hash`` is the SHA-256 of the file's bytes after its header. ``sshs_legacy_hash`` is
    the older one: eight digits of the SHA-256 of 64 KiB, from 1 MiB on, of the file as it would be
    with the ``ss_`` fields of its metadata alone.

    Raises:
        Damaged: as :func:`~.tensor_file.tensor_parts`.
    """
    whole, legacy = hashlib.sha256(), hashlib.sha256()
    own = {name: text for name, text in metadata.items() if name.startswith("ss_")}
    at = 0
    for i, part in enumerate(tensor_parts(tensors, own)):
        if i > 1:  # behind the header's length and the header
            whole.update(part)
        start = max(0, _LEGACY_START - at)
        legacy.update(part[start : max(start, _LEGACY_START + _LEGACY_LENGTH - at)])
        at += len(part)
    return {"sshs_model_hash": whole.hexdigest(), "sshs_legacy_hash": legacy.hexdigest()[:8]}
