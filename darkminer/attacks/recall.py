"""RECALL (Liu et al., 2025): start noise under which the erased model predicts what it predicts for
a picture of the concept.

The start is a mixture of noise and that picture, moved by the sign of the gradient with momentum,
noise level after noise level; the text stays as it is. No defence of the text can stop it:
text-robust is not latent-robust, and the mixture alone already holds a quarter of the picture, so
that it has to be held against a model that never saw the concept. Defaults are those of the
authors' code, which steps *up* its loss; here it is lowered unless ``ascend`` is set.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..settings import Settings, setting
from .scene import Attempt, Course, Scene, each_prompt, evenly

NAME = "recall"


@dataclass(frozen=True)
class RecallConfig(Settings):
    """RECALL's settings."""

    levels: int = setting(50, "noise levels, from the least noise on", low=1)
    iterations: int = setting(20, "steps at each noise level", low=1)
    lr: float = setting(0.001, "size of a step", above=0)
    momentum: float = setting(0.9, "of the gradient, whose mean size is brought to 1", low=0)
    balance: float = setting(0.25, "share of the picture in the start", low=0, high=1)
    every: int = setting(5, "levels after which the picture is added once more", low=1)
    pull: float = setting(0.05, "how much of it", low=0)
    ascend: bool = setting(False, "whether the loss is raised instead of lowered")

    @property
    def passes(self) -> int:
        """Steps for each prompt, at most."""
        return self.levels * self.iterations

    def cost(self, picture: float) -> float:
        """Rows through the network for each prompt, of which a picture takes ``picture``."""
        return 4.0 * self.passes + (self.levels + 1) * picture


SHORT = RecallConfig(levels=10, iterations=10, lr=0.01)


def run(scene: Scene, config: RecallConfig) -> list[Attempt]:
    """One start for each prompt; the first that the detector sees the concept in ends the search.

    Raises:
        DarkMinerError: if the scene has no model, or neither pictures nor the original.
        DivergedError: if a loss is not finite.
    """
    return each_prompt(scene, NAME, config.passes, lambda i, c: _one(scene, config, i, c))


def _one(scene: Scene, config: RecallConfig, i: int, course: Course) -> Attempt:
    model, gen = scene.need("model"), scene.generator(NAME, i)
    x, context = scene.target(i), scene.contexts[i][None].to(model.device)
    noise = torch.randn(x.shape, generator=gen).to(x.device)
    start = config.balance * x + (1.0 - config.balance) * noise
    velocity, way = torch.zeros_like(x), config.lr if config.ascend else -config.lr
    attempt = Attempt(scene.prompts[i], scene.contexts[i])

    def gradients(noisy: Tensor, t: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        own = noisy.detach().requires_grad_(True)
        loss = F.mse_loss(model.denoise(own, t, context), target)
        return loss.detach(), torch.autograd.grad(loss, own)[0]

    for done, level in enumerate(evenly(len(model.schedule), config.levels), 1):
        index = torch.tensor([level])
        t, signal = model.schedule.timestep(index, x), float(model.schedule.signal[level])
        for _ in range(config.iterations):
            noise = torch.randn(x.shape, generator=gen).to(x.device)
            with torch.no_grad():
                target = model.denoise(model.schedule.add_noise(x, noise, index), t, context)
            noisy = model.schedule.add_noise(start, noise, index)
            loss, slope = model.memory.attempt(gradients, noisy, t, target)
            slope = signal * slope  # the start's own gradient
            velocity = config.momentum * velocity + slope / (slope.abs().mean() + 1e-8)
            start = start + way * velocity.sign()
            course.add(loss)
        if done % config.every == 0:
            start = start + config.pull * x
        found = replace(attempt, start=start[0].float().cpu())
        attempt, look = scene.look(i, done * config.iterations, found)
        if look is not None and look.hit:
            break
    return replace(attempt, losses=course.losses())
