"""Chasing: mining while circumventing, in the same steps.

A round of its own for every few embeddings is dear. Here attackers keep descending the mining loss
(equation 5) while the adapters circumvent them where they stand (equation 7), so that every step
meets embeddings which have just adapted to the last one: free adversarial training (Shafahi et al.,
2019). Attackers are free contexts and, through the text encoder, tokens under prompts with other
words. Pictures are made before the first step, and the frozen teacher is asked ahead of all steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..config import ChaseConfig, CircumventConfig
from ..finite import in_stage
from ..model.adapter import Adapters
from ..model.exact import context_layers, keep_exactly
from ..model.interface import DiffusionModel, TextSpace
from ..model.sampling import alike
from ..rng import generator
from ..types import EmbeddingPool, ImagePool, KeepBank, MinedEmbedding, Report, StepReport, silent
from .attackers import Attacker, Place, line_up
from .bank import DriftSampler
from .circumvent import CircumventResult, keep_bank, with_pictures
from .ground import Ground, Row
from .image_pool import check_pool
from .losses import Query, predict, repeated, squared_error
from .mine import reachable_norm
from .optim import LossTrace, make_optimizer, set_lr
from .teacher import Draws, bystanders, draw


@in_stage("chase")
def chase(
    model: DiffusionModel,
    adapters: Adapters,
    embeddings: EmbeddingPool,
    pool: ImagePool,
    anchor: Tensor,
    config: ChaseConfig,
    pictures: CircumventConfig,
    *,
    seed: int,
    text: TextSpace | None = None,
    bank: KeepBank | None = None,
    keep: Sequence[Tensor] = (),
    kept: dict[int, KeepBank] | None = None,
    report: Report = silent,
) -> CircumventResult:
    """Train ``adapters`` in place against embeddings that keep mining.

    Args:
        embeddings: holds the concept's own contexts, with or without pictures.
        anchor: context of c0, ``[1, L0, D]``.
        pictures: how many pictures the original model makes of a context that has none, and what
            the user's keep prompts weigh, and whether they are kept exactly.
        text: where tokens speak; None leaves the tokens out.
        bank, keep, kept: contexts to keep, as in :func:`~.circumvent.circumvent`.

    Returns:
        the pool with every attacker's last place added, and the erasing loss of each step.

    Raises:
        DarkMinerError: if the pool does not fit, or no context of the concept is there.
        DivergedError: if a loss is not finite.
    """
    check_pool(pool, 1, model)
    if keep and pictures.keep_exact > 0:
        keep_exactly(model, adapters, keep, pictures.keep_exact)
    embeddings = with_pictures(model, adapters, embeddings, pictures, seed=seed, report=report)
    gen = generator(seed, embeddings.round, "chase")
    template = text.template if text is not None else ""
    ground = Ground(model, adapters, embeddings, pool, anchor, template, config, gen)
    sources: list[_Kept | _Bystanders] = [
        *_kept(model, adapters, bank, keep, config, pictures, seed, embeddings.round, kept)
    ]
    if bank is not None and len(bank) and config.bystanders:
        sources.append(_Bystanders(model, adapters, ground, bank, config, gen))
    attackers = line_up(config, text, ground.anchors, model.device, gen)
    reach = reachable_norm(anchor, embeddings.text_tokens())
    repeats = bool(context_layers(model, adapters.names))
    optimizer = make_optimizer(config, adapters.parameters())
    trace = LossTrace("chase", embeddings.round, growth=adapters.growth)
    past: list[Place] = []
    for step in range(config.steps):
        set_lr(optimizer, config, step)
        past += [end for a in attackers if (end := a.grow_older()) is not None]
        rows = _rows(ground, attackers, past, config, gen)
        keeping = [q for source in sources for q in source.questions(step, gen)]
        loss, moves = model.memory.attempt(
            _gradients, model, adapters, ground, rows, keeping, attackers, config, text, repeats
        )
        nn.utils.clip_grad_norm_(adapters.parameters(), config.clip)
        optimizer.step()
        adapters.follow()
        for attacker, gradient in zip(attackers, moves, strict=True):
            attacker.step(gradient, reach)
        trace.add(loss)
        report(StepReport("chase", embeddings.round, step + 1, config.steps, trace.last))
    trace.flush()
    past += [Place(a.value.detach().clone(), a.spoken) for a in attackers]
    return CircumventResult(_remembered(embeddings, past, ground, pool, text), trace.values)


def _rows(
    ground: Ground,
    attackers: Sequence[Attacker],
    past: Sequence[Place],
    config: ChaseConfig,
    gen: torch.Generator,
) -> list[Row]:
    """What is erased in one step: attackers first, ``config.images`` rows each, in their order."""
    rows: list[Row] = []
    for attacker in attackers:
        weight = 1.0 if attacker.grown else 0.0
        rows += ground.rows(attacker.place, config.images, gen, weight)
    for _ in range(min(config.past, len(past))):
        rows += ground.rows(past[int(torch.randint(len(past), (), generator=gen))], 1, gen)
    for _ in range(config.concepts):
        rows += ground.rows(None, 1, gen)
    grown = [a.place for a in attackers if a.grown]
    for _ in range(config.asides if grown or past else 0):
        earlier = bool(torch.rand((), generator=gen) < 0.5)
        places = (past or grown) if earlier else (grown or past)
        rows.append(ground.aside(places[int(torch.randint(len(places), (), generator=gen))], gen))
    return rows


def _gradients(
    model: DiffusionModel,
    adapters: Adapters,
    ground: Ground,
    rows: Sequence[Row],
    keeping: Sequence[_Question],
    attackers: Sequence[Attacker],
    config: ChaseConfig,
    text: TextSpace | None,
    repeats: bool,
) -> tuple[Tensor, Sequence[Tensor]]:
    """The loss and each attacker's gradient; leaves the adapters' gradients in them."""
    questions = [*_questions(model, ground, rows, text, repeats), *keeping]
    answers = torch.cat(predict(model.denoise, [q.query for q in questions]))
    loss = _loss(answers, questions)
    moves = _mining_gradients(answers, rows, attackers, config)
    parameters = adapters.parameters()
    for p in parameters:
        p.grad = None
    loss.backward(inputs=parameters)
    return loss.detach(), moves


class _Question(NamedTuple):
    """What the student is asked, what it should answer, and the weight of each picture's error.

    What erases shares one weighted mean; what keeps comes with weights of its own.
    """

    query: Query
    answer: Tensor  # [b, C, h, w]
    weight: Tensor  # [b]
    erases: bool = True


def _questions(
    model: DiffusionModel,
    ground: Ground,
    rows: Sequence[Row],
    text: TextSpace | None,
    repeats: bool,
) -> list[_Question]:
    """One question per row; with ``repeats`` contexts share a length where that changes nothing."""
    contexts = [c.to(model.device) for c in ground.contexts(rows, text)]
    if repeats:
        longest = max(c.shape[1] for c in contexts)
        contexts = [repeated(c, longest) for c in contexts]
    return [
        _Question(
            row.draws.query(row.index, context, model.device),
            row.draws.answer[row.index : row.index + 1],
            torch.tensor([row.weight]),
        )
        for row, context in zip(rows, contexts, strict=True)
    ]


def _of_draws(
    draws: Draws,
    rows: Tensor,
    contexts: Sequence[Tensor],
    device: torch.device,
    weight: float,
    *,
    erases: bool,
) -> list[_Question]:
    """Rows of ``draws``, each under its own context ``[L_i, D]``; a question for each length."""
    return [
        _Question(
            draws.query(some, context, device), draws.answer[some],
            torch.full((len(some),), weight), erases,
        )
        for _, context, (some,) in alike(contexts, rows)
    ]  # fmt: skip


def _mining_gradients(
    answers: Tensor, rows: Sequence[Row], attackers: Sequence[Attacker], config: ChaseConfig
) -> Sequence[Tensor]:
    """The gradient of each attacker's own mean mining loss; leaves the graph for the erasing."""
    if not attackers:
        return ()
    own = rows[: len(attackers) * config.images]
    truth = torch.cat([r.draws.truth[r.index : r.index + 1] for r in own]).to(answers.device)
    mining = squared_error(answers[: len(own)], truth).sum() / config.images
    return torch.autograd.grad(mining, [a.value for a in attackers], retain_graph=True)


