"""Which layers the compared methods change: those that read the prompt, and the others."""

from __future__ import annotations

from typing import Literal, get_args

from torch import nn

from ..errors import DarkMinerError
from ..model.adapter import Adapters, LoraConfig
from ..model.exact import context_layers
from ..model.interface import DiffusionModel
from ..model.layers import adapted_layers
from ..model.value_rows import value_rows
from ..rng import generator

Part = Literal["x", "u", "kv", "all"]
PARTS: tuple[Part, ...] = get_args(Part)


def layers_of_part(model: DiffusionModel, part: Part) -> list[str]:
    """Module paths of the linear layers that a method changes, in the network's order.

    Args:
        part: ``"x"``, query, key, value and output of every cross-attention; ``"kv"``, its key and
            value alone; ``"u"``, every other linear layer of the blocks that hold an attention;
            ``"all"``, both.

    Raises:
        DarkMinerError: if no attention of the MODEL reads the prompt itself.
    """
    network = model.network
    values = [rows.path for rows in value_rows(network)]
    attentions = {path.rpartition(".")[0] for path in values}
    inside = {
        path
        for path, module in network.named_modules()
        if isinstance(module, nn.Linear) and _holder(path, attentions)
    }
    every = inside | set(adapted_layers(network, "blocks"))
    if part == "all":
        return _in_order(network, every)
    reading = set(context_layers(model, sorted(inside)))
    cross = {path.rpartition(".")[0] for path in reading & set(values)}
    if not cross:
        raise DarkMinerError(
            "No attention of this MODEL reads the prompt itself (text and picture attend jointly), "
            "which this method needs: use a Stable Diffusion 1.x, 2.x or SDXL checkpoint, or "
            "another method."
        )
    if part == "kv":
        return _in_order(network, {p for p in reading if p.rpartition(".")[0] in cross})
    own = {path for path in inside if _holder(path, cross)}
    return _in_order(network, own if part == "x" else every - own)


def _holder(path: str, attentions: set[str]) -> bool:
    """Whether a layer lies in one of some attentions; one without a name is the network itself."""
    return any(path.startswith(f"{a}.") for a in attentions if a)


def _in_order(network: nn.Module, paths: set[str]) -> list[str]:
    return [path for path, _ in network.named_modules() if path in paths]


def adapters_on(model: DiffusionModel, part: Part, config: LoraConfig, seed: int) -> Adapters:
    """Fresh adapters on a part's layers, whatever ``config`` says of layers; errors as above."""
    gen = generator(seed, 0, "adapter")
    paths = layers_of_part(model, part)
    return Adapters.inject(model.network, paths, config.rank, config.alpha, gen, config.spread)
