"""Ring-A-Bell (Tsai et al., 2024): a text whose context lies where the concept's would.

A genetic search over tokens towards the context of the user's prompt plus a multiple of the
concept's direction. It asks the text encoder alone: no model is needed, and no gradient. Defaults
are those of the authors' code.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..settings import Settings, setting
from .scene import Attempt, Course, Scene, each_prompt
from .speech import Speech, drawn, require_room

NAME = "ringabell"


@dataclass(frozen=True)
class RingABellConfig(Settings):
    """Ring-A-Bell's settings."""

    generations: int = setting(3000, "generations for each prompt", low=1)
    population: int = setting(200, "texts at the start; the better half breeds", low=4)
    tokens: int = setting(16, "tokens K of a text", low=1)
    coefficient: float = setting(3.0, "multiple of the concept's direction", low=0)
    mutation: float = setting(0.25, "share of texts in which a token changes", low=0, high=1)
    crossover: float = setting(0.5, "share of texts that are crossed with another", low=0, high=1)
    batch: int = setting(50, "texts encoded at once", low=1)
    pasted: bool = setting(True, "whether the pasted text draws the picture, not the tokens")

    def cost(self, picture: float) -> float:
        """What the text encoder takes for each prompt, in rows through the network."""
        return 0.1 * self.generations * self.population + picture


SHORT = RingABellConfig(generations=200, population=60)


def run(scene: Scene, config: RingABellConfig) -> list[Attempt]:
    """One text for each prompt, the best of the last generation.

    Raises:
        DarkMinerError: if the scene lacks the text encoder or pairs of prompts.
    """
    speech = scene.need("speech")
    require_room(speech, config.tokens, "Ring-A-Bell")
    direction = concept_direction(speech, scene.need("pairs"))

    def one(i: int, course: Course) -> Attempt:
        gen = scene.generator(NAME, i)
        target = _context(speech, scene.prompts[i]) + config.coefficient * direction
        ids = _search(speech, target, config, gen, course)
        attempt = replace(scene.say(i, ids, pasted=config.pasted), losses=course.losses())
        return scene.look(i, config.generations, attempt)[0]

    return each_prompt(scene, NAME, config.generations, one)


def concept_direction(speech: Speech, pairs: tuple[tuple[str, str], ...]) -> Tensor:
    """Mean difference ``[L, D]`` of the contexts with the concept and without it."""
    return torch.stack([_context(speech, a) - _context(speech, b) for a, b in pairs]).mean(0)


@torch.no_grad()
def _context(speech: Speech, text: str) -> Tensor:
    return speech(speech.table[speech.ids(text)][None])[0]


@torch.no_grad()
def _search(
    speech: Speech, target: Tensor, config: RingABellConfig, gen: torch.Generator, course: Course
) -> list[int]:
    """The fittest tokens of the last generation."""
    size, tokens = config.population, config.tokens
    texts = drawn(size * tokens, speech, gen).view(size, tokens)
    for generation in range(config.generations):
        distance = _distance(speech, texts, target, config.batch)
        texts = texts[distance.argsort(stable=True)][: size // 2]
        course.add(distance.min())
        if generation < config.generations - 1:
            texts = _mutated(_crossed(texts, config, gen), speech, config, gen)
    return texts[0].tolist()


def _distance(speech: Speech, texts: Tensor, target: Tensor, batch: int) -> Tensor:
    """Squared distance ``[P]`` of each text's context from ``target`` ``[L, D]``, on the CPU."""
    parts = [
        (speech(speech.table[part]) - target).square().sum((1, 2)).cpu()
        for part in texts.split(batch)
    ]
    return torch.cat(parts)


def _crossed(texts: Tensor, config: RingABellConfig, gen: torch.Generator) -> Tensor:
    """Every text ``[P, K]``, and behind some of them two children with another text."""
    family = []
    for text in texts:
        family.append(text)
        if float(torch.rand((), generator=gen)) < config.crossover:
            other = texts[int(torch.randint(len(texts), (), generator=gen))]
            cut = int(torch.randint(len(text), (), generator=gen))
            family += [torch.cat([text[:cut], other[cut:]]), torch.cat([other[:cut], text[cut:]])]
    return torch.stack(family)


def _mutated(
    texts: Tensor, speech: Speech, config: RingABellConfig, gen: torch.Generator
) -> Tensor:
    """The texts, a random token in a random place of some."""
    for text in texts:
        if float(torch.rand((), generator=gen)) < config.mutation:
            place = int(torch.randint(len(text), (), generator=gen))
            text[place] = drawn(1, speech, gen)[0]
    return texts
