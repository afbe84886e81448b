"""The attacks there are, by name: how each runs, what it needs, its settings.

To add one: a file with a settings dataclass, a short variant and ``run``; a row here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from . import completion, inversion, p4d, probe, recall, ringabell, udatk
from .scene import Attempt, Scene


@dataclass(frozen=True)
class Attack:
    """One attack.

    Attributes:
        title: what it is called before a person.
        run: ``(scene, settings) -> attempts``, one a prompt.
        full: its source's settings; short: the same attack in few steps.
        needs: attributes of a :class:`~.scene.Scene` that it cannot do without.
        latent: whether it leaves the text as it is, so that no defence of the text can stop it.
        shared: whether it learns once for all prompts; its settings say what that costs.
    """

    title: str
    run: Callable[[Scene, Any], list[Attempt]]
    full: Any
    short: Any
    needs: tuple[str, ...] = ()
    latent: bool = False
    shared: bool = False

    def cost(self, config: Any, prompts: int, picture: float) -> float:
        """Rows through the network, of which a picture takes ``picture``."""
        return prompts * config.cost(picture) + (config.learning if self.shared else 0.0)


_P4D = ("model", "original", "speech")

ATTACKS: dict[str, Attack] = {
    "p4d-n": Attack("P4D-N", p4d.run, p4d.P4DConfig(), p4d.SHORT, _P4D),
    "p4d-k": Attack(
        "P4D-K", partial(p4d.run, name="p4d-k"), p4d.P4DConfig(every=3),
        replace(p4d.SHORT, every=3), _P4D,
    ),
    "udatk": Attack(
        "UnlearnDiffAtk", udatk.run, udatk.UDAtkConfig(), udatk.SHORT, ("model", "speech")
    ),
    "ringabell": Attack(
        "Ring-A-Bell", ringabell.run, ringabell.RingABellConfig(), ringabell.SHORT,
        ("speech", "pairs"),
    ),
    "probe": Attack(
        "noise probe", probe.run, probe.ProbeConfig(), probe.SHORT, ("model",), latent=True
    ),
    "completion": Attack(
        "completion", completion.run, completion.CompletionConfig(), completion.SHORT, ("model",),
        latent=True,
    ),
    "recall": Attack(
        "RECALL", recall.run, recall.RecallConfig(), recall.SHORT, ("model",), latent=True
    ),
    inversion.NAME: Attack(
        "textual inversion (CCE)", inversion.run, inversion.InversionConfig(), inversion.SHORT,
        ("model", "speech", "pairs"), shared=True,
    ),
}  # fmt: skip
"""Name, as nodes and command lines use it -> the attack."""
