"""What attacks will do, part by part; see :mod:`.plan`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..attacks.catalogue import ATTACKS
from ..attacks.effects import DRAWS, STRENGTHS
from ..attacks.verdict import ATTACK, REFERENCES, AttackVerdictConfig
from ..method.verify import CALIBRATION_PICTURES
from ..model.sampling import SamplingConfig
from .plan import TRAINED, Expected, Part, Plan, parts_of

_ATTACK_BATCH = 8


def attack_plan(config: AttackVerdictConfig, sampling: SamplingConfig, *, token: bool) -> Plan:
    """A verdict by attack."""
    picture = Expected(sampling).picture
    names = config.attacks(token=token)
    made = REFERENCES + len(names) * config.pictures
    return parts_of([
        Part(ATTACK, 0, "calibration", "calibrate", CALIBRATION_PICTURES * picture, "picture"),
        *(Part(ATTACK, 0, n, f"attack by {n}", config.steps * _ATTACK_BATCH * TRAINED)
          for n in names),
        Part(ATTACK, 0, "pictures", "pictures of the attacks", made * picture, "picture"),
    ])  # fmt: skip


def red_team_plan(
    settings: Mapping[str, Any],
    prompts: int,
    sampling: SamplingConfig,
    each: int = 1,
    unrelated: int = 0,
) -> Plan:
    """Several attacks by name, each on every prompt, and the pictures they are judged by.

    Args:
        unrelated: prompts whose drift is measured, where the effects of an erasure are.
    """
    picture, made = Expected(sampling).picture, prompts * (each + len(settings))
    return parts_of([
        *(Part(ATTACK, 0, n, f"attack by {attack.title}", attack.cost(config, prompts, picture))
          for n, config, attack in ((n, c, ATTACKS[n]) for n, c in settings.items())),
        Part(ATTACK, 0, "pictures", "pictures of the attacks", made * picture, "picture"),
        *(effects_parts(prompts, unrelated, picture) if unrelated else ()),
    ])  # fmt: skip


def effects_parts(prompts: int, unrelated: int, picture: float) -> list[Part]:
    """The strength curve, and the drift of unrelated prompts."""
    asked = prompts * len(STRENGTHS)
    return [
        Part(ATTACK, 0, "strengths", "pictures at each strength", asked * picture, "picture"),
        Part("keep", 0, "", "pictures of unrelated prompts", unrelated * picture, "picture"),
        Part(ATTACK, 0, "drift", "drift of unrelated prompts", unrelated * DRAWS * 1.0, "answer"),
    ]
