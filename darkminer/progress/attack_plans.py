"""What attacks will do, part by part; see :mod:`.plan`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..attacks.catalogue import ATTACKS
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
    settings: Mapping[str, Any], prompts: int, sampling: SamplingConfig, each: int = 1
) -> Plan:
    """Several attacks by name, each on every prompt, and the pictures they are judged by."""
    picture, made = Expected(sampling).picture, prompts * (each + len(settings))
    return parts_of([
        *(Part(ATTACK, 0, n, f"attack by {attack.title}", attack.cost(config, prompts, picture))
          for n, config, attack in ((n, c, ATTACKS[n]) for n, c in settings.items())),
        Part(ATTACK, 0, "pictures", "pictures of the attacks", made * picture, "picture"),
    ])  # fmt: skip
