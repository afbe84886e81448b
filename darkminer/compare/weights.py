"""Whole weights of some layers, trained for a while; what they have changed by is taken out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..method.engine import Targets
from ..method.losses import squared_error
from ..method.optim import LossTrace, TrainingConfig, at_size, make_optimizer, set_lr
from ..method.trainer import predict_rows
from ..model.interface import DiffusionModel
from ..types import Report, StepReport


class Weights:
    """Layers whose own weights are trained; make it by :func:`opened`.

    Attributes:
        masks: path -> which entries may move, ``[out, in]`` bool; a layer without one moves whole.
    """

    def __init__(self, network: nn.Module, paths: Sequence[str]):
        self._layers: dict[str, Any] = {path: network.get_submodule(path) for path in paths}
        self._before = {p: layer.weight.detach().clone() for p, layer in self._layers.items()}
        self.masks: dict[str, Tensor] = {}

    def parameters(self) -> dict[str, nn.Parameter]:
        """The weights by their paths."""
        return {path: layer.weight for path, layer in self._layers.items()}

    def growth(self) -> float:
        """``|dW| / |W|`` over all layers together; infinite for weights that are not finite."""
        added = sum(float(d.square().sum()) for d in self.changes().values())
        size = sum(float(w.float().square().sum()) for w in self._before.values())
        ratio = math.sqrt(added / max(size, 1e-24)) if math.isfinite(added) else math.inf
        return ratio

    def changes(self) -> dict[str, Tensor]:
        """Path -> what its weight has changed by, ``[out, in]`` float32."""
        return {
            path: (layer.weight.detach() - self._before[path].to(layer.weight.device)).float()
            for path, layer in self._layers.items()
        }

    def close(self) -> None:
        """The weights as they were, bit for bit, and frozen."""
        for path, layer in self._layers.items():
            layer.weight.requires_grad_(False)
            layer.weight.data = self._before[path].to(layer.weight.device)
            layer.weight.grad = None


@contextmanager
def opened(model: DiffusionModel, paths: Sequence[str]) -> Iterator[Weights]:
    """Inside, these layers' weights have gradients; afterwards, or after an error, all is back."""
    model.network.requires_grad_(False)
    weights = Weights(model.network, paths)
    try:
        for parameter in weights.parameters().values():
            parameter.requires_grad_(True)
        yield weights
    finally:
        weights.close()


def gradients(model: DiffusionModel, weights: Weights, rows: Targets) -> Tensor:
    """The weighted sum of squared errors; leaves masked gradients in the weights."""
    answers = predict_rows(model, rows)
    errors = squared_error(answers, rows.answer.to(answers.device))
    loss = (rows.weight.to(errors.device) * errors).sum()
    parameters = weights.parameters()
    # torch types them as tensors; one that the answer does not depend on is None.
    found: Any = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    for (path, parameter), gradient in zip(parameters.items(), found, strict=True):
        mask = weights.masks.get(path)
        made = torch.zeros_like(parameter) if gradient is None else gradient
        parameter.grad = made if mask is None else made * mask.to(made.device)
    return loss.detach()


def train(
    model: DiffusionModel,
    weights: Weights,
    rows: Callable[[], Targets],
    config: TrainingConfig,
    *,
    stage: str,
    report: Report,
) -> list[float]:
    """Steps down the rows' loss, as :class:`~..method.trainer.Trainer` takes them; each loss.

    Raises:
        DivergedError: if a loss is not finite or the weights have grown beyond their limit.
    """
    config = at_size(config, model.latent_shape)
    parameters = list(weights.parameters().values())
    optimizer = make_optimizer(config, parameters)
    trace = LossTrace(stage, 0, growth=weights.growth)
    for step in range(config.steps):
        set_lr(optimizer, config, step)
        trace.add(model.memory.attempt(gradients, model, weights, rows()))
        nn.utils.clip_grad_norm_(parameters, config.clip)
        optimizer.step()
        report(StepReport(stage, 0, step + 1, config.steps, trace.last, losses=trace.values))
    trace.flush()
    return trace.values


def salient(sizes: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """The largest entries of all layers together, ``share`` of them: path -> ``[out, in]`` bool."""
    every = torch.cat([size.flatten().float().cpu() for size in sizes.values()])
    count = max(1, round(share * len(every)))
    limit = every.kthvalue(len(every) - count + 1).values
    return {path: size.float().cpu() >= limit for path, size in sizes.items()}
