"""What the method raises. Every message is one sentence: what is wrong, where, what to do."""

from __future__ import annotations


class DarkMinerError(ValueError):
    """A wrong or missing input, found before any long work starts.

    Whatever the message quotes, it can be written: a host that logs half of a surrogate pair, or a
    file name that is no text, does not survive it.
    """

    def __init__(self, message: str):
        super().__init__(writable(message))


def writable(text: str) -> str:
    """The text with escapes where no encoding can write it."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def shortened(text: str) -> str:
    """A value's text, short enough for a sentence."""
    return text if len(text) <= 60 else f"{text[:60]}..."


class SettingError(DarkMinerError):
    """A setting that breaks its rule; whoever shows it under another name can say so.

    Args:
        setting: dataclass and field, e.g. ``"MineConfig.lr"``.
        value: what it was set to.
        rule: what it must be, in words.
    """

    def __init__(self, setting: str, value: object, rule: str):
        self.setting, self.value, self.rule = setting, value, rule
        super().__init__(f"{setting} is {shortened(repr(value))}: it must be {rule}.")


def can_be_written(error: BaseException) -> bool:
    """Whether the messages of an error, and of all that led to it, can be written."""
    chain: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in chain:
        chain.append(following)
        hidden = following.__suppress_context__
        following = following.__cause__ or (None if hidden else following.__context__)
    return all(writable(str(e)) == str(e) for e in chain)


class DivergedError(RuntimeError):
    """A loss or a picture stopped being finite while training, or a training ran away.

    Args:
        stage: ``"mine"``, ``"verify"``, ``"circumvent"``, ...
        round_: number of the round.
        step: step within the stage, counted from 1.
        what: what was seen.
    """

    def __init__(self, stage: str, round_: int, step: int, what: str = "a value is not finite"):
        self.stage, self.round, self.step = stage, round_, step
        super().__init__(
            f"The {stage} stage of round {round_} diverged at step {step} ({what}): "
            "lower its learning rate, or load the model in float32."
        )


class NotFiniteError(DivergedError):
    """Something that is asked for numbers gave NaN or infinity.

    Args:
        giver: what gave it, as a sentence begins, e.g. ``"The VAE"``.
        what: what it gave, in the plural, e.g. ``"pictures"``.
        remedy: what to do.
        stage: the stage that asked, once known, and the number of its round; 0 for none.
    """

    def __init__(self, giver: str, what: str, remedy: str, stage: str = "", round_: int = 0):
        super().__init__(stage, round_, 0)
        self.giver, self.what, self.remedy = giver, what, remedy
        where = f" in the {stage} stage" if stage else ""
        where += f" of round {round_}" if stage and round_ else ""
        self.args = (
            f"{giver} gave {what} that are not finite (NaN or infinity){where}: {remedy}.",
        )

    def within(self, stage: str, round_: int) -> NotFiniteError:
        """The same error with the stage's name."""
        return NotFiniteError(self.giver, self.what, self.remedy, stage, round_)
