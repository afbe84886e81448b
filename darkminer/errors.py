"""What the method raises. Every message is one sentence: what is wrong, where, what to do."""

from __future__ import annotations


class DarkMinerError(ValueError):
    """A wrong or missing input, found before any long work starts."""


class DivergedError(RuntimeError):
    """A loss or a picture stopped being finite while training.

    Args:
        stage: ``"mine"``, ``"verify"`` or ``"circumvent"``.
        round_: number of the round.
        step: step within the stage, counted from 1.
    """

    def __init__(self, stage: str, round_: int, step: int):
        self.stage, self.round, self.step = stage, round_, step
        super().__init__(
            f"The {stage} stage of round {round_} diverged at step {step} (a value is not finite): "
            "lower its learning rate, or load the model in float32."
        )
