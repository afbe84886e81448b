"""DarkMinerSettings: every setting of a run by itself, made from the settings' own rules."""

from __future__ import annotations

from collections.abc import Mapping

from comfy_api.latest import io

from ...darkminer.config import PRESETS, EraseConfig
from ...darkminer.errors import DarkMinerError, SettingError
from ...darkminer.settings import asked, changed_by, rules, stages, written
from .. import inputs, sockets
from ..checks import accepted
from ..fields import PLACES, SETTINGS, SETTINGS_TITLE, input_name, named, rule_of, shown
from ..host.run import SAMPLERS, SCHEDULERS

NODE = SETTINGS

IN_FRONT = (
    "max_rounds", "text_words", "reference_prompt", "lora.rank", "lora.alpha", "sampling.steps",
    "sampling.cfg", "mine.steps", "mine.count", "verify.threshold", "start.steps", "chase.steps",
    "circumvent.steps", "bank.size", "retain.keep_weight",
)  # fmt: skip
"""What is changed most; all others are folded away."""

HOSTS = {"sampling.sampler": SAMPLERS, "sampling.scheduler": SCHEDULERS}
"""Settings whose values are the host's to say."""

_NOTES = {
    "max_rounds": "in a graph of stages Round: Open has its own",
    "reference_prompt": "in a graph of stages connect it to Verify (Delta CLIP)'s reference",
    "lora.rank": "lora_alpha stays as it is",
    "guard.max_drift": "a graph of stages has no guard",
}


class DarkMinerSettings(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id=NODE,
            display_name=SETTINGS_TITLE,
            category="DarkMiner",
            description="Every setting of an erasure, beginning from a preset. Empty: as the "
            "preset has it. 0 is 0. none: an empty list, or no limit.",
            inputs=[inputs.preset(), *(setting_input(place) for place in PLACES)],
            outputs=[
                sockets.Settings.Output(
                    display_name="settings", tooltip="For the input settings of the other nodes."
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, **given):
        def check():
            if (
                "preset" in given and None not in given.values()
            ):  # nothing comes by a link, which may change all
                settings_of(given["preset"], given)

        said = accepted(cls, given, check)
        if said is not True:
            # The host would write a returned sentence once for each input: a hundred times.
            raise DarkMinerError(str(said))
        return True

    @classmethod
    def execute(cls, preset, **texts):
        with named(NODE):
            return io.NodeOutput(settings_of(preset, texts))


def settings_of(preset: str, texts: Mapping[str, str]) -> EraseConfig:
    """A preset with what the user wrote.

    Args:
        texts: by the names of the node's inputs; empty ones are left out.

    Raises:
        SettingError: named by its place, if a text cannot be that setting.
        DarkMinerError: if a setting of the preset's does not go with what was written.
    """
    given = {p: text for p in PLACES if (text := texts.get(input_name(p), "")).strip()}
    try:
        made = changed_by(PRESETS[preset], given)
    except SettingError as error:
        if error.setting in given:
            raise
        raise DarkMinerError(
            f"{input_name(error.setting)} is {shown(error.value)} in the preset {preset!r}, which "
            f"does not go with what else is set: it must be {rule_of(error)}."
        ) from error
    for place, choices in HOSTS.items():
        name = value_of(made, place)
        if name not in choices:
            raise SettingError(place, name, f"one of {', '.join(choices)}")
    return made


def value_of(config: EraseConfig, place: str):
    """The value of a setting."""
    owner, _, name = place.rpartition(".")
    return getattr(getattr(config, owner) if owner else config, name)


def setting_input(place: str) -> io.String.Input:
    """The input of one setting, with what the presets have shown in its empty field."""
    kind, name = PLACES[place]
    owner = place.rpartition(".")[0]
    values = {preset: written(value_of(config, place)) for preset, config in PRESETS.items()}
    if len(set(values.values())) > 1:
        shows = each = "; ".join(f"{preset}: {value}" for preset, value in values.items())
    else:
        shows = values["fast"]
        each = f"Both presets: {shows or 'empty'}"
    about = rules(kind)[name].about
    words = [f"{stages(EraseConfig)[owner]}: {about}" if owner else about]
    words.append("one of the host's own names" if place in HOSTS else asked(kind, name))
    words.append(_NOTES.get(place, ""))
    if name == "steps" and "lr_drop" in rules(kind):
        words.append(f"{owner}_lr_drop stays as it is")
    return io.String.Input(
        input_name(place), default="", optional=True, advanced=place not in IN_FRONT,
        placeholder=shows, tooltip=" ".join([*map(sentence, filter(None, words)), f"{each}."]),
    )  # fmt: skip


def sentence(text: str) -> str:
    """The text with a full stop and a capital, unless it begins with an input's name."""
    named = "_" in text.partition(" ")[0]
    return f"{text if named else text[:1].upper() + text[1:]}."
