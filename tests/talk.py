"""A text encoder of tokens, as attacks use one: a table, and a layer that mixes a text's tokens."""

import torch
from torch import Tensor, nn

from . import toy

# What ends in "~" is joined with the next token: "in~", "k" is pasted as "ink".
TOKENS = ("a", "drawing", "of", "cat", "dog", "picture", "in~", "k", "ink", "red", "big", "dot")
LENGTH = 8


class Talk(nn.Module):
    """A :class:`~dark_miner.darkminer.attacks.speech.Speech` of twelve tokens."""

    def __init__(self, length: int = LENGTH):
        super().__init__()
        gen = torch.Generator().manual_seed(4)
        self.table = torch.randn(len(TOKENS), toy.WIDTH, generator=gen)
        self.place = torch.randn(length, toy.WIDTH, generator=gen) * 0.3
        self.mix = torch.randn(toy.WIDTH, toy.WIDTH, generator=gen) * 0.4
        self.allowed = torch.arange(1, len(TOKENS))
        self.length = length

    def forward(self, rows: Tensor) -> Tensor:
        x = rows + self.place[: rows.shape[1]]
        x = torch.cat([x, self.place[rows.shape[1] :].expand(len(rows), -1, -1)], dim=1)
        return torch.tanh((x + x.mean(1, keepdim=True)) @ self.mix)

    def ids(self, text):
        return [TOKENS.index(w) for w in text.split() if w in TOKENS][: self.length]

    def text(self, ids):
        return " ".join(TOKENS[i] for i in ids).replace("~ ", "").replace("~", "")

    def says(self, text):
        with torch.no_grad():
            return self(self.table[self.ids(text)][None])[0]
