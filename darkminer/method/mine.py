"""Mining: find the embeddings that most likely produce the concept (section 3.2.1, equation 5)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor

from ..finite import TEXT_ENCODER, finite, in_stage
from ..model.interface import DiffusionModel, TextSpace
from ..model.merged import with_merged_adapters
from ..rng import generator
from ..settings import setting
from ..standing import UNKEPT, Checkpoints
from ..types import ImagePool, MinedEmbedding, Report, silent
from .image_pool import check_pool
from .optim import (
    LR,
    LR_DROP,
    LR_LATE,
    TrainingConfig,
    at_size,
    make_optimizer,
    set_lr,
)
from .search import Drawn, Search, with_noise
from .text_start import with_word, without_concept

Init = Literal["normal", "anchor"]
INITS: tuple[Init, ...] = get_args(Init)


@dataclass(frozen=True)
class MineConfig(TrainingConfig):
    """Mining (equation 5)."""

    lr: float = setting(0.1, LR, above=0)
    lr_late: float = setting(0.01, LR_LATE, above=0)
    lr_drop: int = setting(500, LR_DROP, low=0)
    clip: float = setting(
        10.0, "gradient norm limit of each embedding, for latents of 16384 numbers", above=0
    )
    length: int = setting(32, "tokens L of the embedding", low=1)
    k: int = setting(3, "pool images one embedding is mined on", low=1)
    batch: int = setting(3, "of these k images per step", low=1)
    count: int = setting(1, "embeddings mined at once, each on its own k images", low=1)
    init: Init = setting(
        "normal", "start values: normal draws with the anchor tokens' mean and standard deviation; "
        "anchor starts from anchor tokens, repeated or cut to L", choices=INITS,
    )  # fmt: skip
    reachable: bool = setting(
        False, "whether tokens are scaled down after each step to the largest norm among the "
        "anchor's and the concept's own"
    )  # fmt: skip
    tokens: int = setting(
        0, "adversarial tokens mined besides, through the text encoder: what an attacker with text "
        "can reach", low=0,
    )  # fmt: skip
    token_words: int = setting(
        4, "subjects each such token is joined with when it is circumvented", low=0
    )
    token_lr: float = setting(0.01, "Adam's learning rate of these tokens", above=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.batch <= self.k, "batch", f"at most k ({self.k})")


@dataclass(frozen=True)
class MineResult:
    """What mining found.

    Attributes:
        embeddings: the mined contexts, then those of the mined tokens.
        losses: mean loss of the contexts at each step.
        token_losses: mean loss of the tokens at each step; empty where none were mined.
    """

    embeddings: tuple[MinedEmbedding, ...]
    losses: list[float]
    token_losses: list[float] = field(default_factory=list)


@in_stage("mine")
@with_merged_adapters
def mine(
    model: DiffusionModel,
    pool: ImagePool,
    anchor: Tensor,
    config: MineConfig,
    *,
    seed: int,
    round_: int,
    concept_contexts: Tensor | None = None,
    text: TextSpace | None = None,
    checkpoints: Checkpoints = UNKEPT,
    report: Report = silent,
) -> MineResult:
    """Mine ``config.count`` embeddings at once, each on its own k pool images.

    Network and adapters are frozen as they stand; only the embeddings move.

    Args:
        anchor: context of the anchor prompt, ``[1, L0, D]``; gives the start values their scale.
        round_: number of this round, from 1.
        concept_contexts: tokens ``[n, D]`` whose norms count as reachable besides the anchor's.
        text: where to mine ``config.tokens`` tokens through the text encoder; None mines none.
        checkpoints: where it goes on from; a whole run mines tokens by :func:`mine_tokens`.

    Raises:
        DarkMinerError: if the pool does not fit the settings or the model.
        DivergedError: if a loss is not finite, or ended far above its start.
        OutOfTime: if the run's time is up.
    """
    check_pool(pool, config.k, model)
    config = at_size(config, model.latent_shape)
    gen = generator(seed, round_, "mine")
    m, k = config.count, config.k
    indices = torch.stack([torch.randperm(len(pool), generator=gen)[:k] for _ in range(m)])
    images = pool.latents[indices].to(model.device)  # [m, k, C, h, w]
    context = _start(anchor, config, gen).to(model.device).requires_grad_(True)
    limit = reachable_norm(anchor, concept_contexts) if config.reachable else None

    optimizer = make_optimizer(config, [context])

    def move(step: int) -> None:
        set_lr(optimizer, config, step)
        _clip_each(context, config.clip)
        optimizer.step()
        if limit is not None:
            project(context, limit)

    search = Search(
        model, context, optimizer, contexts=lambda: context.repeat_interleave(config.batch, 0),
        draw=lambda: _draw(model, images, config, gen), gen=gen, move=move, round_=round_,
    )  # fmt: skip
    losses = search.run(config.steps, report, checkpoints)
    found = context.detach().float().cpu()
    embeddings = tuple(
        MinedEmbedding(found[i].clone(), round_, tuple(indices[i].tolist())) for i in range(m)
    )
    if text is None or not config.tokens:
        return MineResult(embeddings, losses)
    spoken = mine_tokens(model, pool, text, config, seed=seed, round_=round_, report=report)
    return MineResult(embeddings + spoken.embeddings, losses, spoken.token_losses)


@with_merged_adapters
def mine_tokens(
    model: DiffusionModel,
    pool: ImagePool,
    text: TextSpace,
    config: MineConfig,
    *,
    seed: int,
    round_: int,
    checkpoints: Checkpoints = UNKEPT,
    report: Report = silent,
) -> MineResult:
    """Mine tokens at the text encoder's input, each on its own k pool images (equation 5).

    A token starts from a word of the vocabulary. It counts alone and joined with others; each
    such prompt without the token is the anchor of its context.
    """
    gen = generator(seed, round_, "mine.tokens")
    m, k = config.tokens, config.k
    indices = torch.stack([torch.randperm(len(pool), generator=gen)[:k] for _ in range(m)])
    images = pool.latents[indices].flatten(0, 1).to(model.device)  # [m * k, C, h, w]
    repeats = [text.template] * (m * k)
    words = torch.randint(len(text.words), (m,), generator=gen).tolist()
    starts = [text.encoder.embedding(text.words[i]) for i in words]
    tokens = torch.stack(starts).requires_grad_(True)
    optimizer = torch.optim.Adam([tokens], lr=config.token_lr)

    def contexts() -> Tensor:
        return text.encoder(repeats, tokens.repeat_interleave(k, 0)).to(images.device)

    search = Search(
        model, tokens, optimizer, contexts=contexts,
        draw=lambda: with_noise(model, images, gen), gen=gen, move=lambda _: optimizer.step(),
        round_=round_, part="tokens",
    )  # fmt: skip
    losses = search.run(config.steps, report, checkpoints)
    found = [_spoken(text, t, tuple(i), round_, config, gen) for t, i in
             zip(tokens.detach(), indices.tolist(), strict=True)]  # fmt: skip
    return MineResult(tuple(e for group in found for e in group), [], losses)


@torch.no_grad()
def _spoken(
    text: TextSpace,
    token: Tensor,
    indices: tuple[int, ...],
    round_: int,
    config: MineConfig,
    gen: torch.Generator,
) -> list[MinedEmbedding]:
    """The contexts of one token, alone and with subjects, each with its anchor."""
    order = torch.randperm(len(text.words), generator=gen)[: config.token_words].tolist()
    prompts = [text.template, *(with_word(text.template, text.words[i]) for i in order)]
    contexts = text.encoder(prompts, token[None]).float().cpu()
    finite(contexts, TEXT_ENCODER, "contexts")
    anchors = text.encoder.encode([without_concept(p) for p in prompts]).float().cpu()
    return [
        MinedEmbedding(c.clone(), round_, indices, kind="token", anchor=a.clone())
        for c, a in zip(contexts, anchors, strict=True)
    ]


def _draw(model: DiffusionModel, images: Tensor, config: MineConfig, gen: torch.Generator) -> Drawn:
    """A fresh batch of each embedding's own pictures ``[m, k, C, h, w]``."""
    m, k = images.shape[:2]
    b = config.batch
    if b < k:
        chosen = torch.stack([torch.randperm(k, generator=gen)[:b] for _ in range(m)])
    else:
        chosen = torch.arange(k).expand(m, k)
    x = images[torch.arange(m)[:, None], chosen].flatten(0, 1)  # [m * b, C, h, w]
    return with_noise(model, x, gen)


