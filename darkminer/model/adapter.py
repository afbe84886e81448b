"""LoRA on linear layers: inject, switch on and off, read and write the state.

The low-rank layers are PEFT's; this module owns which layers get one, the seeded start values, and
that nothing but the adapters' own tensors can ever be trained. Where values are some rows of a
fused layer, only those rows are trained, and the state holds zeros for the others.
"""

from __future__ import annotations

import hashlib
import inspect
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import DarkMinerError
from ..libraries import library
from ..settings import Settings, setting
from .layers import LAYERS, Layers
from .value_rows import ValueRows, value_rows

_NAME = "erasure"


@dataclass(frozen=True)
class LoraConfig(Settings):
    """What a LoRA is made of."""

    rank: int = setting(8, "rank of the LoRA", low=1)
    alpha: float = setting(8.0, "its output is scaled by alpha / rank", above=0)
    spread: float = setting(
        1.0, "its lower half starts within sqrt(spread / inputs); 1 as in PEFT and loralib", above=0
    )
    layers: Layers = setting(
        "values",
        "layers it adapts: values, the attentions' value projections alone; blocks, also the "
        "output projections and the feed-forward beside them",
        choices=LAYERS,
    )


@dataclass(frozen=True)
class AdapterState:
    """All adapter weights as plain values.

    Attributes:
        rank, alpha: the adapter adds ``alpha / rank * up @ down`` to a layer's weight.
        up: module path -> ``[out, rank]`` float32 CPU; zero in rows that compute no values.
        down: module path -> ``[rank, in]`` float32 CPU.
    """

    rank: int
    alpha: float
    up: dict[str, Tensor]
    down: dict[str, Tensor]


def frozen_digest(network: nn.Module) -> str:
    """SHA-256 over every weight and buffer that is not an adapter's; for proving they stay put."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        if "lora_" not in name:
            digest.update(name.replace(".base_layer", "").encode())
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _lora_layer(base: nn.Module, rank: int, alpha: float) -> Any:
    """PEFT's LoRA layer around a linear one.

    It is made straight from its class: PEFT's own way there asks every quantisation library on the
    machine first, and an old one of those raises.
    """
    peft = library("peft")
    kind = library("peft.tuners.lora").Linear
    settings: dict[str, Any] = {"r": rank, "lora_alpha": alpha}
    if "config" in inspect.signature(kind.__init__).parameters:  # peft 0.19 and newer
        settings["config"] = peft.LoraConfig(r=rank, lora_alpha=alpha)
    return kind(base, _NAME, **settings)


def put(network: nn.Module, name: str, module: nn.Module) -> None:
    """Set the module at a path of the network."""
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, module)


class _ValueUp(nn.Module):
    """The upper half of a LoRA that writes to a layer's value rows and to no other."""

    def __init__(self, rows: ValueRows, rank: int, device: torch.device):
        super().__init__()
        self.rows = rows
        self.weight = nn.Parameter(torch.zeros(rows.stop - rows.start, rank, device=device))

    def forward(self, x: Tensor) -> Tensor:  # [..., rank] -> [..., total]
        around = (self.rows.start, self.rows.total - self.rows.stop)
        return nn.functional.pad(nn.functional.linear(x, self.weight), around)


def _product_norm(down: Tensor, up: Tensor) -> Tensor:
    """``|up @ down|^2`` by the two small Gram matrices, ``[rank, rank]`` each."""
    return ((up.mT @ up) * (down @ down.mT)).sum()


