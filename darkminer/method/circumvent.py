"""Circumventing: train the adapters so that the embeddings lead to the anchor (section 3.2.3)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import Tensor, nn

from ..config import CircumventConfig
from ..errors import DarkMinerError
from ..finite import in_stage
from ..model.adapter import Adapters
from ..model.exact import keep_exactly
from ..model.interface import DiffusionModel
from ..model.sampling import alike, pictures_each
from ..rng import generator
from ..types import EmbeddingPool, KeepBank, MinedEmbedding, Report, StepReport, silent
from .bank import DriftSampler
from .losses import Query, circumvent_target, predict, preserved_contexts, squared_error
from .optim import LossTrace, make_optimizer, set_lr


@dataclass(frozen=True)
class CircumventResult:
    """The pool with every entry's pictures filled in, and the loss of each step."""

    embeddings: EmbeddingPool
    losses: list[float]


@dataclass(frozen=True)
class _Term:
    """Student queries with what each should answer, and the weight of their mean error."""

    queries: list[Query]
    targets: list[Tensor]
    weight: float


@dataclass(frozen=True)
class _Plan:
    """What a step has drawn: questions to the teacher, and the terms its answers make."""

    asked: list[Query]
    terms: Callable[[list[Tensor]], list[_Term]]


@in_stage("circumvent")
def circumvent(
    model: DiffusionModel,
    adapters: Adapters,
    embeddings: EmbeddingPool,
    anchor: Tensor,
    config: CircumventConfig,
    *,
    seed: int,
    keep: Sequence[Tensor] = (),
    kept: dict[int, KeepBank] | None = None,
    bank: KeepBank | None = None,
    report: Report = silent,
) -> CircumventResult:
    """Train ``adapters`` in place with ``alpha_c l_c + alpha_p l_p`` (equations 7 and 8).

    The teacher is the same network with its adapters off; only the adapters' tensors are optimised.

    Args:
        anchor: context of c0, ``[1, L0, D]``.
        keep: contexts ``[1, L, D]`` the user wants unchanged; one preserving term on each one's
            pictures.
        kept: what this run has made of ``keep`` so far, see :func:`keep_bank`.
        bank: contexts to keep, drawn by measured drift; used when ``config.bank_weight`` > 0.

    Raises:
        DarkMinerError: if there is nothing to circumvent.
        DivergedError: if a loss is not finite.
    """
    if not embeddings.entries:
        raise DarkMinerError(
            "The embedding pool is empty: mine an embedding (or make the concept's contexts) first."
        )
    round_ = embeddings.round
    embeddings = with_pictures(model, adapters, embeddings, config, seed=seed, report=report)
    gen = generator(seed, round_, "circumvent")
    sources: list[_BankTerm] = []
    if keep and config.keep_exact > 0:
        keep_exactly(model, adapters, keep, config.keep_exact)
    if keep and config.keep_weight > 0:
        named = keep_bank(model, adapters, keep, config, seed, kept)
        uniform = replace(config, bank_uniform=1.0)
        sources.append(_BankTerm(model, adapters, named, uniform, config.keep_weight, seed, round_))
    if bank is not None and len(bank) and config.bank_weight > 0:
        sources.append(_BankTerm(model, adapters, bank, config, config.bank_weight, seed, round_))
    parameters = adapters.parameters()
    optimizer = make_optimizer(config, parameters)
    trace = LossTrace("circumvent", round_, growth=adapters.growth)

    def plan(step: int) -> list[_Plan]:
        erasing = _plan_erasing(model, embeddings, anchor, config, gen)
        return [erasing, *(source.plan(step, gen) for source in sources)]

    block = config.bank_refresh if sources else config.steps
    for step, terms in enumerate(_answered(model, adapters, plan, config.steps, block)):
        set_lr(optimizer, config, step)
        loss = model.memory.attempt(_gradients, model, terms, parameters)
        nn.utils.clip_grad_norm_(parameters, config.clip)
        optimizer.step()
        adapters.follow()
        trace.add(loss)
        report(StepReport("circumvent", round_, step + 1, config.steps, trace.last))
    trace.flush()
    return CircumventResult(embeddings, trace.values)