def _start(anchor: Tensor, config: MineConfig, gen: torch.Generator) -> Tensor:
    """Start values ``[m, L, D]`` float32 CPU; the paper leaves them open."""
    tokens = anchor[0].detach().float().cpu()
    shape = (config.count, config.length, tokens.shape[-1])
    if config.init == "anchor":
        repeats = -(-config.length // len(tokens))
        return tokens.repeat(repeats, 1)[: config.length].expand(shape).clone()
    return torch.randn(shape, generator=gen) * tokens.std() + tokens.mean()


def _clip_each(context: Tensor, limit: float) -> None:
    """Scale each embedding's gradient ``[m, L, D]`` down to norm ``limit``."""
    grad = context.grad
    assert grad is not None
    norm = grad.flatten(1).norm(dim=1).clamp(min=1e-12)
    grad.mul_((limit / norm).clamp(max=1.0)[:, None, None])


def reachable_norm(anchor: Tensor, concept_contexts: Tensor | None) -> float:
    """The largest norm among the tokens of ``anchor`` and of ``concept_contexts`` ``[n, D]``."""
    norms = anchor.detach().float().norm(dim=-1).max()
    if concept_contexts is not None and len(concept_contexts):
        norms = torch.maximum(norms.cpu(), concept_contexts.float().norm(dim=-1).max().cpu())
    return float(norms)


@torch.no_grad()
def project(context: Tensor, limit: float) -> None:
    """Scale every token of ``context`` ``[..., D]`` down, in place, to at most norm ``limit``."""
    norm = context.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    context.mul_((limit / norm).clamp(max=1.0))