def _loss(answers: Tensor, questions: Sequence[_Question]) -> Tensor:
    """The weighted mean over what erases, plus the weighted sum over what keeps."""
    wanted = torch.cat([q.answer for q in questions]).to(answers.device)
    total = sum(float(q.weight.sum()) for q in questions if q.erases)
    weights = torch.cat([q.weight / total if q.erases else q.weight for q in questions])
    weights = weights.to(answers.device)
    return (weights * squared_error(answers, wanted)).sum()


def _kept(
    model: DiffusionModel,
    adapters: Adapters,
    bank: KeepBank | None,
    keep: Sequence[Tensor],
    config: ChaseConfig,
    pictures: CircumventConfig,
    seed: int,
    round_: int,
    made: dict[int, KeepBank] | None,
) -> list[_Kept]:
    """What must stay: the user's prompts, each alike, and the bank by its drift."""
    sources = []
    if keep and pictures.keep_weight > 0:
        named = keep_bank(model, adapters, keep, pictures, seed, made)
        even = replace(config, bank_uniform=1.0, bank_weight=pictures.keep_weight)
        gen = generator(seed, round_, "chase.keep")
        sources.append(_Kept(model, adapters, named, even, gen))
    if bank is not None and len(bank) and config.bank_weight > 0:
        gen = generator(seed, round_, "chase.bank")
        sources.append(_Kept(model, adapters, bank, config, gen))
    return sources


