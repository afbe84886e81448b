"""The noisy pictures that a chase trains on, and the teacher's answers to them, asked ahead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..model.adapter import Adapters
from ..model.interface import DiffusionModel, TextSpace
from ..model.sampling import pictures_each
from ..types import EmbeddingPool, ImagePool, MinedEmbedding, Report, Tally, silent
from .attackers import Adversary
from .engine import ask_teacher, noised
from .losses import teacher_target
from .text_start import concept_texts

_SUBJECTS = 0.75  # share of a token's pictures that show a subject its prompt names


@dataclass(frozen=True)
class TeacherDraws:
    """N noisy pictures and what is known of them, all on the CPU.

    Attributes:
        noisy: ``[N, C, h, w]``.
        timestep: what the network is told, ``[N]``.
        truth: what the network should predict for the picture itself, ``[N, C, h, w]``.
        answer: what the student should predict, ``[N, C, h, w]``.
        direction: what the concept adds to the teacher's prediction, e0(c) - e0(c0),
            ``[N, C, h, w]``; None where there is no concept.
        owner: which context each picture belongs to, ``[N]`` int64.
    """

    noisy: Tensor
    timestep: Tensor
    truth: Tensor
    answer: Tensor
    owner: Tensor
    direction: Tensor | None = None

    def __len__(self) -> int:
        return len(self.owner)


@dataclass(frozen=True)
class PictureRow:
    """One picture of a step: under which context the student sees it, and what it counts."""

    pictures: TeacherDraws
    index: int
    adversary: Adversary | None  # None: the concept's own context
    weight: float = 1.0


class ChasePictures:
    """Pictures of the concept, alone (the pool's) and with a subject that a prompt names; and
    pictures of the anchors, made by the original model.

    Args:
        embeddings: hold the concept's own contexts with their pictures.
        template: the prompt's template, ``*`` in the concept's place.
        asked: noisy pictures of each kind.
        eta: how far targets on the concept's pictures lie past the anchor; concept_eta: where its
            own contexts are asked for.
        anchor_images: pictures of each anchor, 0 for none; anchor_eta: the same for their targets.

    Raises:
        DarkMinerError: if no context of the concept is there.
    """

    def __init__(
        self,
        model: DiffusionModel,
        adapters: Adapters,
        embeddings: EmbeddingPool,
        pool: ImagePool,
        anchor: Tensor,
        template: str,
        *,
        asked: int,
        eta: float,
        concept_eta: float,
        anchor_images: int,
        anchor_eta: float,
        gen: torch.Generator,
        report: Report = silent,
    ):
        self._model, self._adapters, self._report = model, adapters, report
        self._further = concept_eta - eta
        self._round = embeddings.round
        self._entries = _concept_contexts(embeddings, pool.prompt)
        subjects = self._entries[1:]
        self.concepts = [e.context for e in self._entries]
        self.anchors = [anchor[0] if e.anchor is None else e.anchor for e in self._entries]
        self.anchors = [a.detach().float().cpu() for a in self.anchors]
        plain = template if "*" in template else "*"
        self.prompts = [plain, *(e.template or plain for e in subjects)]
        which = torch.randint(len(pool), (asked,), generator=gen)
        alone = torch.zeros(asked, dtype=torch.int64)
        made = self._tally("concept", asked * (4 if subjects else 2))
        self.alone = self._draw(pool.latents[which], alone, self.concepts, eta, gen, made)
        self.subjects = self.alone
        if subjects:
            owner = torch.randint(1, len(self._entries), (asked,), generator=gen)
            pictures = torch.stack([self._entries[int(i)].picture(gen) for i in owner])
            self.subjects = self._draw(pictures, owner, self.concepts, eta, gen, made)
        self.of_anchors = self.alone
        if anchor_images:
            made = self._tally("anchors", len(self.anchors) * anchor_images)
            with adapters.off():
                latents = pictures_each(model, self.anchors, anchor_images, gen, made)
            owner = torch.randint(len(latents), (asked,), generator=gen)
            which = torch.randint(latents.shape[1], (asked,), generator=gen)
            concepts = self.concepts if anchor_eta else None
            made = self._tally("anchor answers", asked * (2 if anchor_eta else 1))
            shown = latents[owner, which]
            self.of_anchors = self._draw(shown, owner, concepts, anchor_eta, gen, made)

    def _tally(self, part: str, steps: int) -> Tally:
        return Tally(self._report, "chase", self._round, steps, part)

    def _draw(
        self,
        pictures: Tensor,
        owner: Tensor,
        concepts: Sequence[Tensor] | None,
        eta: float,
        gen: torch.Generator,
        tally: Tally,
    ) -> TeacherDraws:
        """Noise every picture once and ask the teacher.

        Args:
            pictures: clean latents ``[N, C, h, w]``; owner: the context of each, ``[N]``.
            concepts: contexts to lead away from; None: targets are the anchor's answers.
            tally: counts the answers.
        """
        made = noised(self._model, pictures, gen)
        anchor = self._ask(made.noisy, made.timestep, self.anchors, owner, tally)
        if concepts is None:
            return TeacherDraws(made.noisy, made.timestep, made.truth, anchor, owner)
        concept = self._ask(made.noisy, made.timestep, concepts, owner, tally)
        answer = teacher_target(anchor, concept, eta)
        return TeacherDraws(
            made.noisy, made.timestep, made.truth, answer, owner, concept - anchor
        )  # fmt: skip

    def _ask(
        self,
        noisy: Tensor,
        timestep: Tensor,
        contexts: Sequence[Tensor],
        owner: Tensor,
        tally: Tally,
    ) -> Tensor:
        asked = [contexts[i] for i in owner.tolist()]
        return ask_teacher(self._model, self._adapters, noisy, timestep, asked, made=tally)

    def unrelated(
        self, contexts: Sequence[Tensor], eta: float, gen: torch.Generator
    ) -> TeacherDraws:
        """The concept's pictures once more, each under a context that has nothing to do with it.

        What the student should say there is what the teacher says, less ``eta`` times what the
        concept adds: on pictures of the concept, no prompt whatever should lead further into it.

        Args:
            contexts: contexts ``[L_i, D]``; one is drawn for each picture.
        """
        seen = self.subjects
        assert seen.direction is not None
        owner = torch.randint(len(contexts), (len(seen),), generator=gen)
        tally = self._tally("unrelated", len(seen))
        plain = self._ask(seen.noisy, seen.timestep, contexts, owner, tally)
        return replace(seen, answer=plain - eta * seen.direction, owner=owner, direction=None)

    def rows(
        self, adversary: Adversary | None, count: int, gen: torch.Generator, weight: float = 1.0
    ) -> list[PictureRow]:
        """``count`` pictures of the concept under a context; a soft prompt can name no subject."""
        speaks = adversary is None or adversary.token
        named = speaks and bool(torch.rand((), generator=gen) < _SUBJECTS)
        pictures = self.subjects if named else self.alone
        chosen = torch.randint(len(pictures), (count,), generator=gen).tolist()
        return [PictureRow(pictures, i, adversary, weight) for i in chosen]

    def answer(self, row: PictureRow) -> Tensor:
        """What the student should say on a row's picture, ``[C, h, w]``."""
        answer, direction = row.pictures.answer[row.index], row.pictures.direction
        if row.adversary is not None or direction is None or not self._further:
            return answer
        return answer - self._further * direction[row.index]

    def row_of_anchor(self, adversary: Adversary, gen: torch.Generator) -> PictureRow:
        """One picture of an anchor, under an attacker."""
        index = int(torch.randint(len(self.of_anchors), (), generator=gen))
        return PictureRow(self.of_anchors, index, adversary)

    def contexts(self, rows: Sequence[PictureRow], text: TextSpace | None) -> list[Tensor]:
        """The context ``[L, D]`` of every row; all tokens pass the text encoder together."""
        tokens = [r for r in rows if r.adversary is not None and r.adversary.token]
        encoded = iter(())
        if tokens:
            assert text is not None
            prompts = [self.prompts[int(r.pictures.owner[r.index])] for r in tokens]
            vectors = torch.cat([r.adversary.value for r in tokens if r.adversary is not None])
            encoded = iter(text.encoder(prompts, vectors))
        found = []
        for row in rows:
            if row.adversary is None:
                found.append(self.concepts[int(row.pictures.owner[row.index])])
            else:
                found.append(next(encoded) if row.adversary.token else row.adversary.value[0])
        return found


def _concept_contexts(embeddings: EmbeddingPool, prompt: str) -> tuple[MinedEmbedding, ...]:
    """The concept's own contexts: first the pool's prompt, then those with a subject."""
    texts = concept_texts(embeddings, "chase")
    alone = [e for e in texts if e.prompt == prompt] or texts[:1]
    subjects = [e for e in texts if e.anchor is not None and e.latents is not None]
    return (*alone[:1], *subjects)
