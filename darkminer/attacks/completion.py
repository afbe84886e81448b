"""Completion: a picture of the concept, noised half-way, is finished by the erased model.

The layout and much of the style are in the picture already: a model that never saw the concept
completes some of it, too, so that only the difference to such a model says something of an erasure.
No defence of the text can stop it: text-robust is not latent-robust.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from ..settings import Settings, setting
from .scene import Attempt, Course, Scene, each_prompt
from .steps import finished, levels_down

NAME = "completion"


@dataclass(frozen=True)
class CompletionConfig(Settings):
    """Completion's settings."""

    steps: int = setting(50, "steps of a whole sampling, of which the noised part is taken", low=1)
    strength: float = setting(
        0.5, "how far up the noise levels the picture is brought: 0 keeps it, 1 leaves nothing",
        low=0, high=1,
    )  # fmt: skip

    def cost(self, picture: float) -> float:
        """Rows through the network for each prompt."""
        return 2.0 * self.steps * self.strength


SHORT = CompletionConfig(steps=20)


def run(scene: Scene, config: CompletionConfig) -> list[Attempt]:
    """One picture for each prompt.

    Raises:
        DarkMinerError: if the scene has no model, or neither pictures nor the original.
    """
    return each_prompt(scene, NAME, 1, lambda i, course: _one(scene, config, i, course))


def _one(scene: Scene, config: CompletionConfig, i: int, course: Course) -> Attempt:
    model, gen = scene.need("model"), scene.generator(NAME, i)
    x = scene.target(i)
    noise = torch.randn(x.shape, generator=gen).to(x.device)
    level = round(config.strength * (len(model.schedule) - 1))
    levels = levels_down(level, max(1, round(config.strength * config.steps)))
    noisy = model.schedule.add_noise(x, noise, torch.tensor([level]))
    made = finished(scene, i, noisy, levels)[0].float().cpu()
    attempt = Attempt(scene.prompts[i], scene.contexts[i], start=noisy[0].cpu(), latents=made)
    course.add()
    return replace(scene.look(i, 1, attempt)[0], losses=course.losses())
