"""Which layers of a network an erasure adapts, found by structure.

The paper adapts the value projections alone. What an attacker can still say then passes layers that
are as they were: the output projections and the feed-forward of the same blocks. Adapting those,
too, leaves the model without the concept rather than without the words for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal, get_args

from torch import nn

from ..errors import DarkMinerError
from .value_rows import value_rows

Layers = Literal["values", "blocks"]
LAYERS: tuple[Layers, ...] = get_args(Layers)

# Fed by the timestep and not by the picture.
_CONDITIONED = re.compile(r"(^|_)(mod[a-z]{0,2}|modulation|ada\w*|norm\w*|emb\w*|time\w*)(_|$)")


def adapted_layers(network: nn.Module, layers: Layers) -> list[str]:
    """Module paths of the linear layers to adapt, in the order of the network's modules.

    Args:
        network: without adapters.
        layers: ``"values"``, the value projections of every attention, see :func:`value_rows`; or
            ``"blocks"``, besides them the output projections and the feed-forward of the blocks
            that hold them. Queries, keys and what modulates by the timestep are never adapted.

    Raises:
        DarkMinerError: if the network has no value projection.
    """
    values = [rows.path for rows in value_rows(network)]
    if layers == "values":
        return values
    blocks = {block for path in values if (block := _block_of(network, path))}
    attentions = {path.rpartition(".")[0] for path in values}
    wanted = set(values)
    for path, module in network.named_modules():
        inside = next((b for b in blocks if path.startswith(b + ".")), None)
        if inside is None or not isinstance(module, nn.Linear):
            continue
        parent, _, name = path.rpartition(".")
        steps = path.removeprefix(inside + ".").lower().split(".")
        if parent in attentions:
            siblings = [p.rpartition(".")[2] for p in values if p.rpartition(".")[0] == parent]
            if name in _asks(siblings):
                continue
        if not any(_CONDITIONED.search(step) for step in steps):
            wanted.add(path)
    return [path for path, _ in network.named_modules() if path in wanted]


def layers_of(paths: Iterable[str], network: nn.Module) -> Layers:
    """Which setting these layers of a network (without adapters) are.

    Raises:
        DarkMinerError: if they are none's.
    """
    given = set(paths)
    for layers in LAYERS:
        if given == set(adapted_layers(network, layers)):
            return layers
    raise DarkMinerError(
        f"The LoRA adapts {len(given)} layers that are no erasure's of this MODEL: use one that "
        "was made from this model."
    )


def _block_of(network: nn.Module, path: str) -> str | None:
    """The innermost item of a module list or sequence above a layer; None if there is none."""
    parts = path.split(".")
    for end in range(len(parts) - 1, 0, -1):
        holder = network.get_submodule(".".join(parts[: end - 1]))
        if isinstance(holder, (nn.ModuleList, nn.Sequential)):
            return ".".join(parts[:end])
    return None


def _asks(values: list[str]) -> set[str]:
    """Names of the queries' and keys' layers that belong to these values' layers."""
    named = {v.replace("value", s) for v in values for s in ("query", "key")}
    for value in values:
        for i, letter in enumerate(value):
            if letter == "v":
                named |= {value[:i] + s + value[i + 1 :] for s in "qk"}
        named |= {value.replace("kv", s) for s in "q"}
    return named - set(values)
