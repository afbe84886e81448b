"""Circumventing Concept Erasure (Pham et al., 2023) as one of a red team: textual inversion.

One token at the text encoder's input is learnt from pictures of the concept on the erased model,
and stands in every prompt where the concept's words stood, or before it where it does not name the
concept. Defaults are those of the authors' command, but for the rate: they write 5e-3 and let their
script multiply it by the pictures of a step.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from ..errors import DarkMinerError
from ..rng import generator
from ..settings import setting
from ..types import StepReport
from .common import AttackConfig, optimise
from .scene import ATTACK, Attempt, Scene
from .speech import Speech, require_room

NAME = "cce"
_LOOKS = (50, 100, 200, 400, 800, 1500, 3000)


@dataclass(frozen=True)
class InversionConfig(AttackConfig):
    """Textual inversion's settings."""

    steps: int = setting(5000, "Adam steps", low=1)
    batch: int = setting(16, "pictures per step", low=1)
    word: str = setting("art", "what the token starts from")

    @property
    def looks(self) -> tuple[int, ...]:
        """After how many steps the detector looks; at last when all are done."""
        return (*(step for step in _LOOKS if step < self.steps), self.steps)

    @property
    def learning(self) -> float:
        """Rows through the network until the token is learnt, once for all prompts."""
        return 3.0 * self.steps * self.batch

    def cost(self, picture: float) -> float:
        """Rows through the network for each prompt, of which a picture takes ``picture``."""
        return len(self.looks) * picture


SHORT = InversionConfig(steps=500, batch=8)


def run(scene: Scene, config: InversionConfig) -> list[Attempt]:
    """One attempt for each prompt, all with the token that was learnt.

    Every picture is captioned by the first prompt of ``scene.pairs`` with the token in it.

    Raises:
        DarkMinerError: if the scene lacks a model, the text encoder, prompts with the concept, or
            pictures and the original that would draw them; if the tokenizer does not know the word
            to start from, or a prompt leaves no room.
        DivergedError: if a loss is not finite.
    """
    model, speech = scene.need("model"), scene.need("speech")
    captioned = _Rows(speech, scene.need("pairs")[0][0], scene.concept)
    asked = [_Rows(speech, prompt, scene.concept) for prompt in scene.prompts]
    start = speech.ids(config.word)
    if not start:
        raise DarkMinerError(
            f"This CLIP reads no token in {config.word!r}, from which textual inversion starts: "
            "choose another word."
        )
    targets = torch.cat([scene.target(i) for i in range(_pictures(scene))])
    vector = speech.table[start].mean(0, keepdim=True).clone()
    attempts = [Attempt(p, c) for p, c in zip(scene.prompts, scene.contexts, strict=True)]

    def contexts(value: Tensor, which: Tensor) -> Tensor:
        rows = captioned.with_token(value)
        return speech(rows[None].expand(len(which), -1, -1)).to(model.device)

    def watch(step: int, value: Tensor) -> None:
        if step not in config.looks:
            return
        for i, rows in enumerate(asked):
            with torch.no_grad():
                context = speech(rows.with_token(value)[None])[0].float().cpu()
            attempts[i], _ = scene.look(i, step, replace(attempts[i], context=context))

    def report(told: StepReport) -> None:
        scene.report(replace(told, stage=ATTACK, part=NAME))

    losses = optimise(
        model, targets, vector, contexts, config, generator(scene.seed, 0, f"attack.{NAME}"),
        stage=f"attack {NAME}", report=report, watch=watch,
    )  # fmt: skip
    return [replace(attempt, losses=list(losses)) for attempt in attempts]


def _pictures(scene: Scene) -> int:
    """Pictures that there are; one a prompt where the original model has to draw them."""
    return len(scene.prompts) if scene.latents is None else len(scene.latents)


class _Rows:
    """A prompt's token vectors around the places of the token that is learnt.

    Args:
        concept: the words it stands for; where the prompt does not hold them, or they are empty, it
            stands first.

    Raises:
        DarkMinerError: if the prompt leaves no room.
    """

    def __init__(self, speech: Speech, prompt: str, concept: str):
        parts = _around(prompt, concept)
        self._parts = [speech.table[speech.ids(part)].detach() for part in parts]
        tokens = sum(map(len, self._parts)) + len(parts) - 1
        require_room(speech, tokens, "Textual inversion")

    def with_token(self, vector: Tensor) -> Tensor:
        """``[n, Din]`` with ``vector`` ``[1, Din]`` in every place."""
        rows = [row for part in self._parts for row in (vector, part)]
        return torch.cat(rows[1:])


def _around(prompt: str, concept: str) -> list[str]:
    """What stands before, between and after the concept's words; "" before it all without them."""
    text, words = prompt.lower(), " ".join(concept.lower().split())
    if not words:
        return ["", prompt]
    places, at = [], text.find(words)
    while at >= 0:
        after = at + len(words)
        if _apart(text, at - 1) and _apart(text, after):
            places.append((at, after))
        at = text.find(words, after)
    if not places:
        return ["", prompt]
    cuts = [0, *(cut for place in places for cut in place), len(prompt)]
    return [prompt[a:b] for a, b in list(pairwise(cuts))[::2]]


def _apart(text: str, place: int) -> bool:
    """Whether no word goes on at a place."""
    return not 0 <= place < len(text) or not text[place].isalnum()
