"""Exact keeping: values of named prompts that no training can change.

The values of a cross-attention are a linear map of the context's tokens, so an adapter whose
``down`` is orthogonal to the tokens of a prompt leaves that prompt's values as they are, whatever
``up`` becomes (SPEED, Li et al., 2025; SuPLoRA). The span of a few dozen prompts fills nearly the
whole space of tokens and would leave nothing to erase with; so only the leading directions are
closed, up to a share of the tokens' energy.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..errors import DarkMinerError
from .adapter import Adapters
from .interface import DiffusionModel

_PROBE = 5  # tokens of the context that finds the layers; its values are told apart, not its length


def kept_directions(contexts: Sequence[Tensor], share: float) -> Tensor:
    """The directions that the tokens of some contexts lie along.

    The first token of each context, which opens every prompt alike, is closed whole; of the other
    tokens as many principal directions as make up the share of what energy is left.

    Args:
        contexts: ``[b, L, D]`` each.
        share: of the tokens' squared norm, above 0 to 1.

    Returns:
        orthonormal rows ``[m, D]``.
    """
    tokens = [c.detach().double().cpu() for c in contexts]
    opening = _basis(torch.cat([t[:, 0] for t in tokens]), 1.0)
    rest = torch.cat([t[:, 1:].flatten(0, 1) for t in tokens])
    rest = rest - (rest @ opening.mT) @ opening
    return torch.cat([opening, _basis(rest, share)]).float()


def _basis(tokens: Tensor, share: float) -> Tensor:
    """Leading right singular vectors of ``[n, D]`` up to a share of the energy."""
    if not len(tokens):
        return tokens
    _, values, directions = torch.linalg.svd(tokens, full_matrices=False)
    energy = values.square()
    if not float(energy.sum()) > 1e-12:
        return tokens[:0]
    real = energy > 1e-12 * energy[0]
    reached = energy.cumsum(0) / energy.sum() < share - 1e-12
    count = min(int(reached.sum()) + 1, int(real.sum()))
    return directions[:count]


def context_layers(model: DiffusionModel, paths: Sequence[str]) -> list[str]:
    """Those of some linear layers (module paths) that are fed the context itself."""
    gen = torch.Generator().manual_seed(0)
    context = torch.randn(1, _PROBE, model.context_dim, generator=gen).to(model.device)
    found: list[str] = []

    def look(path: str):
        def hook(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            tokens = given[0].detach().float().reshape(-1, given[0].shape[-1])
            same = tokens.shape == context[0].shape
            if same and torch.allclose(tokens, context[0], atol=2e-2, rtol=2e-2):
                found.append(path)

        return hook

    hooks = [
        model.network.get_submodule(path).register_forward_pre_hook(look(path)) for path in paths
    ]
    try:
        noisy = torch.zeros(1, *model.latent_shape, device=model.device)
        with torch.no_grad():
            model.denoise(noisy, model.schedule.timestep(torch.tensor([0]), noisy), context)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def keep_exactly(
    model: DiffusionModel, adapters: Adapters, keep: Sequence[Tensor], share: float
) -> None:
    """Close the directions of the kept contexts to the adapters of the cross-attention values.

    Holds until the adapters are removed: :meth:`~.adapter.Adapters.project_out` follows every step.

    Args:
        keep: contexts ``[1, L, D]``.
        share: see :func:`kept_directions`.

    Raises:
        DarkMinerError: if no adapted layer is fed the context itself, or nothing is left.
    """
    layers = context_layers(model, adapters.names)
    if not layers:
        raise DarkMinerError(
            "keep_exact: no adapted layer of this MODEL is fed the prompt itself, so that none "
            "can keep its values exactly: set keep_exact to 0."
        )
    directions = kept_directions(keep, share)
    if len(directions) >= model.context_dim:
        raise DarkMinerError(
            f"keep_exact: the keep prompts fill all {model.context_dim} directions of the context "
            "and leave nothing to erase with: name fewer, or lower keep_exact."
        )
    adapters.close(dict.fromkeys(layers, directions))
