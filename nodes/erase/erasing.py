"""What the loop node does with its inputs, apart from the host's node interface.

Each step is also a node of its own; both call these functions, so that a graph and the loop node
give the same LoRA for the same seed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...darkminer.config import EraseConfig
from ...darkminer.errors import DarkMinerError, NotFiniteError
from ...darkminer.files.lora_file import LoraDict, to_state_dict
from ...darkminer.files.lora_metadata import Origin, metadata
from ...darkminer.files.lora_outcome import with_outcome
from ...darkminer.method.bank import BankConfig, build_bank, vocabulary_prompts
from ...darkminer.method.erasure import Erasure
from ...darkminer.method.image_pool import check_pool, concept_prompt
from ...darkminer.method.loop import erase
from ...darkminer.method.shown import Shown, before_and_after
from ...darkminer.method.text_start import (
    concept_prompts,
    subject_prompts,
    text_pool,
    with_word,
    without_concept,
)
from ...darkminer.model.adapter import AdapterState
from ...darkminer.model.interface import DiffusionModel, ImageEncoder, TextSpace
from ...darkminer.model.sampling import SamplingConfig
from ...darkminer.progress.pace import seconds_per_row
from ...darkminer.progress.plan import Plan, erasure_plan, shown_part
from ...darkminer.report.told import told_of
from ...darkminer.rng import generator
from ...darkminer.room import run_bytes
from ...darkminer.types import EmbeddingPool, ImagePool, Report, RetainSet, Tally, silent
from ..host.run import Progress
from ..host.session import context_of, training_session
from ..host.text import TextEncoder, conditioning, contexts, speaks, vocabulary
from .continuing import first_embeddings, without_opening
from .kept import UNKEPT, Kept, RunKeeper, given
from .origin import digests, pool_record

log = logging.getLogger(__name__)


def words_left(clip: Any, pool: ImagePool, exclude: Sequence[str]) -> list[str]:
    """The vocabulary's words that speak neither of the concept nor of what is excluded.

    Raises:
        DarkMinerError: if there is none.
    """
    words = vocabulary(clip, [*exclude, pool.concept])
    if not words:
        raise DarkMinerError(
            f"exclude_words and the concept {pool.concept!r} leave no word of this CLIP's "
            "vocabulary to make prompts of: exclude fewer words."
        )
    return words


def concept_contexts(
    clip: Any,
    pool: ImagePool,
    config: EraseConfig,
    *,
    exclude: Sequence[str],
    seed: int,
    report: Report = silent,
) -> EmbeddingPool:
    """The text start: the concept's own contexts, alone and with words of the vocabulary.

    Args:
        exclude: words that no prompt may hold.
    """
    template = pool_template(pool)
    templates = text_templates(template)
    alone = {concept_prompts(pool.concept, [t])[0]: t for t in templates}
    words = words_left(clip, pool, exclude)
    order = torch.randperm(len(words), generator=generator(seed, 0, "text.words")).tolist()
    chosen = [words[i] for i in order[: config.text_words]]
    pairs = subject_prompts(pool.concept, template, chosen)
    joined = [prompt for prompt, _ in pairs]
    prompts = [*alone, *joined]
    tally = Tally(report, "contexts", 0, len(pairs) + len(prompts))
    anchors = contexts(clip, [anchor for _, anchor in pairs], tally)
    return text_pool(
        pool.concept, prompts, contexts(clip, prompts, tally), [None] * len(alone) + anchors,
        [*alone.values(), *(with_word(template, w) for w in chosen)],
    )  # fmt: skip


def bank_templates(template: str) -> tuple[str, ...]:
    """The bank's prompt patterns in the words of the pool's own template ("a * photo")."""
    in_place = template.replace("*", "{w}")
    plain = without_concept(template)
    article, _, noun = plain.rpartition(" ")
    noun_of = f"{article} {{w}} {noun} of a {{v}}".strip()
    return ("a {w}", in_place, f"{plain} of a {{w}}", noun_of, noun_of)


def text_space(clip: Any, pool: ImagePool, exclude: Sequence[str]) -> TextSpace | None:
    """Where mining looks for tokens: the CLIP, the pool's template and its vocabulary.

    None where tokens cannot be mined through the CLIP (:func:`~..host.text.speaks`).
    """
    if not speaks(clip):
        return None
    words = words_left(clip, pool, exclude)
    return TextSpace(TextEncoder(clip), pool_template(pool), tuple(words))


def vocabulary_bank(
    model: DiffusionModel,
    clip: Any,
    encode: ImageEncoder,
    pool: ImagePool,
    config: BankConfig,
    *,
    template: str,
    always: Sequence[str],
    exclude: Sequence[str],
    seed: int,
    report: Report = silent,
) -> RetainSet | None:
    """The vocabulary bank, of the CLIP's own words; None when its size is 0.

    Args:
        template: the pool's prompt template, from which the bank's patterns are made.
        always: prompts that are kept whatever they show (anchor and negative prompt).
        exclude: words that no prompt may hold, besides the concept's own.
    """
    if config.size == 0:
        return None
    words = words_left(clip, pool, exclude)
    prompts = vocabulary_prompts(words, bank_templates(template), config.size, seed=seed)
    prompts = list(dict.fromkeys([*always, *prompts]))
    tally = Tally(report, "bank", 0, len(prompts), "contexts")
    return build_bank(
        model, encode, prompts, contexts(clip, prompts, tally), pool, config, seed=seed,
        always=len(set(always)), report=report,
    )  # fmt: skip


def text_templates(template: str) -> tuple[str, ...]:
    """Templates of the text start: two short ones and the pool's own."""
    return tuple(dict.fromkeys(("*", "a *", template)))


