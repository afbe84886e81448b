"""Settings as the node Dark Miner Settings gives them, and workflows that take them."""

from __future__ import annotations

from .conftest import pack
from .test_nodes import loop, node

SETTINGS = "DarkMinerSettings"
SHORT = {  # what the widgets of test_nodes.loop ask for; there late rates follow the steps
    "max_rounds": "2", "verify_threshold": "-1", "mine_steps": "3", "mine_lr_drop": "2",
    "mine_length": "20", "mine_count": "1", "start_steps": "4", "start_lr_drop": "4",
    "circumvent_steps": "4", "circumvent_lr_drop": "2", "chase_steps": "3", "chase_lr_drop": "2",
    "bank_size": "6", "sampling_steps": "2", "sampling_cfg": "2", "sampling_batch": "16",
}  # fmt: skip
SHORTEST = SHORT | {
    "text_words": "1", "start_images": "1", "chase_anchor_images": "1", "bank_size": "2",
    "mine_tokens": "0", "verify_draws": "1", "circumvent_images": "1", "max_rounds": "1",
    "chase_tokens": "1", "chase_soft_prompts": "2", "chase_anchor_batch": "1",
}  # fmt: skip
UNTOUCHED = {
    "sampling_steps": 20, "cfg": 7.0, "sampler_name": "euler", "scheduler": "normal",
    "batch_size": 8,
}  # fmt: skip
"""Sampling as a new node has it."""


def settings_of(preset="fast", **texts):
    """What the node gives for a preset and some texts."""
    kind = pack("nodes.erase.settings").DarkMinerSettings
    return kind.execute(preset=preset, **texts).args[0]


def with_settings(prompt, names, **texts):
    """A prompt whose nodes ``names`` take settings and are otherwise as new ones."""
    prompt = {**prompt, "settings": node(SETTINGS, preset=texts.pop("preset", "fast"), **texts)}
    for name in names:
        prompt[name]["inputs"]["settings"] = ["settings", 0]
    return prompt


def by_settings(prefix="loras/settings", **texts):
    """``test_nodes.loop`` with the same values from a Settings node."""
    left = ("anchor_prompt", "negative_prompt", "preset", "seed", "exclude_words")
    prompt = loop(prefix)
    for name, keep in (("loop", left), ("pool", tuple(prompt["pool"]["inputs"]))):
        given = prompt[name]["inputs"]
        prompt[name]["inputs"] = {
            k: v for k, v in given.items() if (k in keep or isinstance(v, list))
        } | UNTOUCHED
    prompt["loop"]["inputs"]["max_rounds"] = 0
    return with_settings(prompt, ("loop", "pool"), **SHORT | texts)
