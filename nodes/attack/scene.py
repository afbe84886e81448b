"""From a node's inputs to the :class:`~...darkminer.attacks.scene.Scene` that attacks are given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...darkminer.attacks.effects import Effects, effects
from ...darkminer.attacks.scene import Scene, without
from ...darkminer.judge.detectors import Detector
from ...darkminer.judge.user_prompts import UserPrompt
from ...darkminer.method.image_pool import concept_prompt
from ...darkminer.method.loop import new_adapters
from ...darkminer.method.text_start import subject_prompts, without_concept
from ...darkminer.model.adapter import LoraConfig
from ...darkminer.model.interface import DiffusionModel
from ...darkminer.types import Report
from ..erase.stages import as_continued
from ..host.lora import state_of
from ..host.session import Conditioning
from ..host.speech import ClipSpeech
from ..host.text import TextEncoder, contexts, speaks


@dataclass(frozen=True)
class Given:
    """What attackers know.

    Attributes:
        prompts: users' prompts that name the concept.
        pairs: prompts with it and without it.
        latents: pictures of it ``[n, C, h, w]``.
        seed: of all attacks.
        exclude: words that no text may hold.
        asked: the prompts with the seeds and guidance that they came with; empty for none.
        concept: its words.
    """

    prompts: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]
    latents: Tensor
    seed: int
    exclude: tuple[str, ...] = ()
    asked: tuple[UserPrompt, ...] = ()
    concept: str = ""

    @property
    def asked_so(self) -> tuple[UserPrompt, ...]:
        """Every prompt, those without seed and guidance as such."""
        return self.asked or tuple(UserPrompt(prompt) for prompt in self.prompts)

    @property
    def unrelated(self) -> tuple[str, ...]:
        """Prompts without the concept, each once."""
        return tuple(dict.fromkeys(plain for _, plain in self.pairs))


def text_prompts(concept: str, template: str, words: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Prompts with the concept, and each without it: the template alone and with every word."""
    plain = concept_prompt(concept, template), without_concept(template)
    return (plain, *subject_prompts(concept, template, words))


def effects_of(scene: Scene, clip: Any, given: Given) -> Effects:
    """What the erasure on a scene does besides."""
    said = contexts(clip, given.unrelated)
    return effects(scene, list(zip(given.unrelated, said, strict=True)))


def scene_of(
    model: Any,
    session: DiffusionModel,
    clip: Any,
    given: Given,
    *,
    detector: Detector,
    report: Report,
    negative: Conditioning | None = None,
    cfg: float = 1.0,
    lora: Any = None,
    original: DiffusionModel | None = None,
) -> Scene:
    """What the attacks see: the session's model, with ``lora`` on it where there is one.

    Args:
        original: the model before its erasure; without it that is the session's own without
            ``lora``. Where there is neither, attacks that need it are refused.

    Raises:
        DarkMinerError: if the LoRA does not fit the MODEL.
    """
    speech = ClipSpeech(TextEncoder(clip), given.exclude) if speaks(clip) else None
    before = adapters = None
    if lora is not None:
        state = state_of(lora, model)
        config = as_continued(LoraConfig(), state, model)
        adapters = new_adapters(session, config, seed=0, state=state)
        before = without(session, adapters.off)
    return Scene(
        prompts=given.prompts, contexts=tuple(contexts(clip, given.prompts)), seed=given.seed,
        model=session, original=original or before, speech=speech, latents=given.latents,
        pairs=given.pairs, negative=None if negative is None else negative[0][0].float(), cfg=cfg,
        detector=detector, report=report, asked=given.asked, concept=given.concept,
        adapters=adapters,
    )  # fmt: skip
