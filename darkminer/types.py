"""The values that flow between the stages.

Everything here is plain data: a stage takes values and returns values, so that any of them can be
written to disk, read back and continued.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from .finite import require_finite


@dataclass(frozen=True)
class ImagePool:
    """Pictures of the concept (P_I).

    Attributes:
        latents: ``[N, C, h, w]`` float32 CPU, in model space (after the host's latent scaling).
        images: ``[N, H, W, 3]`` uint8 CPU.
        concept: what is to be erased, in words.
        prompt: the prompt they were made from, empty for collected pictures.
        template: the prompt's template, ``*`` in the concept's place; empty where nobody said one.
        seed: the seed they were made with.
        fingerprint: the model that made or encoded them, see
            :class:`~.model.interface.DiffusionModel`.
        family, latent_format: that model's; empty where nobody knows.
    """

    latents: Tensor
    images: Tensor
    concept: str
    prompt: str
    seed: int
    fingerprint: str
    family: str = ""
    latent_format: str = ""
    template: str = ""

    def __post_init__(self) -> None:
        require_finite("image pool", self.latents)

    def __len__(self) -> int:
        return self.latents.shape[0]

    @property
    def latent_size(self) -> tuple[int, int]:
        """Height and width of the latents."""
        return self.latents.shape[-2], self.latents.shape[-1]

    def floats(self, indices: Iterable[int]) -> Tensor:
        """Images ``[k, H, W, 3]`` in 0..1 at ``indices``."""
        return self.images[list(indices)].float() / 255.0

    def first(self, count: int) -> Tensor:
        """The first ``count`` images (or all there are) in 0..1."""
        return self.floats(range(min(len(self), count)))


Kind = Literal["text", "soft", "token"]


@dataclass(frozen=True)
class MinedEmbedding:
    """One embedding c that was found to produce the concept.

    Attributes:
        context: ``[L, D]`` float32 CPU.
        round: the round that mined it; 0 for the concept's own text contexts.
        indices: its k images in the pool (empty for text contexts).
        kind: ``"text"``, one of the concept's own prompts; ``"soft"``, a soft prompt, that is a
            free context; ``"token"``, a prompt with an adversarial token.
        prompt: the prompt of a text.
        template: that prompt with ``*`` in the concept's place; empty where there is none.
        anchor: what to show instead, ``[L0, D]``, when not the run's anchor.
        score: s(c) once verified, else None.
        latents: what the original model made from it, ``[n, C, h, w]`` float32 CPU, once made.
    """

    context: Tensor
    round: int
    indices: tuple[int, ...] = ()
    kind: Kind = "soft"
    prompt: str = ""
    anchor: Tensor | None = None
    score: float | None = None
    latents: Tensor | None = None
    template: str = ""

    def __post_init__(self) -> None:
        require_finite("embedding", self.context, self.anchor, self.latents)

    def picture(self, gen: torch.Generator) -> Tensor:
        """One of its latents ``[C, h, w]``, drawn from ``gen``."""
        assert self.latents is not None
        return self.latents[int(torch.randint(len(self.latents), (), generator=gen))]


@dataclass(frozen=True)
class RoundRecord:
    """What a round did, for reports and metadata."""

    round: int
    scores: tuple[float, ...]
    threshold: float
    verified: bool


@dataclass(frozen=True)
class EmbeddingPool:
    """All embeddings so far (P_E) and the history of the rounds.

    Attributes:
        entries: in the order they were found.
        round: number of rounds that have mined; stage nodes take the round's number from here.
        history: one record per verification.
        concept: the concept's words.
    """

    entries: tuple[MinedEmbedding, ...] = ()
    round: int = 0
    history: tuple[RoundRecord, ...] = ()
    concept: str = ""

    def current(self) -> tuple[MinedEmbedding, ...]:
        """Entries of the newest round."""
        return tuple(e for e in self.entries if e.round == self.round)

    def earlier(self) -> tuple[MinedEmbedding, ...]:
        """Entries of all rounds before the newest."""
        return tuple(e for e in self.entries if e.round != self.round)

    def text_tokens(self) -> Tensor | None:
        """All tokens ``[n, D]`` of the concept's own text contexts, or None if there are none."""
        texts = [e.context for e in self.entries if e.kind == "text"]
        return torch.cat(texts) if texts else None

    def opened(self, mined: Iterable[MinedEmbedding]) -> EmbeddingPool:
        """The pool with the next round's embeddings added."""
        return replace(self, entries=(*self.entries, *mined), round=self.round + 1)

    def before(self, round_: int) -> EmbeddingPool:
        """The pool as it was before a round mined."""
        entries = tuple(e for e in self.entries if e.round < round_)
        history = tuple(r for r in self.history if r.round < round_)
        return replace(self, entries=entries, round=round_ - 1, history=history)

    def joined(self, more: Iterable[MinedEmbedding]) -> EmbeddingPool:
        """The pool with more embeddings of the newest round."""
        return replace(self, entries=(*self.entries, *more))

    def judged(self, verdict: Verdict) -> EmbeddingPool:
        """The pool with the newest round's scores filled in and what failed dropped.

        An erasure that goes on looks once more at the round that its last verification has seen:
        the newer record takes the older one's place.
        """
        scored = [replace(e, score=s) for e, s in zip(self.current(), verdict.scores, strict=True)]
        kept = [e for e in scored if e.score is not None and e.score > verdict.threshold]
        record = RoundRecord(self.round, verdict.scores, verdict.threshold, verdict.verified)
        before = (r for r in self.history if r.round < self.round)
        return replace(self, entries=(*self.earlier(), *kept), history=(*before, record))

    def looked_at(self, judged: EmbeddingPool) -> EmbeddingPool:
        """The pool as it is, with the record of a verification that no circumventing followed."""
        return replace(self, history=judged.history)


@dataclass(frozen=True)
class Verdict:
    """What verification says of one round's embeddings (equation 6).

    Attributes:
        scores: s(c) of each embedding.
        threshold: tau.
        verified: whether any score exceeds the threshold, i.e. whether to go on.
        target: images ``[m, H, W, 3]`` made from the embeddings (first draw), 0..1.
        reference: images ``[m, H, W, 3]`` made from the reference prompt on the same noise.
    """

    scores: tuple[float, ...]
    threshold: float
    verified: bool
    target: Tensor
    reference: Tensor

    @property
    def score(self) -> float:
        """The highest score."""
        return max(self.scores)


@dataclass(frozen=True)
class RetainSet:
    """Contexts whose pictures must not change, with pictures of each by the original model.

    Attributes:
        contexts: N contexts ``[L_i, D]`` float32 CPU; their lengths may differ.
        latents: ``[N, n, C, h, w]`` float32 CPU.
        prompts: N prompts.
    """

    contexts: Sequence[Tensor]
    latents: Tensor
    prompts: tuple[str, ...]

    def __post_init__(self) -> None:
        require_finite("retain set", *self.contexts, self.latents)

    def __len__(self) -> int:
        return len(self.contexts)


@dataclass(frozen=True)
class StepReport:
    """Progress of a stage; the host decides what it means (bar, preview, interrupt).

    Attributes:
        stage: ``"pool"``, ``"contexts"``, ``"bank"``, ``"keep"``, ``"mine"``, ``"verify"``,
            ``"circumvent"``, ``"chase"``, ``"repair"``, ``"report"``, ``"attack"`` or the name of
            one attack.
        round: number of the round.
        step: finished steps within the stage, or within its part.
        steps: steps that will be taken; 0: nothing is done now, a run that goes on tells of a
            verdict that it had before.
        loss: the newest loss that has been read back, if any.
        images: pictures ``[B, H, W, 3]`` in 0..1, where the stage just made some.
        part: what else the stage does in steps of their own, e.g. ``"pictures"`` before it trains;
            empty: what the stage is named after.
        losses: the loss of each step from the first on, as far as they have been read back.
        verdict: what a verification has just said.
    """

    stage: str
    round: int
    step: int
    steps: int
    loss: float | None = None
    images: Tensor | None = field(default=None, repr=False)
    part: str = ""
    losses: Sequence[float] = field(default=(), repr=False)
    verdict: Verdict | None = field(default=None, repr=False)


Report = Callable[[StepReport], None]


def silent(_: StepReport) -> None:
    """A :data:`Report` that does nothing."""


class Tally:
    """Counts what a stage makes piece by piece, and reports how far it is.

    Args:
        stage, round_, part: what the reports call it.
        steps: how many pieces there will be.
    """

    def __init__(self, report: Report, stage: str, round_: int, steps: int, part: str = ""):
        self._report, self._stage, self._round, self._part = report, stage, round_, part
        self._steps, self._made = steps, 0

    def __call__(
        self, count: int, images: Tensor | None = None, verdict: Verdict | None = None
    ) -> None:
        """``count`` more are made; ``images`` are some of them, see :class:`StepReport`."""
        self._made += count
        self._report(
            StepReport(
                self._stage, self._round, self._made, self._steps, images=images, part=self._part,
                verdict=verdict,
            )
        )  # fmt: skip
