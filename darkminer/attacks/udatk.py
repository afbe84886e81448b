"""UnlearnDiffAtk (Zhang et al., 2024): a prefix under which the erased model denoises a picture of
the concept best.

Each of k tokens before the prompt is a distribution over the vocabulary. A step draws tokens from
it, takes the gradient of the denoising error straight through the draw, and projects what Adam
makes of it back onto the simplex. Noise levels come one after the other; after each the most likely
tokens are tried, and the first success ends the search. Defaults are those of the authors' code.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..settings import Settings, setting
from .scene import Attempt, Course, Scene, each_prompt, evenly
from .speech import require_room

NAME = "udatk"


@dataclass(frozen=True)
class UDAtkConfig(Settings):
    """UnlearnDiffAtk's settings."""

    tokens: int = setting(5, "tokens of the prefix (5 for nudity, 3 for styles and objects)", low=1)
    levels: int = setting(50, "noise levels, from the least noise on", low=1)
    iterations: int = setting(40, "steps of Adam at each noise level", low=1)
    lr: float = setting(0.01, "learning rate", above=0)
    weight_decay: float = setting(0.1, "Adam's weight decay, added to the gradient", low=0)
    pasted: bool = setting(False, "whether the pasted text draws the picture, not the tokens")

    @property
    def passes(self) -> int:
        """Steps for each prompt, at most."""
        return self.levels * self.iterations

    def cost(self, picture: float) -> float:
        """Rows through the network for each prompt, of which a picture takes ``picture``."""
        return 3.0 * self.passes + (self.levels + 1) * picture


SHORT = UDAtkConfig(tokens=3, levels=10, iterations=20)


def run(scene: Scene, config: UDAtkConfig) -> list[Attempt]:
    """One prefix for each prompt; none where the prompt alone already shows the concept.

    Raises:
        DarkMinerError: if the scene lacks a model, the text encoder, or pictures and the original
            that would draw them, or a prompt leaves no room.
        DivergedError: if a loss is not finite.
    """
    return each_prompt(scene, NAME, config.passes, lambda i, course: _one(scene, config, i, course))


def simplex(rows: Tensor) -> Tensor:
    """The nearest point ``[n, V]`` of the probability simplex to each row (Duchi et al., 2008)."""
    order = rows.sort(dim=1, descending=True).values
    excess = order.cumsum(1) - 1.0
    count = torch.arange(1, rows.shape[1] + 1, device=rows.device)
    last = (order * count > excess).sum(1, keepdim=True)
    return (rows - excess.gather(1, last - 1) / last).clamp(min=0.0)


def _one(scene: Scene, config: UDAtkConfig, i: int, course: Course) -> Attempt:
    model, speech = scene.need("model"), scene.need("speech")
    attempt, look = scene.look(i, 0, Attempt(scene.prompts[i], scene.contexts[i]))
    if look is not None and look.hit:
        return replace(attempt, losses=course.losses())
    rest = speech.ids(scene.prompts[i])
    require_room(speech, config.tokens + len(rest), "UnlearnDiffAtk")
    own = speech.table[speech.allowed.to(speech.table.device)]
    fixed, x, gen = speech.table[rest], scene.target(i), scene.generator(NAME, i)
    chances = torch.full((config.tokens, len(own)), 1.0 / len(own), device=own.device)
    optimizer = torch.optim.Adam([chances], lr=config.lr, weight_decay=config.weight_decay)

    def gradients(noisy: Tensor, t: Tensor, target: Tensor, prefix: Tensor) -> Tensor:
        prefix.grad = None
        context = speech(torch.cat([prefix, fixed])[None]).to(model.device)
        loss = F.mse_loss(model.denoise(noisy, t, context), target)
        loss.backward()
        return loss.detach()

    for done, level in enumerate(evenly(len(model.schedule), config.levels), 1):
        index = torch.tensor([level])
        t = model.schedule.timestep(index, x)
        for _ in range(config.iterations):
            drawn = torch.multinomial(chances.cpu(), 1, generator=gen)[:, 0].to(own.device)
            prefix = own[drawn].clone().requires_grad_(True)
            noise = torch.randn(x.shape, generator=gen).to(x.device)
            noisy = model.schedule.add_noise(x, noise, index)
            target = model.schedule.target(x, noise, index)
            loss = model.memory.attempt(gradients, noisy, t, target, prefix)
            assert prefix.grad is not None
            chances.grad = (prefix.grad @ own.T).clamp(-1.0, 1.0)
            optimizer.step()
            chances.copy_(simplex(chances))
            course.add(loss)
        ids = speech.allowed[chances.argmax(1).cpu()].tolist()
        found = scene.say(i, [*ids, *rest], pasted=config.pasted)
        looked = replace(found, looks=attempt.looks)
        attempt, look = scene.look(i, done * config.iterations, looked)
        if look is not None and look.hit:
            break
    return replace(attempt, losses=course.losses())
