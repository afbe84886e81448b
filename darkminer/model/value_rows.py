"""Where the values of a network's attentions are computed, found by structure.

A family keeps them either in a Linear of their own beside the queries' and keys', or as rows of a
fused one (query, key and value in whatever order the name has them; key and value; or those and the
feed-forward's input).
No family is named here: names of siblings, shapes and a module's own head counts decide.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import permutations

from torch import nn

from ..errors import DarkMinerError

_FUSED = re.compile("|".join([*map("".join, permutations("qkv")), "kv", "vk"]))


@dataclass(frozen=True)
class ValueRows:
    """The rows of one linear layer that compute an attention's values.

    Attributes:
        path: module path of the layer.
        start, stop: first row, and the row after the last.
        total: rows of the whole layer, its output width.
    """

    path: str
    start: int
    stop: int
    total: int

    @property
    def whole(self) -> bool:
        """Whether the layer computes values and nothing else."""
        return (self.start, self.stop) == (0, self.total)


def value_rows(network: nn.Module) -> list[ValueRows]:
    """Every attention's value rows, in the order of the network's modules.

    Raises:
        DarkMinerError: if there is none; lists the kinds of layers and the linear layers' names.
    """
    found: list[ValueRows] = []
    for path, module in network.named_modules():
        linears = {n: m for n, m in module.named_children() if isinstance(m, nn.Linear)}
        for name, rows in _of_attention(module, linears).items():
            found.append(ValueRows(f"{path}.{name}" if path else name, *rows))
    if not found:
        raise DarkMinerError(_nothing_found(network))
    return found


def _of_attention(
    module: nn.Module, linears: dict[str, nn.Linear]
) -> dict[str, tuple[int, int, int]]:
    """Name of each linear child with values -> start, stop and total of its rows."""
    rows = {}
    for name, layer in linears.items():
        total = layer.out_features
        if _has_siblings(name, linears):
            rows[name] = (0, total, total)
        elif (found := _FUSED.search(name.lower())) is not None:
            rows[name] = _of_fused(found[0], module, total)
    return rows or _of_parallel_block(module, linears)


def _has_siblings(name: str, linears: dict[str, nn.Linear]) -> bool:
    """Whether the same name with q and with k in the place of a v stands beside it."""
    for i, letter in enumerate(name):
        if letter == "v" and all(name[:i] + s + name[i + 1 :] in linears for s in "qk"):
            return True
    return "value" in name and all(name.replace("value", s) in linears for s in ("query", "key"))


def _of_fused(order: str, module: nn.Module, total: int) -> tuple[int, int, int]:
    """Rows of the values in a layer whose name says in which order it gives what, e.g. ``qkv``."""
    width = _value_width(module, total) if "q" in order else total // 2
    before = order[: order.index("v")]
    start = sum(total - 2 * width if letter == "q" else width for letter in before)
    return start, start + width, total


def _value_width(module: nn.Module, total: int) -> int:
    """Width of the values in a fused layer; fewer than a third where heads share them."""
    heads, size = getattr(module, "n_kv_heads", None), getattr(module, "head_dim", None)
    if isinstance(heads, int) and isinstance(size, int) and 3 * heads * size <= total:
        return heads * size
    return total // 3


def _of_parallel_block(
    module: nn.Module, linears: dict[str, nn.Linear]
) -> dict[str, tuple[int, int, int]]:
    """A block that feeds attention and feed-forward from one layer (Dehghani et al., 2023).

    Its first layer gives query, key, value (each as wide as the block) and the feed-forward's
    input; its second takes the attention's output beside the feed-forward's.
    """
    first, second = linears.get("linear1"), linears.get("linear2")
    if first is None or second is None or not hasattr(module, "num_heads"):
        return {}
    width = first.in_features
    if first.out_features <= 3 * width or second.in_features <= width:
        return {}
    return {"linear1": (2 * width, 3 * width, first.out_features)}


def _nothing_found(network: nn.Module) -> str:
    kinds = sorted({type(m).__name__ for m in network.modules()})
    names = {n.rpartition(".")[2] for n, m in network.named_modules() if isinstance(m, nn.Linear)}
    return (
        "This MODEL has no attention value projections (a linear layer beside a query's and a "
        "key's, or a fused qkv or kv): load another family; it has modules "
        f"{', '.join(kinds)} with linear layers {', '.join(sorted(names)[:20]) or 'of no name'}."
    )