def pool_template(pool: ImagePool) -> str:
    """The template that a pool keeps; the usual one where nobody said any."""
    return pool.template or "a * photo"


def run_erasure(
    model: Any, clip: Any, vae: Any, encode: ImageEncoder, pool: ImagePool, config: EraseConfig,
    *,
    anchor: str, negative: str, sampling: SamplingConfig, seed: int, exclude: Sequence[str] = (),
    keep: Sequence[Tensor] = (), state: AdapterState | None = None,
    embeddings: EmbeddingPool | None = None, opening: bool = True, report: Report = silent,
    on_round: Callable[[Erasure], None] | None = None, origin: Origin | None = None,
    kept: Kept = UNKEPT,
) -> tuple[Erasure, LoraDict]:  # fmt: skip
    """Erase the pool's concept from a MODEL; the MODEL itself stays as it is.

    Args:
        anchor, negative: the prompts of c0 and of classifier-free guidance's other side.
        sampling: how pictures are made, whatever ``config`` says of it.
        exclude: words the vocabulary bank must not use.
        state: adapters to continue from.
        embeddings: what was found before; rounds are counted on from there.
        opening: whether text start and chase come first, as ``config`` has them.
        origin: what the file says of node, image encoder and the LoRA that was continued.
        kept: where the run is kept, and for how long it may go on.

    Returns:
        the erasure, and the LoRA as a state dict with metadata.
    """
    config = replace(config, sampling=sampling)
    run = config if opening else without_opening(config)
    tokens = _tokens(run)
    _check_words(clip, pool, exclude, needed=bool(config.text_start or run.bank.size or tokens))
    anchor_cond, negative_cond = conditioning(clip, anchor), conditioning(clip, negative)
    with training_session(
        model, anchor=anchor_cond, negative=negative_cond, sampling=sampling,
        latent_size=pool.latent_size, vae=vae,
    ) as session:  # fmt: skip
        check_pool(pool, run.mine.k, session)
        about = replace(
            origin or Origin(), concept=pool.concept, anchor=anchor, negative=negative,
            sampling=sampling, pool=pool_record(pool), exclude=tuple(exclude), keep=digests(keep),
        )  # fmt: skip
        inputs = given(session, pool, about, (model, clip, vae), seed, state, embeddings)
        at = context_of(anchor_cond, "DarkMinerLoop", "anchor")

        def as_lora(state: AdapterState, found: EmbeddingPool, bank: int | None, folder: str):
            origin = replace(about, bank=bank, run_folder=folder)
            return lora_of(session, state, found, run, seed, origin)

        with RunKeeper(
            kept, run, inputs, pool, as_lora, run_bytes(session, run, pool, at)
        ) as keeper:
            if isinstance(report, Progress):
                report.expect(seconds_per_row(session, at), keeper.where, begins=keeper.begins)
            start = first_embeddings(embeddings, config, lambda: concept_contexts(
                clip, pool, config, exclude=exclude, seed=seed, report=report,
            ))  # fmt: skip
            bank = keeper.bank(lambda: vocabulary_bank(
                session, clip, encode, pool, run.bank, template=pool_template(pool),
                always=(anchor, negative), exclude=exclude, seed=seed, report=report,
            ))  # fmt: skip
            done = erase(
                session, encode, pool, at, run, seed=seed, start=start, bank=bank, keep=keep,
                reference=_reference(clip, run), state=state, report=report, on_round=on_round,
                text=text_space(clip, pool, exclude) if tokens else None, keeping=keeper.keeping(),
            )  # fmt: skip
            try:
                shown = _shown(session, clip, pool, done, run, anchor, seed, report)
            except BaseException:
                keeper.broken(done)
                raise
            return done, _with_outcome(done, keeper.ended(done), pool, shown)


