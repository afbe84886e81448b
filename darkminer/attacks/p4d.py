"""Prompting4Debugging (Chin et al., 2024): a text that makes the erased model predict what the
original predicts under the user's prompt.

Learnable vectors are projected to the nearest token (by cosine) before each pass; the gradient at
the projection moves the vectors. P4D-N learns N tokens alone; P4D-K puts one before every K tokens
of the prompt. Defaults are those of the authors' code.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..settings import Settings, setting
from .scene import Attempt, Course, Look, Scene, each_prompt
from .speech import drawn, nearest, require_room


@dataclass(frozen=True)
class P4DConfig(Settings):
    """P4D's settings."""

    steps: int = setting(3000, "steps of AdamW for each prompt", low=1)
    tokens: int = setting(16, "learnable tokens where the prompt is left out (P4D-N)", low=1)
    every: int = setting(
        0, "one learnable token before every so many of the prompt's own (P4D-K takes 3); 0 leaves "
        "the prompt out (P4D-N)", low=0,
    )  # fmt: skip
    lr: float = setting(0.1, "learning rate", above=0)
    weight_decay: float = setting(0.1, "AdamW's weight decay", low=0)
    look: int = setting(50, "steps between two pictures for the detector", low=1)
    pasted: bool = setting(True, "whether the pasted text draws the picture, not the tokens")

    def cost(self, picture: float) -> float:
        """Rows through the network for each prompt, of which a picture takes ``picture``."""
        return 4.0 * self.steps + (self.steps // self.look + 2) * picture


SHORT = P4DConfig(steps=300)


def run(scene: Scene, config: P4DConfig, name: str = "p4d-n") -> list[Attempt]:
    """One text for each prompt.

    With a detector the text whose picture scores highest is kept, as the authors keep the one most
    like the target picture; without one the last.

    Raises:
        DarkMinerError: if the scene lacks a model, the original or the text encoder, or a prompt
            leaves no room.
        DivergedError: if a loss is not finite.
    """
    scene.need("original")
    return each_prompt(scene, name, config.steps, lambda i, course: _one(scene, config, i, course))


def layout(ids: list[int], config: P4DConfig) -> list[int | None]:
    """The prompt's tokens, None where one is learnt."""
    if not config.every:
        return [None] * config.tokens
    learnt = len(ids) // config.every + 1
    rest = iter(ids)
    width = config.every + 1
    return [None if place % width == 0 else next(rest) for place in range(len(ids) + learnt)]


def _one(scene: Scene, config: P4DConfig, i: int, course: Course) -> Attempt:
    model, original, speech = (scene.need(n) for n in ("model", "original", "speech"))
    places = layout(speech.ids(scene.prompts[i]), config)
    require_room(speech, len(places), "P4D")
    free = torch.tensor([place is None for place in places])
    ids = torch.tensor([place or 0 for place in places])
    gen = scene.generator("p4d", i)
    x, asked = scene.target(i), scene.contexts[i][None].to(model.device)
    variable = speech.table[drawn(int(free.sum()), speech, gen)].clone().requires_grad_(True)
    optimizer = torch.optim.AdamW([variable], lr=config.lr, weight_decay=config.weight_decay)

    def gradients(noisy: Tensor, t: Tensor, target: Tensor, row: Tensor) -> Tensor:
        row.grad = None
        loss = F.mse_loss(model.denoise(noisy, t, speech(row[None]).to(model.device)), target)
        loss.backward()
        return loss.detach()

    best = _Best(scene, config, i, course)
    for step in range(config.steps):
        ids[free] = nearest(variable, speech)
        if step % config.look == 0:
            best.look(step, ids.tolist())
        noise = torch.randn(x.shape, generator=gen).to(x.device)
        index = model.schedule.draw(1, gen)
        noisy, t = model.schedule.add_noise(x, noise, index), model.schedule.timestep(index, x)
        with torch.no_grad():
            target = original.denoise(noisy, t, asked)
        row = speech.table[ids].clone().requires_grad_(True)
        loss = model.memory.attempt(gradients, noisy, t, target, row)
        assert row.grad is not None
        variable.grad = row.grad[free.to(row.device)]
        optimizer.step()
        course.add(loss)
    ids[free] = nearest(variable, speech)
    return best.last(ids.tolist())


class _Best:
    """The attempts that were looked at, and the one to keep."""

    def __init__(self, scene: Scene, config: P4DConfig, i: int, course: Course):
        self._scene, self._config, self._i, self._course = scene, config, i, course
        self._looks: tuple[Look, ...] = ()
        self._found: tuple[float, list[int]] = (float("-inf"), [])

    def look(self, step: int, ids: list[int]) -> None:
        if self._scene.detector is None:
            return
        attempt = self._scene.say(self._i, ids, pasted=self._config.pasted)
        _, look = self._scene.look(self._i, step, attempt)
        assert look is not None
        self._looks = (*self._looks, look)
        self._found = max(self._found, (look.score, ids), key=lambda found: found[0])

    def last(self, ids: list[int]) -> Attempt:
        self.look(self._config.steps, ids)
        kept = self._found[1] or ids
        attempt = self._scene.say(self._i, kept, pasted=self._config.pasted)
        return replace(attempt, losses=self._course.losses(), looks=self._looks)
