"""Rates and clips mean the same on every latent size."""

import pytest
import torch
from dark_miner.darkminer.config import FAST, PAPER
from dark_miner.darkminer.method.circumvent import CircumventConfig
from dark_miner.darkminer.method.engine import Targets
from dark_miner.darkminer.method.loop import new_adapters
from dark_miner.darkminer.method.optim import TrainingConfig, at_size
from dark_miner.darkminer.method.trainer import Trainer
from dark_miner.darkminer.model.adapter import LoraConfig
from dark_miner.darkminer.types import silent

from . import toy

SD15, SDXL, GALLERY = (4, 64, 64), (4, 128, 128), (8, 8, 8)


@pytest.mark.parametrize("config", [PAPER.mine, PAPER.circumvent, FAST.mine, FAST.chase])
def test_the_papers_own_size_changes_nothing(config):
    assert at_size(config, SD15) == config


def test_a_latent_of_four_times_the_numbers_takes_a_quarter_of_the_rate():
    config = at_size(PAPER.mine, SDXL)
    assert (config.lr, config.lr_late, config.clip) == (0.025, 0.0025, 40.0)


def test_adam_takes_steps_of_one_size_everywhere():
    config = at_size(FAST.circumvent, GALLERY)
    assert (config.lr, config.lr_late) == (FAST.circumvent.lr, FAST.circumvent.lr_late)
    assert config.clip == FAST.circumvent.clip / 32


def moved(width, config, steps=3):
    """What the toy's adapters become when every picture is ``width`` times itself, side by side."""
    model = toy.model()
    shape = (toy.CHANNELS, toy.SIDE, toy.SIDE * width)
    model = type(model)(**{**vars(model), "latent_shape": shape})
    adapters = new_adapters(model, LoraConfig(rank=2, alpha=2.0), seed=0)
    gen = torch.Generator().manual_seed(3)
    noisy, answer = (torch.randn(4, toy.CHANNELS, toy.SIDE, toy.SIDE, generator=gen) for _ in "ab")
    rows = Targets(
        noisy.repeat(1, 1, 1, width), torch.tensor([1.0, 4.0, 6.0, 9.0]), [toy.context(1)[0]] * 4,
        answer.repeat(1, 1, 1, width), torch.full((4,), 0.25),
    )  # fmt: skip
    trainer = Trainer(model, adapters, config, stage="test", round_=0, report=silent)
    for _ in range(steps):
        trainer.step(lambda: rows)
    return adapters.state()


@pytest.mark.parametrize("clip", [1e9, 50.0], ids=["free", "clipped"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_adapters_move_alike_on_latents_of_every_size(optimizer, clip):
    """A picture of four equal parts has four times the loss and says nothing new."""
    config = TrainingConfig(steps=3, optimizer=optimizer, lr=1e-5, lr_late=1e-5, clip=clip)
    once, fourfold = moved(1, config), moved(4, config)
    for name, up in once.up.items():
        assert float(up.abs().max()) > 0
        assert torch.allclose(up, fourfold.up[name], rtol=1e-3, atol=1e-8)


def test_without_the_rule_they_would_not():
    config = CircumventConfig(steps=3, lr=1e-5, lr_late=1e-5)
    unscaled = at_size(config, (toy.CHANNELS, toy.SIDE, toy.SIDE))
    assert unscaled.lr > 100 * config.lr


def test_a_loras_lower_half_starts_where_the_settings_say():
    for spread in (1.0, 3.0):
        config = LoraConfig(rank=64, alpha=64.0, spread=spread)
        state = new_adapters(toy.model(), config, seed=0).state()
        for down in state.down.values():
            bound = (spread / down.shape[1]) ** 0.5
            assert 0.95 * bound < float(down.abs().max()) <= bound
