"""Safetensors files: written without a second copy in memory, read within bounds.

Eight bytes say how long the header is; the header is a JSON object of each tensor's dtype, shape
and place; the tensors' bytes follow without a gap. A header's promises are held against the size
of the file before any memory is asked for.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import torch
from torch import Tensor

from .bounds import MAX_FILE, MAX_JSON, Damaged, json_bytes, parsed_json

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U8": torch.uint8, "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip
"""The dtypes there may be, by their names in the file."""
MAX_TENSORS = 100_000
MAX_DIMENSIONS = 8
MAX_LENGTH = 1 << 40
"""Tensors in a file, dimensions of one, length of one dimension."""

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_METADATA = "__metadata__"
_ALIGNED = 8


def tensor_parts(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> Iterator[bytes | memoryview]:
    """The bytes of a safetensors file, part after part; the same for the same tensors.

    Args:
        tensors: on any device, strided as they are; tensors that share memory stay apart.

    Raises:
        Damaged: if a dtype is none of :data:`DTYPES`, metadata are not text, or the file would go
            beyond the bounds.
    """
    metadata = dict(metadata or {})
    if {type(text) for pair in metadata.items() for text in pair} - {str}:
        raise Damaged("its metadata are not text")
    for name, tensor in tensors.items():
        if tensor.dtype not in _NAMES:
            raise Damaged(f"{name!r} has dtype {tensor.dtype}")
    # The widest first, so that each begins at a multiple of its own width.
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, Any] = {_METADATA: dict(sorted(metadata.items()))} if metadata else {}
    end = 0
    for name in order:
        start, end = end, end + tensors[name].numel() * tensors[name].element_size()
        header[name] = {
            "dtype": _NAMES[tensors[name].dtype],
            "shape": list(tensors[name].shape),
            "data_offsets": [start, end],
        }
    text = json_bytes(header)
    text += b" " * (-len(text) % _ALIGNED)
    if len(order) > MAX_TENSORS or len(text) + end + _ALIGNED > MAX_FILE:
        raise Damaged(f"it has {len(order)} tensors and {end} bytes, more than a file may have")
    yield struct.pack("<Q", len(text))
    yield text
    for name in order:
        if tensors[name].numel():
            yield _bytes(tensors[name].detach().cpu().contiguous())


@dataclass(frozen=True)
class TensorFile:
    """What a safetensors file holds, and the SHA-256 of all its bytes, in hex."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    sha256: str


def read_tensors(file: BinaryIO, size: int) -> TensorFile:
    """Read a safetensors file.

    Args:
        file: at its beginning; size: its bytes, as the system says.

    Raises:
        Damaged: if it is none, is cut, or goes beyond the bounds.
    """
    if not _ALIGNED <= size <= MAX_FILE:
        raise Damaged(f"it has {size} bytes")
    digest = hashlib.sha256()
    first = _read(file, _ALIGNED, digest)
    (length,) = struct.unpack("<Q", first)
    if length > min(MAX_JSON, size - _ALIGNED):
        raise Damaged(f"its header of {length} bytes does not fit into it")
    header = parsed_json(_read(file, length, digest))
    if not isinstance(header, dict):
        raise Damaged("its header is no object")
    metadata = header.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise Damaged("its metadata are no text")
    tensors: dict[str, Tensor] = {}
    for name, dtype, shape in _places(header, size - _ALIGNED - length):
        tensors[name] = _tensor(file, dtype, shape, digest)
    if file.read(1):
        raise Damaged("it is longer than it says")
    return TensorFile(tensors, metadata, digest.hexdigest())


def _places(header: dict[str, Any], size: int) -> list[tuple[str, torch.dtype, list[int]]]:
    """Name, dtype and shape of each tensor in the order of their bytes, which fill the file."""
    if len(header) > MAX_TENSORS:
        raise Damaged(f"it says it has {len(header)} tensors")
    places = []
    for name, said in header.items():
        if not isinstance(said, dict) or said.keys() != {"dtype", "shape", "data_offsets"}:
            raise Damaged(f"its header does not say what {name!r} is")
        dtype, shape, offsets = said["dtype"], said["shape"], said["data_offsets"]
        if not isinstance(dtype, str) or dtype not in DTYPES:
            raise Damaged(f"{name!r} has dtype {str(dtype)[:20]!r}")
        if not _sizes(shape, MAX_DIMENSIONS) or not _sizes(offsets, 2) or len(offsets) != 2:
            raise Damaged(f"its header gives {name!r} no shape or no place")
        if offsets[1] - offsets[0] != math.prod(shape) * DTYPES[dtype].itemsize:
            raise Damaged(f"{name!r} has a shape that is not as large as its bytes")
        places.append((offsets, name, DTYPES[dtype], shape))
    places.sort(key=lambda place: place[0])
    end = 0
    for (start, stop), name, _, _ in places:
        if start != end:
            raise Damaged(f"the bytes of {name!r} do not follow those before them")
        end = stop
    if end != size:
        raise Damaged(f"it has {size} bytes of tensors where its header says {end}")
    return [place[1:] for place in places]


def _sizes(values: Any, most: int) -> bool:
    """Whether ``values`` is a list of at most so many whole numbers that a size may be."""
    return (
        isinstance(values, list)
        and len(values) <= most
        and all(type(v) is int and 0 <= v <= MAX_LENGTH for v in values)
    )


def _tensor(file: BinaryIO, dtype: torch.dtype, shape: list[int], digest: Any) -> Tensor:
    try:
        tensor = torch.empty(shape, dtype=dtype)
    except RuntimeError as error:  # strides beyond 64 bits, or no memory
        raise Damaged(f"a tensor of {shape} cannot be made") from error
    if tensor.numel():
        whole = _bytes(tensor)
        if file.readinto(whole) != len(whole):  # type: ignore[attr-defined]
            raise Damaged("it ends too early")
        digest.update(whole)
        if dtype is torch.bool and int(tensor.view(torch.uint8).max()) > 1:
            raise Damaged("a truth value is neither 0 nor 1")
    return tensor


def _bytes(tensor: Tensor) -> memoryview:
    """The memory of a tensor with at least one element, contiguous on the CPU."""
    return memoryview(tensor.flatten().view(torch.uint8).numpy())  # type: ignore[arg-type]


def _read(file: BinaryIO, length: int, digest: Any) -> bytes:
    text = file.read(length)
    if len(text) != length:
        raise Damaged("it ends too early")
    digest.update(text)
    return text