def with_pictures(
    model: DiffusionModel,
    adapters: Adapters,
    embeddings: EmbeddingPool,
    config: CircumventConfig,
    *,
    seed: int,
    report: Report = silent,
) -> EmbeddingPool:
    """Fill in what the *original* model makes from each entry that has no latents yet."""
    missing = [i for i, e in enumerate(embeddings.entries) if e.latents is None]
    if not missing:
        return embeddings
    entries = list(embeddings.entries)
    gen = generator(seed, embeddings.round, "pictures")
    with adapters.off():
        made = pictures_each(model, [entries[i].context for i in missing], config.images, gen)
    for i, latents in zip(missing, made, strict=True):
        entries[i] = replace(entries[i], latents=latents.clone())
    report(StepReport("circumvent", embeddings.round, 0, config.steps))
    return replace(embeddings, entries=tuple(entries))


def _draw(embeddings: EmbeddingPool, r: float, gen: torch.Generator) -> MinedEmbedding:
    """With probability r one of the newest round, else one of the earlier rounds."""
    current, earlier = embeddings.current(), embeddings.earlier()
    newest = bool(torch.rand((), generator=gen) < r)
    group = (current or earlier) if newest else (earlier or current)
    return group[int(torch.randint(len(group), (), generator=gen))]


def _answered(
    model: DiffusionModel,
    adapters: Adapters,
    plan: Callable[[int], list[_Plan]],
    steps: int,
    block: int,
) -> Iterator[list[_Term]]:
    """Each step's terms with the teacher's answers, asked for many steps at once.

    The teacher never changes, so what the next steps will draw can be drawn and asked now: the same
    draws in the same order, in forward passes as large as guided sampling makes them. What depends
    on the student (a bank's drift) may change every ``block`` steps, so no block looks beyond.
    """
    limit = 2 * model.batch
    step = 0
    while step < steps:
        end = min(steps, (step // block + 1) * block)
        planned = [plan(step)]
        size = sum(len(q.x) for p in planned[0] for q in p.asked)
        planned += [plan(s) for s in range(step + 1, min(end, step + max(1, limit // size)))]
        asked = [q for plans in planned for p in plans for q in p.asked]
        with torch.no_grad(), adapters.off():
            answers = iter(predict(model.denoise, asked, limit))
        for plans in planned:
            yield [t for p in plans for t in p.terms(list(islice(answers, len(p.asked))))]
        step += len(planned)


def _plan_erasing(
    model: DiffusionModel,
    embeddings: EmbeddingPool,
    anchor: Tensor,
    config: CircumventConfig,
    gen: torch.Generator,
) -> _Plan:
    """Equations 7 and 8 on one batch of embeddings."""
    drawn = [_draw(embeddings, config.r, gen) for _ in range(config.batch)]
    x = torch.stack([_one_picture(e, gen) for e in drawn]).to(model.device)
    noise = torch.randn(x.shape, generator=gen).to(model.device)
    index = model.schedule.draw(len(x), gen)
    noisy = model.schedule.add_noise(x, noise, index)
    t = model.schedule.timestep(index, noisy)
    anchor = anchor.to(model.device)
    rows = [slice(i, i + 1) for i in range(len(x))]
    concept = [
        Query(noisy[i], t[i], e.context[None].to(model.device))
        for i, e in zip(rows, drawn, strict=True)
    ]
    anchored = [
        Query(q.x, q.timestep, anchor if e.anchor is None else e.anchor[None].to(model.device))
        for q, e in zip(concept, drawn, strict=True)
    ]
    preserved = [
        Query(q.x, q.timestep, c)
        for q in concept
        for c in preserved_contexts(q.context, config.preserved)
    ]
    parts = len(preserved) // len(concept)

    def terms(answers: list[Tensor]) -> list[_Term]:
        given = iter(answers)
        at_anchor = [next(given) for _ in anchored]
        at_concept = [next(given) if config.eta else None for _ in concept]
        targets = [
            circumvent_target(a, c, config.eta) for a, c in zip(at_anchor, at_concept, strict=True)
        ]
        result = [_Term(concept, targets, config.alpha_c)]
        # Each mean is over the batch; the three parts of equation 8 add up.
        if config.alpha_p and "c0" in config.preserved:
            result.append(_Term(anchored, at_anchor, config.alpha_p))
        if config.alpha_p and parts:
            result.append(_Term(preserved, list(given), parts * config.alpha_p))
        return result

    asked = list(anchored)
    asked += concept if config.eta else []
    asked += preserved if config.alpha_p else []
    return _Plan(asked, terms)


def _one_picture(entry: MinedEmbedding, gen: torch.Generator) -> Tensor:
    assert entry.latents is not None
    return entry.latents[int(torch.randint(len(entry.latents), (), generator=gen))]


def _gradients(
    model: DiffusionModel, terms: Sequence[_Term], parameters: Sequence[nn.Parameter]
) -> Tensor:
    """The loss of a step; leaves its gradients in ``parameters``."""
    for p in parameters:
        p.grad = None
    loss = _total(model, terms)
    loss.backward()
    return loss.detach()


def _total(model: DiffusionModel, terms: Sequence[_Term]) -> Tensor:
    """The weighted sum of the terms' mean errors, student queries in as few passes as can be."""
    answers = iter(predict(model.denoise, [q for term in terms for q in term.queries]))
    total = torch.zeros((), device=model.device)
    for term in terms:
        errors = [squared_error(next(answers), target) for target in term.targets]
        total = total + term.weight * torch.cat(errors).mean()
    return total


class _BankTerm:
    """The preserving term on a bank: draws contexts, follows the drift."""

    def __init__(
        self,
        model: DiffusionModel,
        adapters: Adapters,
        bank: KeepBank,
        config: CircumventConfig,
        weight: float,
        seed: int,
        round_: int,
    ):
        self._model, self._bank, self._config, self._weight = model, bank, config, weight
        self._sampler = DriftSampler(
            model, adapters, bank, config.bank_uniform, generator(seed, round_, "bank.probe")
        )

    def plan(self, step: int, gen: torch.Generator) -> _Plan:
        """Bank contexts on their own pictures."""
        if step % self._config.bank_refresh == 0:
            self._sampler.refresh()
        which = self._sampler.draw(min(self._config.bank_batch, len(self._bank)), gen)
        picture = torch.randint(self._bank.latents.shape[1], (len(which),), generator=gen)
        x = self._bank.latents[which, picture].to(self._model.device)
        noise = torch.randn(x.shape, generator=gen).to(x.device)
        index = self._model.schedule.draw(len(x), gen)
        noisy = self._model.schedule.add_noise(x, noise, index)
        timestep = self._model.schedule.timestep(index, noisy)
        contexts = [self._bank.contexts[i] for i in which.tolist()]
        queries = [
            Query(some, at, context.to(x.device))
            for _, context, (some, at) in alike(contexts, noisy, timestep)
        ]
        return _Plan(queries, lambda answers: [_Term(queries, answers, self._weight)])


def keep_bank(
    model: DiffusionModel,
    adapters: Adapters,
    keep: Sequence[Tensor],
    config: CircumventConfig,
    seed: int,
    kept: dict[int, KeepBank] | None = None,
) -> KeepBank:
    """The user's keep contexts as a bank, with pictures of each by the original model.

    Args:
        kept: banks of this run by their pictures per context; what is there is not made again.
    """
    kept = kept if kept is not None else {}
    if config.images not in kept:
        contexts = tuple(row for c in keep for row in c.detach().float().cpu())
        with adapters.off():
            made = pictures_each(model, contexts, config.images, generator(seed, 0, "keep"))
        kept[config.images] = KeepBank(contexts, made, ("keep",) * len(contexts))
    return kept[config.images]
