"""What several inputs of one node say together: they agree, or nothing runs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..darkminer.config import PRESETS, EraseConfig
from ..darkminer.errors import DarkMinerError
from ..darkminer.method.words import names
from ..darkminer.model.layers import layers_of
from .fields import SETTINGS_TITLE, replaced
from .host.lora import state_of
from .inputs import AS_PRESET, unless_preset

Given = Mapping[str, Any]

log = logging.getLogger(__name__)


def check_agreement(node: str, given: Given, declared: Mapping[str, Any]) -> None:
    """Refuse inputs of one node that contradict each other, or of which one would be dropped.

    Args:
        node: the node's id.
        given: its inputs by name, each of the right kind by itself.
        declared: all inputs of its schema by name.

    Raises:
        DarkMinerError: if so.
    """
    if given.get("settings") is not None:
        check_settings(node, given, declared)
    if _takes_guidance(declared):
        _check_guidance(given)
    for rule in _RULES:
        rule(given)


_LINKED = object()
"""What stands for a value that a link will bring."""


def check_queued(node: str, given: Given, declared: Mapping[str, Any]) -> None:
    """The same of a workflow that is queued, as far as its values are known by then.

    Args:
        given: None for what a link will bring; what is not connected is not there.

    Raises:
        DarkMinerError: if so.
    """
    _check_anchor(given)
    if "settings" in given:
        check_settings(node, given, declared)
        return
    known = {**given, **{name: _LINKED for name in ("bank", "negative") if name in given}}
    if _takes_guidance(declared):
        _check_guidance(known)
    check_bank(known)


def check_settings(node: str, given: Given, declared: Mapping[str, Any]) -> None:
    """Where settings is connected, whatever it takes the place of stands as a new node has it.

    Raises:
        DarkMinerError: names the first input that does not, and where to say it instead.
    """
    for name, others in replaced(node).items():
        if name not in declared or given.get(name) in (None, declared[name].default):
            continue
        raise DarkMinerError(
            f"{name} is {given[name]!r} here and settings is connected: set {' and '.join(others)} "
            f"in {SETTINGS_TITLE} and {name} back to {declared[name].default!r}, or disconnect it."
        )


def _takes_guidance(declared: Mapping[str, Any]) -> bool:
    """Whether guidance's other side comes by a socket, rather than as a text."""
    return "negative" in declared and declared["negative"].io_type == "CONDITIONING"


def _check_guidance(given: Given) -> None:
    """Guidance has two sides. The host's own sampler node asks for both, and so does this."""
    settings = given.get("settings")
    name, cfg = "cfg", given.get("cfg")
    if settings is not None and cfg is not None:
        name, cfg = "sampling_cfg of settings", settings.sampling.cfg
    if cfg is not None and cfg != 1.0 and given.get("negative") is None:
        raise DarkMinerError(
            f"{name} is {cfg:g} and negative is not connected, without which there is no guidance: "
            f"connect the empty prompt to negative, or set {name} to 1."
        )


def _check_widths(given: Given) -> None:
    """Prompts, embeddings and bank of one node come from one kind of text encoder."""
    widths = sorted(_widths(given), key=lambda pair: pair[0] not in ("anchor", "reference"))
    for name, width in widths[1:]:
        if width != widths[0][1]:
            raise DarkMinerError(
                f"{name} is {width} wide and {widths[0][0]} {widths[0][1]}: make both with the "
                "CLIP that belongs to the MODEL."
            )


def _widths(given: Given) -> Iterator[tuple[str, int]]:
    for name, value in given.items():
        if name in ("anchor", "reference", "negative", "mined") or name.startswith("keep_"):
            yield from ((name, context.shape[-1]) for context, _ in value or ())
        elif name == "embeddings" and value is not None:
            yield from ((name, entry.context.shape[-1]) for entry in value.entries)
        elif name == "bank" and value is not None and len(value):
            yield name, value.contexts[0].shape[-1]


def _check_sizes(given: Given) -> None:
    """Pictures that one step looks at are of one size."""
    pool, bank = given.get("pool"), given.get("bank")
    if pool is None or bank is None or not len(bank):
        return
    have, want = tuple(bank.latents[0].shape[-3:]), tuple(pool.latents.shape[-3:])
    if have != want:
        raise DarkMinerError(
            f"bank was made with latents of {list(have)} and pool with {list(want)}: build both "
            "with the same MODEL, width and height."
        )


