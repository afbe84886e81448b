"""Settings: one frozen dataclass per stage, checked when made, and the two presets.

``PAPER`` holds the values of the Dark Miner preprint and nothing else. ``FAST`` is the recipe that
the gallery's benchmark found best; what goes beyond the paper is off by default everywhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from .errors import SettingError
from .model.layers import LAYERS, Layers

Optimizer = Literal["sgd", "adam"]
Against = Literal["pairs", "means"]
AGAINST: tuple[Against, ...] = ("pairs", "means")
Preserved = Literal["c0", "0c", "-c"]
PRESERVED: tuple[Preserved, ...] = ("c0", "0c", "-c")


def _require(ok: bool, owner: object, name: str, rule: str) -> None:
    value = getattr(owner, name)
    if isinstance(value, float) and not math.isfinite(value):
        ok, rule = False, f"finite and {rule}"
    if not ok:
        raise SettingError(f"{type(owner).__name__}.{name}", value, rule)


def _check_optimizer(config: MineConfig | CircumventConfig | ChaseConfig) -> None:
    _require(config.optimizer in ("sgd", "adam"), config, "optimizer", '"sgd" or "adam"')
    for name in ("lr", "lr_late", "clip"):
        _require(getattr(config, name) > 0, config, name, "above 0")
    _require(config.lr_drop >= 0, config, "lr_drop", "at least 0")


@dataclass(frozen=True)
class SamplingConfig:
    """How pictures are made (host's own samplers and schedulers)."""

    steps: int = 50
    cfg: float = 7.5
    sampler: str = "ddim"
    scheduler: str = "normal"
    batch: int = 8

    def __post_init__(self) -> None:
        _require(self.steps >= 1, self, "steps", "at least 1")
        _require(self.cfg >= 0, self, "cfg", "at least 0")
        _require(self.batch >= 1, self, "batch", "at least 1")


@dataclass(frozen=True)
class MineConfig:
    """Mining (equation 5).

    Attributes:
        length: tokens L of the embedding.
        images: k, pool images one embedding is mined on.
        batch: images per step, drawn from the k; the whole k when equal.
        steps: optimiser steps (an epoch over k images at batch k is one step).
        optimizer: ``"sgd"`` without momentum, or ``"adam"``.
        lr, lr_late, lr_drop: learning rate, and the one used from step ``lr_drop`` on.
        clip: gradient norm limit of each embedding.
        count: embeddings mined at once, each on its own k images.
        init: ``"normal"`` draws with the anchor tokens' mean and standard deviation;
            ``"anchor"`` starts from anchor tokens (repeated or cut to L).
        tokens: further embeddings mined as one token at the text encoder's input: what an
            attacker with text can reach.
        token_words: subjects each such token is joined with when it is circumvented.
        token_lr: Adam's learning rate of these tokens.
        reachable: scale tokens down after each step to the largest norm among the anchor's and
            the concept's own tokens.
    """

    length: int = 32
    images: int = 3
    batch: int = 3
    steps: int = 1000
    optimizer: Optimizer = "sgd"
    lr: float = 0.1
    lr_late: float = 0.01
    lr_drop: int = 500
    clip: float = 10.0
    count: int = 1
    init: Literal["normal", "anchor"] = "normal"
    reachable: bool = False
    tokens: int = 0
    token_words: int = 4
    token_lr: float = 0.01

    def __post_init__(self) -> None:
        for name in ("tokens", "token_words"):
            _require(getattr(self, name) >= 0, self, name, "at least 0")
        for name in ("length", "images", "batch", "steps", "count"):
            _require(getattr(self, name) >= 1, self, name, "at least 1")
        _require(self.batch <= self.images, self, "batch", f"at most images ({self.images})")
        _check_optimizer(self)


@dataclass(frozen=True)
class VerifyConfig:
    """Verification (equation 6).

    Attributes:
        threshold: tau, or ``"auto"`` to calibrate it from the pool and anchor pictures.
        draws: noise draws averaged per embedding.
        images: k, used when an embedding does not say which pool images it was mined on.
        against: what a picture is held against. ``"pairs"``: the reference picture of the same
            noise and its own k pool images, as in the paper. ``"means"``: the mean feature of
            several reference pictures and that of the pool, which leaves out what a single
            picture shows besides.
    """

    threshold: float | Literal["auto"] = 0.2
    draws: int = 1
    images: int = 3
    against: Against = "pairs"

    def __post_init__(self) -> None:
        ok = self.threshold == "auto" or -1.0 <= float(self.threshold) <= 1.0
        _require(ok, self, "threshold", 'between -1 and 1, or "auto"')
        _require(self.draws >= 1, self, "draws", "at least 1")
        _require(self.images >= 1, self, "images", "at least 1")
        _require(self.against in AGAINST, self, "against", '"pairs" or "means"')


@dataclass(frozen=True)
class CircumventConfig:
    """Circumventing (equations 7 and 8).

    Attributes:
        rank, alpha: of the LoRA; the adapter's output is scaled by alpha / rank.
        layers: which layers it adapts, see :func:`~.model.layers.adapted_layers`.
        steps, optimizer, lr, lr_late, lr_drop, clip: as in :class:`MineConfig`; clip is over all
            adapter gradients together.
        batch: embeddings (and x, t, noise) per step.
        r: probability of an embedding of the newest round.
        alpha_c, alpha_p: weights of the circumventing and the preserving loss.
        preserved: the parts of equation 8: the anchor, the zero context and the opposite of c.
        images: pictures the original model makes from each embedding.
        eta: how far the target lies past the anchor: e0(c0) - eta (e0(c) - e0(c0)); 0 is eq. 7.
        bank_weight: weight of the loss on the keep bank; 0 leaves it out.
        bank_batch: bank contexts per step.
        bank_uniform: share of uniform draws; the rest goes by measured drift.
        bank_refresh: steps between two drift measurements.
        keep_weight: weight of the loss on the user's keep conditionings.
        keep_exact: share of their tokens' energy along which the cross-attention values cannot
            change at all, see :func:`~.model.exact.keep_exactly`; 0 leaves it out.
    """

    rank: int = 8
    alpha: float = 8.0
    layers: Layers = "values"
    steps: int = 1000
    batch: int = 1
    optimizer: Optimizer = "sgd"
    lr: float = 0.01
    lr_late: float = 0.001
    lr_drop: int = 800
    clip: float = 100.0
    r: float = 0.7
    alpha_c: float = 1.0
    alpha_p: float = 0.5
    preserved: tuple[Preserved, ...] = PRESERVED
    images: int = 4
    eta: float = 0.0
    bank_weight: float = 0.0
    bank_batch: int = 4
    bank_uniform: float = 0.2
    bank_refresh: int = 100
    keep_weight: float = 0.5
    keep_exact: float = 0.0

    def __post_init__(self) -> None:
        for name in ("rank", "steps", "batch", "images", "bank_batch", "bank_refresh"):
            _require(getattr(self, name) >= 1, self, name, "at least 1")
        for name in ("alpha_c", "alpha_p", "eta", "bank_weight", "keep_weight"):
            _require(getattr(self, name) >= 0, self, name, "at least 0")
        for name in ("r", "bank_uniform", "keep_exact"):
            _require(0.0 <= getattr(self, name) <= 1.0, self, name, "between 0 and 1")
        _require(self.alpha > 0, self, "alpha", "above 0")
        known = set(self.preserved) <= set(PRESERVED)
        _require(known, self, "preserved", "some of " + ", ".join(f'"{n}"' for n in PRESERVED))
        _require(self.layers in LAYERS, self, "layers", " or ".join(f'"{n}"' for n in LAYERS))
        _check_optimizer(self)

    @property
    def shape(self) -> tuple[int, float, Layers]:
        """What makes one LoRA fit another: rank, alpha and layers."""
        return self.rank, self.alpha, self.layers


@dataclass(frozen=True)
class ChaseConfig:
    """Mining while circumventing: attackers and adapters move in the same steps.

    Attributes:
        steps: steps of the chase; 0 leaves it out.
        optimizer, lr, lr_late, lr_drop, clip: of the adapters, as in :class:`CircumventConfig`.
        tokens: attackers that speak through the text encoder, one token each.
        lengths: lengths L of the attackers that are free contexts.
        token_lr, context_lr: Adam's learning rates of the attackers.
        images: pictures per attacker and step.
        life: steps until an attacker starts anew; in the first quarter it mines alone.
        past: earlier attackers' last places per step.
        concepts: the concept's own contexts per step.
        eta: how far the target lies past the anchor, as in :class:`CircumventConfig`.
        bystanders: bank contexts per step that are seen on the concept's own pictures, so that no
            prompt whatever leads further into the concept.
        bystander_eta: how far these are led away from the concept.
        asides: pictures of the anchors per step, seen under attackers: a model that is being
            erased draws no concept, and there, too, no attacker may lead it anywhere.
        aside_images: pictures that the original model makes of each anchor.
        aside_eta: how far past the anchor these are led.
        draws: noisy pictures that the teacher is asked about, per kind (fewer where the steps
            could not use as many).
        bank_weight, bank_batch, bank_uniform, bank_refresh: as in :class:`CircumventConfig`.
        bank_draws: noisy pictures per bank entry.
    """

    steps: int = 0
    optimizer: Optimizer = "adam"
    lr: float = 5e-3
    lr_late: float = 1e-3
    lr_drop: int = 0
    clip: float = 100.0
    tokens: int = 10
    lengths: tuple[int, ...] = (1, 4, 16)
    token_lr: float = 0.05
    context_lr: float = 0.05
    images: int = 1
    life: int = 150
    past: int = 6
    concepts: int = 4
    eta: float = 3.0
    bystanders: int = 6
    bystander_eta: float = 2.5
    asides: int = 12
    aside_images: int = 4
    aside_eta: float = 0.0
    draws: int = 768
    bank_weight: float = 2.0
    bank_batch: int = 8
    bank_uniform: float = 0.2
    bank_refresh: int = 100
    bank_draws: int = 6

    def __post_init__(self) -> None:
        for name in (
            "steps",
            "tokens",
            "past",
            "eta",
            "bank_weight",
            "bystanders",
            "bystander_eta",
            "asides",
            "aside_eta",
        ):
            _require(getattr(self, name) >= 0, self, name, "at least 0")
        for name in (
            "images", "life", "concepts", "aside_images", "draws", "bank_batch", "bank_refresh",
            "bank_draws",
        ):  # fmt: skip
            _require(getattr(self, name) >= 1, self, name, "at least 1")
        for name in ("token_lr", "context_lr"):
            _require(getattr(self, name) > 0, self, name, "above 0")
        _require(all(n >= 1 for n in self.lengths), self, "lengths", "whole numbers from 1 on")
        _require(0.0 <= self.bank_uniform <= 1.0, self, "bank_uniform", "between 0 and 1")
        _check_optimizer(self)

    @property
    def asked(self) -> int:
        """Noisy pictures of each kind to ask the teacher about."""
        attackers = (self.tokens + len(self.lengths)) * self.images
        return min(self.draws, self.steps * (attackers + self.past + self.concepts))


@dataclass(frozen=True)
class BankConfig:
    """The vocabulary bank of kept contexts.

    Attributes:
        size: prompts drawn from the vocabulary (before clearing); 0 means no bank.
        images: pictures the original model makes of each.
        templates: prompt patterns; ``{w}`` and ``{v}`` are two words of the vocabulary.
        quantile: a prompt is dropped when its score against the pool exceeds this quantile of the
            pool's own scores.
    """

    size: int = 0
    images: int = 1
    templates: tuple[str, ...] = ("{w}", "a {w}", "a {w} photo", "a {w} photo of a {v}")
    quantile: float = 0.05

    def __post_init__(self) -> None:
        _require(self.size >= 0, self, "size", "at least 0")
        _require(self.images >= 1, self, "images", "at least 1")
        _require(0.0 <= self.quantile <= 1.0, self, "quantile", "between 0 and 1")
        _require(len(self.templates) > 0, self, "templates", "at least one pattern")


@dataclass(frozen=True)
class EraseConfig:
    """A whole run: every stage's settings and how many rounds.

    Attributes:
        max_rounds: upper bound on mine-verify-circumvent rounds; verification may end it sooner.
        text_start: circumvent the concept's own text contexts before the first round (round 0).
        start: settings of that round-0 circumvention.
        chase: mining while circumventing, between the text start and the first round.
        text_templates: prompts of the text start; ``*`` stands for the concept.
        text_words: further prompts of the text start that join the concept with a word of the
            vocabulary, each with the same prompt without the concept as its anchor.
    """

    max_rounds: int = 48
    text_start: bool = False
    text_templates: tuple[str, ...] = ("*", "a *", "a * photo")
    text_words: int = 0
    mine: MineConfig = field(default_factory=MineConfig)
    verify: VerifyConfig = field(default_factory=VerifyConfig)
    circumvent: CircumventConfig = field(default_factory=CircumventConfig)
    start: CircumventConfig = field(default_factory=CircumventConfig)
    chase: ChaseConfig = field(default_factory=ChaseConfig)
    bank: BankConfig = field(default_factory=BankConfig)

    def __post_init__(self) -> None:
        for name in ("max_rounds", "text_words"):
            _require(getattr(self, name) >= 0, self, name, "at least 0")
        _require(
            all("*" in t for t in self.text_templates), self, "text_templates", "made with a * each"
        )
        ok = self.text_start or not self.chase.steps
        _require(ok, self, "text_start", "on where a chase is asked for (chase.steps above 0)")
        same = self.start.shape == self.circumvent.shape
        _require(same, self, "start", "of the same rank, alpha and layers as circumvent")


PAPER = EraseConfig()

_FAST_CIRCUMVENT = CircumventConfig(
    rank=16,
    alpha=16.0,
    layers="blocks",
    optimizer="adam",
    steps=60,
    batch=8,
    lr=1e-4,  # a round only mends what the chase has left: more would undo its margins
    lr_late=5e-5,
    lr_drop=40,
    r=0.5,
    alpha_p=0.0,
    images=3,
    eta=3.0,
    bank_weight=2.0,
    bank_batch=8,
    keep_weight=2.0,
)

FAST = EraseConfig(
    max_rounds=1,
    text_start=True,
    text_words=48,
    mine=MineConfig(
        optimizer="adam",
        steps=100,
        lr=0.05,
        lr_late=0.02,
        lr_drop=70,
        count=2,
        tokens=3,
        reachable=True,
    ),
    verify=VerifyConfig(draws=2),
    circumvent=_FAST_CIRCUMVENT,
    start=replace(_FAST_CIRCUMVENT, steps=100, lr=5e-3, lr_drop=100, eta=4.0),
    chase=ChaseConfig(steps=450, lr_drop=315),
    bank=BankConfig(size=160),
)

PRESETS: dict[str, EraseConfig] = {"fast": FAST, "paper": PAPER}


def override(config: Any, **values: Any) -> Any:
    """``config`` with every value that is neither None nor 0 replaced (0 means "as the preset")."""
    changed = {k: v for k, v in values.items() if v is not None and v != 0}
    return replace(config, **changed)
