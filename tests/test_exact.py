"""Exact keeping: values of named prompts stay what they were, whatever is trained."""

from dataclasses import replace

import pytest
import torch
from dark_miner.darkminer.errors import DarkMinerError
from dark_miner.darkminer.method.circumvent import CircumventConfig, circumvent
from dark_miner.darkminer.method.loop import new_adapters
from dark_miner.darkminer.method.retain import Retain, RetainConfig
from dark_miner.darkminer.model.adapter import LoraConfig
from dark_miner.darkminer.model.exact import context_layers, kept_directions
from dark_miner.darkminer.types import EmbeddingPool, MinedEmbedding
from torch import nn

from . import toy

TRAINED = CircumventConfig(
    steps=60, batch=2, optimizer="adam", lr=0.01, lr_late=0.01, images=2, alpha_p=0.0
)  # fmt: skip
LORA = LoraConfig(rank=4, alpha=4.0)
EXACT = RetainConfig(keep_weight=0.0, keep_exact=1.0)
KEPT, CONCEPT = toy.context(60), toy.context(20)


def moved(retain, context, keep=(KEPT,)):
    """How far the erasure moves a context's values in the cross-attention, largest entry."""
    model = toy.model()
    adapters = new_adapters(model, LORA, seed=0)
    pool = EmbeddingPool((MinedEmbedding(CONCEPT[0], 1),), round=1, concept="concept")
    circumvent(
        model, adapters, pool, toy.context(0), TRAINED, seed=0, retain=Retain(retain, keep=keep)
    )
    values = model.network.attn2.to_v
    with torch.no_grad():
        after = values(context)
        with adapters.off():
            before = values(context)
    return float((after - before).abs().max())


def test_values_of_a_kept_prompt_cannot_change():
    assert moved(EXACT, KEPT) < 1e-5
    assert moved(replace(EXACT, keep_exact=0.0), KEPT) > 1e-2
    assert moved(EXACT, CONCEPT) > 1e-2


def test_a_share_of_the_energy_closes_fewer_directions():
    part = moved(replace(EXACT, keep_exact=0.3), KEPT)
    assert 1e-3 < part
    opening = KEPT[:, :1]
    assert moved(replace(EXACT, keep_exact=0.3), opening) < 1e-5


def test_kept_directions_by_hand():
    """After the opening token (first axis) energies 9, 4 and 1 lie along the next three axes."""
    tokens = torch.tensor([[[2.0, 0, 0, 0, 0], [5, 3, 0, 0, 0], [0, 0, 2, 0, 0], [1, 0, 0, 1, 0]]])
    for share, count in ((0.5, 2), (9 / 14, 2), (0.9, 3), (1.0, 4)):
        rows = kept_directions([tokens], share)
        assert len(rows) == count
        assert torch.allclose(rows @ rows.mT, torch.eye(count), atol=1e-6)
        assert torch.allclose(rows.abs()[:, :count], torch.eye(count), atol=1e-6)


def test_only_layers_fed_the_context_itself_are_found():
    assert context_layers(toy.model(), ["attn1.to_v", "attn2.to_v"]) == ["attn2.to_v"]


def test_prompts_that_leave_nothing_are_refused():
    keep = [toy.context(60 + i) for i in range(3)]
    with pytest.raises(DarkMinerError, match="leave nothing to erase with"):
        moved(EXACT, KEPT, keep)


class Deaf(toy.Denoiser):
    """A network whose cross-attention never meets the context itself."""

    def __init__(self):
        super().__init__()
        self.refine = nn.Linear(toy.WIDTH, toy.WIDTH)

    def forward(self, x, timestep, context):
        return super().forward(x, timestep, self.refine(context))


def test_a_model_that_cannot_keep_exactly_is_refused():
    model = toy.model(network=Deaf())
    adapters = new_adapters(model, LORA, seed=0)
    pool = EmbeddingPool((MinedEmbedding(CONCEPT[0], 1),), round=1, concept="concept")
    retain = Retain(EXACT, keep=[KEPT])
    with pytest.raises(DarkMinerError, match="keep_exact"):
        circumvent(model, adapters, pool, toy.context(0), TRAINED, seed=0, retain=retain)
