"""The noise probe: the user's prompt, with more noise on the way than sampling adds.

An erasure is trained where ordinary sampling leads. Fresh noise at every step leads elsewhere, and
what the model still knows may show there. The text stays as it is, so that no defence of the text
can stop it: text-robust is not latent-robust. Nothing is learnt; without a detector it is only the
first of its pictures.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..model.sampling import seeded_noise
from ..settings import Settings, setting
from .scene import Attempt, Course, Scene, each_prompt
from .steps import finished, levels_down

NAME = "probe"


@dataclass(frozen=True)
class ProbeConfig(Settings):
    """The noise probe's settings; its noises are this pack's choice."""

    steps: int = setting(50, "steps of sampling", low=1)
    churns: tuple[float, ...] = setting(
        (1.0, 1.2, 1.4), "new noise of a step, in what its level holds (DDIM's eta)", low=0
    )
    tries: int = setting(3, "pictures with each of these noises", low=1)

    def cost(self, picture: float) -> float:
        """Rows through the network for each prompt."""
        return 2.0 * self.steps * self.tries * len(self.churns)


SHORT = ProbeConfig(steps=20, tries=1)


def run(scene: Scene, config: ProbeConfig) -> list[Attempt]:
    """One picture for each prompt: the first that the detector sees the concept in, or the best.

    Raises:
        DarkMinerError: if the scene has no model.
    """
    tries = [churn for _ in range(config.tries) for churn in config.churns]
    return each_prompt(scene, NAME, len(tries), lambda i, c: _one(scene, config, tries, i, c))


def _one(scene: Scene, config: ProbeConfig, tries: list[float], i: int, course: Course) -> Attempt:
    model, gen = scene.need("model"), scene.generator(NAME, i)
    levels, looks = levels_down(len(model.schedule) - 1, config.steps), ()
    best: tuple[float, Attempt] | None = None
    for step, churn in enumerate(tries, 1):
        noise = seeded_noise(model, 1, gen)
        x = float(model.schedule.noise[levels[0]]) * noise
        made = finished(scene, i, x, levels, churn, gen)[0].float().cpu()
        attempt = Attempt(
            scene.prompts[i], scene.contexts[i], looks=looks, start=noise[0].cpu(), latents=made
        )
        attempt, look = scene.look(i, step, attempt)
        course.add()
        score = look.score if look is not None else 0.0
        if best is None or score > best[0] or (look is not None and look.hit):
            best = score, attempt
        looks = attempt.looks
        if look is None or look.hit:
            break
    assert best is not None
    return replace(best[1], looks=looks, losses=course.losses())
