"""The pictures that a chase trains on, and under which embedding each is seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..config import ChaseConfig
from ..errors import DarkMinerError
from ..model.adapter import Adapters
from ..model.interface import DiffusionModel, TextSpace
from ..model.sampling import pictures_each
from ..types import EmbeddingPool, ImagePool
from .attackers import Place
from .teacher import Draws, draw

_SUBJECTS = 0.75  # share of a token's pictures that show a subject its prompt names


@dataclass(frozen=True)
class Row:
    """One picture of a step: under which embedding the student sees it, and what it counts."""

    draws: Draws
    index: int
    place: Place | None  # None: the concept's own context
    weight: float = 1.0


class Ground:
    """The concept's pictures, those with a subject that a prompt names and the pool's; and beside
    them (``asides``) pictures of the anchors, made by the original model.
    """

    def __init__(
        self,
        model: DiffusionModel,
        adapters: Adapters,
        embeddings: EmbeddingPool,
        pool: ImagePool,
        anchor: Tensor,
        template: str,
        config: ChaseConfig,
        gen: torch.Generator,
    ):
        texts = [e for e in embeddings.entries if e.source != "mined"]
        if not texts:
            raise DarkMinerError(
                "The chase needs the concept's own contexts to begin with: make them with "
                "DarkMinerConceptContexts (or set text_start)."
            )
        alone = [e for e in texts if e.source == pool.prompt] or texts[:1]
        subjects = [e for e in texts if e.anchor is not None and e.latents is not None]
        self._entries = (*alone[:1], *subjects)
        self.concepts = [e.context for e in self._entries]
        self.anchors = [anchor[0] if e.anchor is None else e.anchor for e in self._entries]
        self.anchors = [a.detach().float().cpu() for a in self.anchors]
        plain = template if "*" in template else "*"
        self.prompts = [plain, *(e.template or plain for e in subjects)]

        def noised(pictures: Tensor, owner: Tensor) -> Draws:
            return draw(
                model, adapters, pictures, owner, self.anchors, self.concepts, config.eta, gen
            )

        which = torch.randint(len(pool), (config.asked,), generator=gen)
        self.alone = noised(pool.latents[which], torch.zeros(config.asked, dtype=torch.int64))
        self.subjects = self.alone
        if subjects:
            owner = torch.randint(1, len(self._entries), (config.asked,), generator=gen)
            pictures = [self._picture(int(i), gen) for i in owner]
            self.subjects = noised(torch.stack(pictures), owner)
        self.asides = self.alone
        if config.asides:
            with adapters.off():
                made = pictures_each(model, self.anchors, config.aside_images, gen)
            owner = torch.randint(len(made), (config.asked,), generator=gen)
            which = torch.randint(made.shape[1], (config.asked,), generator=gen)
            concepts = self.concepts if config.aside_eta else None
            self.asides = draw(
                model, adapters, made[owner, which], owner, self.anchors, concepts,
                config.aside_eta, gen,
            )  # fmt: skip

    def _picture(self, entry: int, gen: torch.Generator) -> Tensor:
        latents = self._entries[entry].latents
        assert latents is not None
        return latents[int(torch.randint(len(latents), (), generator=gen))]

    def rows(
        self, place: Place | None, count: int, gen: torch.Generator, weight: float = 1.0
    ) -> list[Row]:
        """``count`` pictures for an embedding; free contexts can name no subject."""
        spoken = place is None or place.spoken
        named = spoken and bool(torch.rand((), generator=gen) < _SUBJECTS)
        draws = self.subjects if named else self.alone
        chosen = torch.randint(len(draws), (count,), generator=gen).tolist()
        return [Row(draws, i, place, weight) for i in chosen]

    def aside(self, place: Place, gen: torch.Generator) -> Row:
        """One picture of an anchor, under an attacker."""
        return Row(self.asides, int(torch.randint(len(self.asides), (), generator=gen)), place)

    def contexts(self, rows: Sequence[Row], text: TextSpace | None) -> list[Tensor]:
        """The context ``[1, L, D]`` of every row; all tokens pass the text encoder together."""
        spoken = [r for r in rows if r.place is not None and r.place.spoken]
        said = iter(())
        if spoken:
            assert text is not None
            prompts = [self.prompts[int(r.draws.owner[r.index])] for r in spoken]
            vectors = torch.cat([r.place.value for r in spoken if r.place is not None])
            said = iter(text.encoder(prompts, vectors).split(1))
        found = []
        for row in rows:
            if row.place is None:
                found.append(self.concepts[int(row.draws.owner[row.index])][None])
            else:
                found.append(next(said) if row.place.spoken else row.place.value)
        return found
