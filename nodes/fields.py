"""Errors as the nodes say them: with the node's name, and a wrong setting by its input's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..darkminer.config import EraseConfig
from ..darkminer.errors import (
    DarkMinerError,
    DivergedError,
    SettingError,
    can_be_written,
    shortened,
)
from ..darkminer.settings import places, written

SETTINGS, SETTINGS_TITLE = "DarkMinerSettings", "Dark Miner Settings"
"""The node that shows every setting, by its id and as the user sees it."""

PLACES = places(EraseConfig)
"""Place of every setting (``"mine.lr"``) -> the dataclass that holds it, and its name there."""


def input_name(place: str) -> str:
    """What the Settings node calls a setting: ``"mine_lr"`` for ``"mine.lr"``."""
    return place.replace(".", "_")


_SAMPLING = {
    "SamplingConfig.steps": "sampling_steps",
    "SamplingConfig.cfg": "cfg",
    "SamplingConfig.sampler": "sampler_name",
    "SamplingConfig.scheduler": "scheduler",
    "SamplingConfig.batch": "batch_size",
}
_VERIFY = {
    "VerifyConfig.threshold": "threshold",
    "VerifyConfig.against": "against",
}


def _stage(config: str, prefix: str = "") -> dict[str, str]:
    """Steps and rates of one stage; a late rate and its step follow them."""
    steps, rate = f"{prefix}steps", f"{prefix}learning_rate"
    return {
        f"{config}.steps": steps,
        f"{config}.lr_drop": steps,
        f"{config}.lr": rate,
        f"{config}.lr_late": rate,
    }


_TRAIN = {
    "LoraConfig.rank": "rank",
    "LoraConfig.alpha": "rank",
    "LoraConfig.layers": "layers",
    "CircumventConfig.r": "r",
    "CircumventConfig.alpha_c": "alpha_c",
    "CircumventConfig.alpha_p": "alpha_p",
}
_MINE = {"MineConfig.length": "length", "MineConfig.count": "count"}
_WHOLE = {
    **_SAMPLING,
    **_VERIFY,
    **_TRAIN,
    **_MINE,
    **_stage("MineConfig", "mine_"),
    **_stage("CircumventConfig", "circumvent_"),
    "ChaseConfig.steps": "chase_steps",
    "ChaseConfig.lr_drop": "chase_steps",
    "EraseConfig.text_start": "chase_steps",
    "EraseConfig.max_rounds": "max_rounds",
    "BankConfig.size": "bank_size",
}

SHOWN: dict[str, dict[str, str]] = {
    "ImagePoolBuilder": _SAMPLING,
    "MineEmbedding": {**_MINE, **_stage("MineConfig")},
    "VerifyDeltaCLIP": {**_SAMPLING, **_VERIFY, "VerifyConfig.draws": "draws"},
    "CircumventLoRA": {**_SAMPLING, **_TRAIN, **_stage("CircumventConfig")},
    "DarkMinerChase": {
        **_SAMPLING,
        "LoraConfig.rank": "rank",
        "LoraConfig.alpha": "rank",
        "LoraConfig.layers": "layers",
        **_stage("ChaseConfig"),
        "ChaseConfig.tokens": "tokens",
    },
    "AttackErasure": {
        **_SAMPLING,
        "AttackVerdictConfig.steps": "steps",
        "AttackVerdictConfig.pictures": "pictures",
        "AttackVerdictConfig.limit": "limit",
    },
    "RedTeam": _SAMPLING,
    "DarkMinerVocabularyBank": {**_SAMPLING, "BankConfig.size": "bank_size"},
    "DarkMinerConceptContexts": {"EraseConfig.text_words": "words"},
    "DarkMinerLoop": _WHOLE,
    "EraseConcepts": _WHOLE,
}
"""Node -> setting -> the input of that node which sets it."""

_DERIVED = ("alpha", "lr_late", "lr_drop")
_NO_CHASE = "chase_steps asks for a chase, which begins at a text start, and this preset has none"


def replaced(node: str) -> dict[str, tuple[str, ...]]:
    """Inputs of a node that connected settings take the place of.

    Returns:
        input -> inputs of the Settings node that say the same; a stage node's ``steps``, say, are
        those of a text start and of a round.
    """
    found = {"preset": ("preset",)}
    for setting, name in SHOWN.get(node, {}).items():
        owner, _, field = setting.partition(".")
        same = (p for p, (kind, own) in PLACES.items() if (kind.__name__, own) == (owner, field))
        if name not in found and (inputs := tuple(map(input_name, same))):
            found[name] = inputs
    return found


def sentence(node: str, error: SettingError) -> str:
    """What a node says of a wrong setting: its own input, or else the preset that gave it."""
    if node == SETTINGS:
        return f"{input_name(error.setting)} is {shown(error.value)}: it must be {rule_of(error)}."
    name = SHOWN.get(node, {}).get(error.setting)
    owner, _, field = error.setting.partition(".")
    if error.setting == "EraseConfig.text_start" and name:
        return f"{_NO_CHASE}: set it to 0, or choose the preset 'fast'."
    if name and field in _DERIVED:
        return f"{name} makes {field} {error.value!r}: it must be {error.rule}."
    if name:
        return f"{name} is {error.value!r}: it must be {error.rule}."
    return (
        f"the preset's {field} of {owner.removesuffix('Config').lower()} is {error.value!r}, which "
        f"goes with nothing else here: it must be {error.rule}; choose another preset."
    )


def rule_of(error: SettingError) -> str:
    """What a setting must be, with other settings named as the Settings node's inputs."""
    rule = error.rule
    for place in PLACES:
        rule = rule.replace(place, input_name(place)) if "." in place else rule
    return rule


def shown(value: Any) -> str:
    """A setting's value as it is written, short enough for a sentence."""
    return shortened(repr(value if isinstance(value, str) else written(value)))


@contextmanager
def named(node: str) -> Iterator[None]:
    """Put the node's name in front of what the method has to say.

    The host logs an error with all that led to it; where that holds what no log can write, only the
    node's own sentence is handed on.
    """
    try:
        yield
    except SettingError as error:
        raise DarkMinerError(f"{node}: {sentence(node, error)}") from error
    except DarkMinerError as error:
        text, plain = str(error), can_be_written(error)
        if text.startswith(node) and plain:
            raise
        said = text if text.startswith(node) else f"{node}: {text}"
        raise DarkMinerError(said) from (error if plain else None)
    except DivergedError as error:
        error.args = (f"{node}: {error}",)
        raise
    except Exception as error:
        if can_be_written(error):
            raise
        raise DarkMinerError(f"{node}: {error}") from None