class Adapters:
    """The LoRA layers inside one network.

    Make it with :meth:`inject`. While it lives, the network's own weights are frozen and
    ``parameters()`` are the only tensors with gradients.
    """

    def __init__(
        self,
        network: nn.Module,
        layers: dict[str, Any],
        rank: int,
        alpha: float,
        rows: dict[str, ValueRows],
    ):
        self._network, self._layers = network, layers
        self._rows = rows
        self._closed: dict[str, Tensor] = {}
        self._size: float | None = None  # |W|, once known
        self.rank, self.alpha = rank, alpha
        self._on = True

    @classmethod
    def inject(
        cls,
        network: nn.Module,
        names: Iterable[str],
        rank: int,
        alpha: float,
        gen: torch.Generator,
        spread: float = 1.0,
    ) -> Adapters:
        """Put a LoRA on each layer in ``names``.

        ``down`` starts uniform from ``gen`` and ``up`` at zero, so that a fresh adapter
        changes nothing (Hu et al., 2021).

        Args:
            names: module paths of linear layers; of a fused one only the value rows are trained.
            gen: CPU generator of the start values.
            spread: ``down`` starts uniformly within ``sqrt(spread / in)``.
        """
        network.requires_grad_(False)
        names = list(names)
        fused = {rows.path: rows for rows in value_rows(network) if not rows.whole}
        fused = {name: fused[name] for name in names if name in fused}
        layers = {}
        for name in names:
            layer = _lora_layer(network.get_submodule(name), rank, alpha)
            put(network, name, layer)
            layers[name] = layer
            if name in fused:
                device = layer.lora_B[_NAME].weight.device
                layer.lora_B[_NAME] = _ValueUp(fused[name], rank, device)
        adapters = cls(network, layers, rank, float(alpha), fused)
        for name in names:
            down, up = adapters._pair(name)
            bound = math.sqrt(spread / down.shape[1])
            start = torch.rand(down.shape, generator=gen, dtype=torch.float32) * 2.0 - 1.0
            down.data = (start * bound).to(down.device)
            up.data = torch.zeros(up.shape, dtype=torch.float32, device=up.device)
        return adapters

    def _pair(self, name: str) -> tuple[nn.Parameter, nn.Parameter]:
        layer = self._layers[name]
        return layer.lora_A[_NAME].weight, layer.lora_B[_NAME].weight  # type: ignore[return-value]

    @property
    def names(self) -> list[str]:
        """Module paths of the adapted layers."""
        return list(self._layers)

    def parameters(self) -> list[nn.Parameter]:
        """The adapters' own tensors, and nothing else."""
        return [p for name in self._layers for p in self._pair(name)]

    @torch.no_grad()
    def growth(self) -> float:
        """How large what the adapters add is beside the weights it is added to.

        ``|dW| / |W|`` in Frobenius norms over the trained rows of all layers together, where
        ``dW = alpha / rank * up @ down``; infinite for an adapter that is not finite.
        """
        added = torch.stack([_product_norm(*self._pair(n)) for n in self._layers]).sum()
        if self._size is None:
            weights = [self._weight(n).float().square().sum() for n in self._layers]
            self._size = float(torch.stack(weights).sum().sqrt())
        ratio = float(added.sqrt()) * self.alpha / self.rank / max(self._size, 1e-12)
        return ratio if math.isfinite(ratio) else math.inf

    def _weight(self, name: str) -> Tensor:
        """The frozen weight's rows that a layer's adapter writes to."""
        weight: Tensor = self._layers[name].get_base_layer().weight  # type: ignore[assignment]
        rows = self._rows.get(name)
        return weight if rows is None else weight[rows.start : rows.stop]

    def close(self, closed: Mapping[str, Tensor]) -> None:
        """Close directions of some layers' inputs: ``down`` is orthogonal to them from now on.

        Args:
            closed: module path -> orthonormal rows ``[m, in]``; layers not adapted here are left
                out.
        """
        for name in self._layers:
            if name in closed:
                self._closed[name] = closed[name]
        self.project_out()

    def project_out(self) -> None:
        """After a step of an optimiser: take out what it moved along closed directions."""
        for name, directions in self._closed.items():
            down, _ = self._pair(name)
            directions = directions.to(down.device)
            down.data -= (down.data @ directions.mT) @ directions

    def _switch(self, on: bool) -> None:
        for layer in self._layers.values():
            layer.enable_adapters(on)
        self._on = on

    @contextmanager
    def off(self) -> Iterator[None]:
        """The original model: adapters off inside, as before afterwards, also after an error."""
        before = self._on
        self._switch(False)
        try:
            yield
        finally:
            self._switch(before)

    @contextmanager
    def at(self, strength: float) -> Iterator[None]:
        """What the adapters add, multiplied inside; bit for bit as before afterwards."""
        before = {name: layer.scaling[_NAME] for name, layer in self._layers.items()}
        try:
            for name, layer in self._layers.items():
                layer.scaling[_NAME] = before[name] * strength
            yield
        finally:
            for name, layer in self._layers.items():
                layer.scaling[_NAME] = before[name]

    def state(self) -> AdapterState:
        """A copy of all weights, float32 on the CPU."""
        pairs = {name: self._pair(name) for name in self._layers}
        return AdapterState(
            self.rank,
            self.alpha,
            up={n: self._whole(n, up.detach().float().cpu()) for n, (_, up) in pairs.items()},
            down={n: down.detach().float().cpu().clone() for n, (down, _) in pairs.items()},
        )

    def _whole(self, name: str, up: Tensor) -> Tensor:
        """A layer's up for all its rows ``[out, rank]``, from its trained ones."""
        rows = self._rows.get(name)
        if rows is None:
            return up.clone()
        return nn.functional.pad(up, (0, 0, rows.start, rows.total - rows.stop))

    def _trained(self, name: str, up: Tensor) -> Tensor:
        """The value rows of a whole layer's up; refuses one that adapts other rows."""
        rows = self._rows.get(name)
        if rows is None:
            return up
        if bool(up[: rows.start].any()) or bool(up[rows.stop :].any()):
            raise DarkMinerError(
                f"The LoRA changes more than the values at {name} (rows outside {rows.start} to "
                f"{rows.stop}), which an erasure never does: use one that was made here."
            )
        return up[rows.start : rows.stop]

    def load(self, state: AdapterState) -> None:
        """Take over a state.

        Raises:
            DarkMinerError: if its layers, shapes, rank or alpha are not these adapters', or it
                adapts other rows of a fused layer than the values'.
        """
        if (state.rank, state.alpha) != (self.rank, self.alpha):
            raise DarkMinerError(
                f"The LoRA has rank {state.rank} and alpha {state.alpha:g}, the settings say rank "
                f"{self.rank} and alpha {self.alpha:g}: set rank and alpha to the LoRA's."
            )
        if set(state.up) != set(self._layers):
            raise DarkMinerError(
                f"The LoRA adapts {len(state.up)} layers and the settings {len(self._layers)} of "
                "this MODEL: set layers to the LoRA's, or use one that was made from this model."
            )
        for name in self._layers:
            down, up = self._pair(name)
            whole = self._whole(name, up.detach())
            if down.shape != state.down[name].shape or whole.shape != state.up[name].shape:
                raise DarkMinerError(
                    f"The LoRA's shapes at {name} do not fit this MODEL: use a LoRA that was made "
                    "from this model."
                )
            down.data = state.down[name].to(down.device, torch.float32).clone()
            up.data = self._trained(name, state.up[name]).to(up.device, torch.float32).clone()

    def remove(self) -> None:
        """Take the adapters out; the network is again as before :meth:`inject`."""
        for name, layer in self._layers.items():
            put(self._network, name, layer.get_base_layer())
        self._layers, self._closed = {}, {}