class _Kept:
    """Bank contexts on noisy pictures of their own, with the teacher's answers."""

    def __init__(
        self,
        model: DiffusionModel,
        adapters: Adapters,
        bank: KeepBank,
        config: ChaseConfig,
        gen: torch.Generator,
    ):
        self._model, self._bank, self._config = model, bank, config
        owner = torch.arange(len(bank)).repeat(config.bank_draws)
        picture = torch.randint(bank.latents.shape[1], (len(owner),), generator=gen)
        self._draws = draw(
            model, adapters, bank.latents[owner, picture], owner, bank.contexts, None, 0.0, gen
        )
        self._sampler = DriftSampler(model, adapters, bank, config.bank_uniform, gen)

    def questions(self, step: int, gen: torch.Generator) -> list[_Question]:
        """``config.bank_batch`` entries, those that have drifted most likelier."""
        config = self._config
        if step % config.bank_refresh == 0:
            self._sampler.refresh()
        n = len(self._bank)
        which = self._sampler.draw(min(config.bank_batch, n), gen)
        rows = which + n * torch.randint(config.bank_draws, (len(which),), generator=gen)
        contexts = [self._bank.contexts[i] for i in which.tolist()]
        return _of_draws(
            self._draws, rows, contexts, self._model.device, config.bank_weight / len(which),
            erases=False,
        )  # fmt: skip


class _Bystanders:
    """Bank contexts on the concept's pictures, see :func:`~.teacher.bystanders`."""

    def __init__(
        self,
        model: DiffusionModel,
        adapters: Adapters,
        ground: Ground,
        bank: KeepBank,
        config: ChaseConfig,
        gen: torch.Generator,
    ):
        self._device, self._contexts, self._config = model.device, bank.contexts, config
        self._draws = bystanders(
            model, adapters, ground.subjects, bank.contexts, config.bystander_eta, gen
        )

    def questions(self, step: int, gen: torch.Generator) -> list[_Question]:
        """``config.bystanders`` pictures; each counts as much as an attacker's."""
        rows = torch.randint(len(self._draws), (self._config.bystanders,), generator=gen)
        contexts = [self._contexts[i] for i in self._draws.owner[rows].tolist()]
        return _of_draws(self._draws, rows, contexts, self._device, 1.0, erases=True)


def _remembered(
    embeddings: EmbeddingPool,
    places: Sequence[Place],
    ground: Ground,
    pool: ImagePool,
    text: TextSpace | None,
) -> EmbeddingPool:
    """The pool with the places as embeddings, shown on the pool's pictures."""
    rows = [Row(ground.alone, 0, place) for place in places]
    with torch.no_grad():
        contexts = ground.contexts(rows, text)
    pictures = pool.latents[: min(len(pool), 8)]
    chased = tuple(
        MinedEmbedding(c[0].detach().float().cpu().clone(), embeddings.round, latents=pictures)
        for c in contexts
    )
    return replace(embeddings, entries=(*embeddings.entries, *chased))
