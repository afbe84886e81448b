"""Captions of the training: mostly the plain sentence, others so that each word counts."""

import random
from collections.abc import Sequence

import torch

from .gallery import OBJECTS, STYLES
from .tokenizer import FILLERS, FOLDER, MAX_LENGTH


def caption(rng: random.Random, style: int, thing: int) -> str:
    """A random caption of a picture; an index of -1 leaves that word out."""

    def filler() -> str:
        return rng.choice(FILLERS) + " " if rng.random() < 0.2 else ""

    kind = rng.random()
    word = f"{STYLES[style]} " if style >= 0 else ""
    if thing < 0:
        return f"a {filler()}{word}drawing" if kind < 0.8 else f"{word}drawing"
    name = OBJECTS[thing]
    if kind < 0.7:
        return f"a {filler()}{word}drawing of a {filler()}{name}"
    if kind < 0.8:
        return f"{word}drawing of a {name}"
    if kind < 0.9:
        return f"a {word}picture of a {name}"
    if kind < 0.95:
        return f"a {word}{name}"
    return f"a drawing of a {name} by {STYLES[style]}" if style >= 0 else f"a picture of a {name}"


class Tokens:
    """Texts -> token numbers [B, 32], padded with the end token as the host pads them."""

    def __init__(self) -> None:
        from transformers import CLIPTokenizer

        self.tokenizer = CLIPTokenizer.from_pretrained(str(FOLDER))

    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        rows = [self.tokenizer(text)["input_ids"] for text in texts]
        end = self.tokenizer.eos_token_id
        return torch.tensor([row + [end] * (MAX_LENGTH - len(row)) for row in rows])
