"""What is erased from the gallery: a style or an object, how it is asked for and who is beside it.

Imported once the pack is loaded as ``dark_miner``.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

STYLE, OBJECT = "style", "object"
# None is a wording that the method trains on: it joins words by "a {s} drawing of a {o}".
USER_PROMPTS = ("a {s} picture of a {o}", "{s} drawing of a {o}", "a drawing of a {o} by {s}")


@dataclass(frozen=True)
class Target:
    """A concept of the gallery.

    Attributes:
        name: the word that a prompt uses.
        kind: ``"style"`` or ``"object"``.
    """

    name: str
    kind: str = STYLE

    def __post_init__(self) -> None:
        if self.name not in self.choices(self.kind):
            raise ValueError(f"{self.name!r}: choose one of {', '.join(self.choices(self.kind))}")

    @staticmethod
    def choices(kind: str) -> tuple[str, ...]:
        """The gallery's words of a kind; held-out objects are no targets, nobody may name them."""
        from dark_miner.demo.gallery import HELD_OUT, OBJECTS, STYLES

        return STYLES if kind == STYLE else tuple(o for o in OBJECTS if o not in HELD_OUT)

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"

    @property
    def template(self) -> str:
        """The pool's prompt template."""
        return "a * drawing" if self.kind == STYLE else "a drawing of a *"

    @property
    def attack_template(self) -> str:
        """How an attacker asks; ``{}`` is what else a picture shows."""
        return "a * drawing of a {}" if self.kind == STYLE else "a {} drawing of a *"

    @property
    def companions(self) -> tuple[str, ...]:
        """The words that stand beside it in prompts: every object, or every style."""
        from dark_miner.demo.gallery import OBJECTS, STYLES

        return OBJECTS if self.kind == STYLE else STYLES

    def prompts(self, wordings: int, seeds: int) -> tuple[list[str], Tensor]:
        """Prompts that name it, and the index of each one's companion.

        Args:
            wordings: how many ways of asking, 1 to 3.
            seeds: how often each (an object, which has fewer companions, seven times as often).
        """
        words = list(self.companions)
        often = seeds if self.kind == STYLE else 7 * seeds
        texts = [
            wording.format(**self._named(word))
            for wording in USER_PROMPTS[:wordings]
            for _ in range(often)
            for word in words
        ]
        return texts, torch.arange(len(texts)) % len(words)

    def unasked(self, seeds: int) -> list[str]:
        """Prompts that ask for no target of this kind: any may show, this one among them."""
        if self.kind == STYLE:
            return [f"a picture of a {word}" for word in self.companions] * seeds
        return [f"a {word} picture" for word in self.companions] * 7 * seeds

    def _named(self, word: str) -> dict[str, str]:
        s, o = (self.name, word) if self.kind == STYLE else (word, self.name)
        return {"s": s, "o": o}

    def others(self, style: str) -> list[str]:
        """Prompts that do not name it, one an object, in a style that is not it."""
        from dark_miner.demo.gallery import OBJECTS

        names = [o for o in OBJECTS if not (self.kind == OBJECT and o == self.name)]
        return [USER_PROMPTS[0].format(s=style, o=o) for o in names]

    def other_styles(self) -> list[str]:
        """Styles that must stay."""
        from dark_miner.demo.gallery import STYLES

        return [s for s in STYLES if s != self.name]

    def other_objects(self) -> Tensor:
        """Indices of the objects that :meth:`others` names, in order."""
        from dark_miner.demo.gallery import OBJECTS

        return torch.tensor([i for i, o in enumerate(OBJECTS) if o != self.name])

    def found(self, judgement: tuple[Tensor, Tensor]) -> Tensor:
        """The judge's probability of the target in each picture ``[B]``, and whether it wins."""
        return judgement[0 if self.kind == STYLE else 1]

    @property
    def index(self) -> int:
        """Its number among the judge's answers."""
        from dark_miner.demo.gallery import OBJECTS, STYLES

        return (STYLES if self.kind == STYLE else OBJECTS).index(self.name)

    def drawings(self, count: int, seed: int) -> tuple[Tensor, list[str]]:
        """Real drawings that show it ``[n, H, W, 3]``, and each one's companion."""
        from dark_miner.demo.gallery import STYLES, drawings

        if self.kind == STYLE:
            images, _, things = drawings(self.name, count, seed)
            return images, things
        each = -(-count // len(STYLES))
        parts = [drawings(s, each, seed, objects=[self.name])[0] for s in STYLES]
        names = [s for s in STYLES for _ in range(each)]
        order = [i * each + j for j in range(each) for i in range(len(STYLES))][:count]
        return torch.cat(parts)[order], [names[i] for i in order]


def spelled_out(prompts: Iterable[str]) -> tuple[str, ...]:
    """Prompts, those with a ``*`` once for each object that may be named; empty ones left out."""
    words = Target.choices(OBJECT)
    each = ([p.replace("*", w) for w in words] if "*" in p else [p] for p in prompts if p)
    return tuple(p for group in each for p in group)


def add_target_options(parser: argparse.ArgumentParser) -> None:
    """``--style`` and ``--object``, of which :func:`chosen_target` makes a target."""
    parser.add_argument("--style", default="ink")
    parser.add_argument("--object", default="", help="an object instead of a style")


def chosen_target(parser: argparse.ArgumentParser, args: argparse.Namespace) -> Target:
    """``--style`` or ``--object`` as a target; a wrong word ends the program."""
    kind = OBJECT if args.object else STYLE
    try:
        return Target(args.object or args.style, kind)
    except ValueError as error:
        parser.error(f"--{kind} {error}")