def _check_concept(given: Given) -> None:
    pool, embeddings = given.get("pool"), given.get("embeddings")
    if pool is None or embeddings is None or not embeddings.concept:
        return
    if embeddings.concept != pool.concept:
        raise DarkMinerError(
            f"embeddings is of {embeddings.concept!r} and pool of {pool.concept!r}: connect both "
            "of one concept."
        )


def _check_anchor(given: Given) -> None:
    """What is shown instead of the concept, or compared with it, is not the concept."""
    pool, settings = given.get("pool"), given.get("settings")
    concepts = (given.get("concepts") or "").splitlines() if pool is None else [pool.concept]
    prompts = {"anchor_prompt": given.get("anchor_prompt")}
    if settings is not None and prompts["anchor_prompt"] is not None:
        prompts["reference_prompt of settings"] = settings.reference_prompt
    for name, prompt in prompts.items():
        for concept in concepts:
            if prompt and names(prompt, concept):
                raise DarkMinerError(
                    f"{name} is {prompt!r}, which says the concept {concept.strip()!r} itself: "
                    "write a neutral prompt, e.g. a photo."
                )


def check_bank(given: Given) -> None:
    """A bank takes minutes to make: where it would count for nothing, that is said before.

    Raises:
        DarkMinerError: if so.
    """
    settings = given.get("settings")
    if settings is not None:
        if given.get("bank") and not _weighs_banks(settings):
            raise DarkMinerError(
                "bank asks for a vocabulary bank and settings give a bank no weight: disconnect "
                f"it, or set {_WEIGHTS} in {SETTINGS_TITLE}."
            )
        return
    preset = PRESETS.get(given.get("preset") or "")
    if preset is None or _weighs_banks(preset):
        return
    for name, remedy in (("bank", "disconnect it"), ("bank_size", "set it to 0")):
        if given.get(name):
            raise DarkMinerError(
                f"{name} asks for a vocabulary bank and the preset {given['preset']!r} gives a "
                f"bank no weight: {remedy}, or choose the preset 'fast'."
            )


_WEIGHTS = "retain_weight, or steps and unrelated of chase or repair, above 0"


def check_own_bank(settings: EraseConfig) -> None:
    """The same of settings for a whole run, which makes its own bank.

    Raises:
        DarkMinerError: if so.
    """
    if settings.bank.size and not _weighs_banks(settings):
        raise DarkMinerError(
            f"settings ask for a vocabulary bank (bank_size {settings.bank.size}) and give it no "
            f"weight: set bank_size to 0, or {_WEIGHTS}, in {SETTINGS_TITLE}."
        )


def _weighs_banks(config: EraseConfig) -> bool:
    """Whether a bank counts: as what must not change, or as unrelated prompts."""
    chase, repair = config.chase, config.repair
    return bool(
        config.retain.weight
        or (chase.steps and chase.unrelated)
        or (repair.steps and repair.unrelated and repair.weight)
    )


def _check_lora(given: Given) -> None:
    """A LoRA that goes on is of this MODEL, and keeps its rank and its layers."""
    model, lora = given.get("model"), given.get("lora")
    if model is None or lora is None:
        return
    try:
        state = state_of(lora, model)
    except DarkMinerError as error:
        text = str(error)
        raise DarkMinerError(f"lora does not fit model: {text[:1].lower()}{text[1:]}") from error
    layers = layers_of(state.up, model.model.diffusion_model)
    for name, asked, own in (
        ("rank", given.get("rank") or state.rank, state.rank),
        ("layers", unless_preset(given.get("layers", AS_PRESET)) or layers, layers),
    ):
        if asked != own:
            raise DarkMinerError(
                f"{name} is {asked!r} and the connected lora has {own!r}, which it keeps: leave "
                f"{name} as the preset has it ({0 if name == 'rank' else AS_PRESET!r})."
            )
    settings = given.get("settings")
    if settings is not None and (settings.lora.rank, settings.lora.layers) != (state.rank, layers):
        log.info(
            "lora keeps its rank %d and its layers (%s); those of settings are for new ones.",
            state.rank, layers,
        )  # fmt: skip


_RULES: tuple[Callable[[Given], None], ...] = (
    _check_widths,
    _check_sizes,
    _check_concept,
    _check_anchor,
    check_bank,
    _check_lora,
)