def _tokens(config: EraseConfig) -> int:
    """How many tokens are mined through the text encoder at once; 0 where it is not needed."""
    return config.mine.tokens or (config.chase.steps and config.chase.tokens)


def _check_words(clip: Any, pool: ImagePool, exclude: Sequence[str], *, needed: bool) -> None:
    """Refuse, before anything is made, what leaves nothing to make prompts of."""
    if not pool.concept.strip():
        raise DarkMinerError(
            "DarkMinerLoop: the pool names no concept: set it in ImagePoolBuilder."
        )
    if needed:
        words_left(clip, pool, exclude)


def _reference(clip: Any, config: EraseConfig) -> Tensor | None:
    """The context ``[1, L, D]`` of verification's own reference prompt, where there is one."""
    if not config.reference_prompt.strip():
        return None
    return context_of(conditioning(clip, config.reference_prompt), "DarkMinerLoop", "reference")


def _shown(
    session: DiffusionModel, clip: Any, pool: ImagePool, done: Erasure, config: EraseConfig,
    anchor: str, seed: int, report: Report,
) -> tuple[Shown, ...]:  # fmt: skip
    """What the concept's prompt and the anchor show before and after, for the report.

    None of a run that changed nothing or whose time is up; pictures that fail cost no run its end.
    """
    if done.outcome.empty or done.timed_out:
        return ()
    prompts = shown_prompts(pool, anchor)
    said = list(zip(prompts, contexts(clip, prompts), strict=True))
    try:
        return before_and_after(session, done.adapters, config.lora, said, seed=seed, report=report)
    except NotFiniteError as error:
        log.warning("The report has no pictures before and after: %s", error)
        return ()


def shown_prompts(pool: ImagePool, anchor: str) -> list[str]:
    """Prompts of the report's pictures: the pool's own, and the anchor."""
    return [pool.prompt or concept_prompt(pool.concept, pool_template(pool)), anchor]


def _with_outcome(
    done: Erasure, lora: LoraDict, pool: ImagePool, shown: Sequence[Shown]
) -> LoraDict:
    """The LoRA with what has come of it, which the log says as well, and what a report shows."""
    outcome = done.outcome
    log.info("%s", outcome.words)
    made = with_outcome(lora, done.embeddings, empty=outcome.empty, words=outcome.words)
    made.told = told_of(done, pool, shown)
    return made


def run_plan(
    config: EraseConfig,
    sampling: SamplingConfig,
    embeddings: EmbeddingPool | None = None,
    keep: Sequence[Tensor] = (),
    opening: bool = True,
) -> Plan:
    """What :func:`run_erasure` will do."""
    found = embeddings if embeddings is not None else EmbeddingPool()
    plan = erasure_plan(
        config if opening else without_opening(config), sampling, done=found.round,
        new=sum(e.latents is None for e in found.entries), keep=len(keep),
    )  # fmt: skip
    # Where rounds have no end nobody knows when these come.
    return plan if plan.further else replace(plan, parts=(*plan.parts, shown_part(2, sampling)))


def lora_of(
    session: DiffusionModel,
    adapters: AdapterState,
    embeddings: EmbeddingPool,
    settings: EraseConfig | Mapping[str, Any],
    seed: int,
    origin: Origin | None = None,
) -> LoraDict:
    """Adapters as the LORA_MODEL of the host, with the metadata of the file they will become."""
    about = metadata(
        adapters, embeddings, seed=seed, settings=settings,
        fingerprint=session.fingerprint, family=session.family, origin=origin,
    )  # fmt: skip
    return LoraDict(to_state_dict(adapters, session.names), about)
