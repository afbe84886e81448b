from dataclasses import replace

import pytest
import torch
from dark_miner.darkminer.attacks.cce import invert
from dark_miner.darkminer.attacks.common import AttackConfig
from dark_miner.darkminer.attacks.context import optimise_context
from dark_miner.darkminer.errors import DarkMinerError
from dark_miner.darkminer.method.losses import mining_loss
from dark_miner.darkminer.model.adapter import frozen_digest
from dark_miner.darkminer.model.memory import Memory
from torch import nn

from . import toy

CONFIG = AttackConfig(steps=200, lr=0.05, batch=4)


class Text(nn.Module):
    """A text encoder on words: a table, and a layer that mixes the words of a prompt."""

    WORDS = ("a", "*", "drawing", "of", "cat", "dog", "picture")

    def __init__(self):
        super().__init__()
        gen = torch.Generator().manual_seed(2)
        self.table = nn.Parameter(torch.randn(len(self.WORDS), toy.WIDTH, generator=gen), False)
        self.mix = nn.Parameter(torch.randn(toy.WIDTH, toy.WIDTH, generator=gen) * 0.4, False)

    def embedding(self, word):
        return self.table[self.WORDS.index(word)].clone()

    def forward(self, prompts, vectors):
        rows = []
        for prompt, vector in zip(prompts, vectors.expand(len(prompts), -1), strict=True):
            ids = [vector if w == "*" else self.embedding(w) for w in prompt.split()]
            rows.append(torch.stack(ids))
        x = torch.stack(rows)
        return torch.tanh((x + x.mean(1, keepdim=True)) @ self.mix)

    def encode(self, prompts):
        return self(prompts, self.embedding("a")[None])


def latents():
    return toy.pool().latents


def error(model, context):
    """Denoising error of the drawings under a context, on draws of its own."""
    gen = torch.Generator().manual_seed(5)
    x = latents().repeat(40, 1, 1, 1)
    noise, index = torch.randn(x.shape, generator=gen), model.schedule.draw(len(x), gen)
    with torch.no_grad():
        each = mining_loss(
            model.denoise, model.schedule, x, context.expand(len(x), -1, -1), noise, index
        )
    return float(each.mean())


def cce(model, text, seed=0):
    prompts = ["a * drawing of a cat", "a * drawing of a dog"] * 4
    return invert(model, text, latents(), prompts, CONFIG, seed=seed)


def test_textual_inversion_lowers_the_loss_and_moves_the_token_alone():
    model, text = toy.model(), Text()
    digests = frozen_digest(model.network), frozen_digest(text)
    vector, losses = cce(model, text)
    assert sum(losses[-50:]) < 0.95 * sum(losses[:50])
    assert vector.shape == (1, toy.WIDTH)
    assert not torch.equal(vector[0], text.embedding("picture"))
    assert (frozen_digest(model.network), frozen_digest(text)) == digests


def test_same_seed_same_token():
    model, text = toy.model(), Text()
    assert torch.equal(cce(model, text)[0], cce(model, text)[0])
    assert not torch.equal(cce(model, text)[0], cce(model, text, seed=1)[0])


@pytest.mark.parametrize("vectors", [1, 4])
def test_context_attack_lowers_the_loss_and_keeps_to_the_norm(vectors):
    model, start = toy.model(), toy.context(3)
    digest = frozen_digest(model.network)
    context, _ = optimise_context(model, latents(), vectors, start, CONFIG, seed=0, max_norm=4.0)
    assert context.shape == (1, vectors, toy.WIDTH)
    assert float(context.norm(dim=-1).max()) <= 4.0 + 1e-5
    begun = AttackConfig(steps=1, lr=1e-9, batch=4)
    first, _ = optimise_context(model, latents(), vectors, start, begun, seed=0, max_norm=4.0)
    assert error(model, context) < 0.95 * error(model, first)
    assert frozen_digest(model.network) == digest


def test_an_attack_is_watched_without_being_changed():
    model, text = toy.model(), Text()
    seen = {}

    def watch(step, value):
        seen[step] = value.clone()

    prompts = ["a * drawing of a cat"] * 8
    config = AttackConfig(steps=5, lr=0.05, batch=4)
    plain, _ = invert(model, text, latents(), prompts, config, seed=0)
    watched, _ = invert(model, text, latents(), prompts, config, seed=0, watch=watch)
    assert list(seen) == [1, 2, 3, 4, 5] and not seen[5].requires_grad
    assert torch.equal(watched, plain) and torch.equal(seen[5], watched)
    assert not torch.equal(seen[1], seen[5])


def test_unprojected_the_attack_goes_further():
    model, start = toy.model(), toy.context(3)
    config = AttackConfig(steps=200, lr=0.2, batch=4)
    free, _ = optimise_context(model, latents(), 1, start, config, seed=0, max_norm=None)
    assert float(free.norm()) > 2.0


def test_attack_settings_are_checked():
    with pytest.raises(DarkMinerError, match="AttackConfig.steps"):
        AttackConfig(steps=0)


@pytest.mark.parametrize("room", [1, 2])
def test_attacks_go_on_with_smaller_passes_when_memory_runs_out(room):
    plenty = toy.model()

    def limited(x, *rest):
        if len(x) > room:
            raise torch.OutOfMemoryError(f"{len(x)} samples do not fit")
        return plenty.denoise(x, *rest)

    def attacks(model):
        text, few = Text(), AttackConfig(steps=6, lr=0.05, batch=4)
        vector, said = invert(model, text, latents(), ["a * drawing"] * 8, few, seed=0)
        free, losses = optimise_context(
            model, latents(), 2, toy.context(3), few, seed=0, max_norm=4.0
        )
        return vector, free, torch.tensor([*said, *losses])

    memory = Memory()
    cut = memory.denoiser(limited, plenty.network)
    found = attacks(replace(plenty, denoise=cut, memory=memory))
    assert memory.trained == room
    for value, expected in zip(found, attacks(plenty), strict=True):
        assert torch.allclose(value, expected, rtol=1e-3, atol=1e-4)
