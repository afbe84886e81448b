"""The users' prompts that a node is given: its own lines, a list of the pack's, or a CSV file."""

from __future__ import annotations

from comfy_api.latest import io

from ...darkminer.errors import DarkMinerError
from ...darkminer.judge.user_prompts import LISTS, UserPrompt, listed, read_csv
from ..host.folders import permitted_file

NONE = "none"


def asked_inputs() -> list:
    """Where prompts come from besides the node's own lines; they stand behind all other inputs."""
    return [
        io.Combo.Input(
            "prompt_list", options=[NONE, *LISTS], default=NONE, optional=True,
            tooltip="Users' prompts that travel with the pack, of which count are taken: styles "
            "and objects name the concept in a hundred sentences; people names none, for unsafe "
            "content that is shown unasked.",
        ),
        io.String.Input(
            "prompt_file", default="", optional=True,
            tooltip="A CSV file in ComfyUI's input folder, such as I2P: a column prompt, and if "
            "there are any seed and guidance, which each prompt's pictures are then made with; "
            "count of them are taken.",
        ),
        io.Int.Input(
            "pictures_each", default=1, min=1, max=1000, optional=True,
            tooltip="Pictures of each prompt as it is, from which concept ratio and score are "
            "counted; attacks draw one for each prompt.",
        ),
    ]  # fmt: skip


def asked_prompts(
    prompts: str, prompt_list: str, prompt_file: str, concept: str, count: int
) -> tuple[UserPrompt, ...]:
    """The prompts of the one source that is given; none where none is.

    Raises:
        DarkMinerError: if several are, or the file cannot be read.
    """
    own = tuple(UserPrompt(line.strip()) for line in prompts.splitlines() if line.strip())
    given = {"prompts": bool(own), "prompt_list": prompt_list != NONE,
             "prompt_file": bool(prompt_file.strip())}  # fmt: skip
    names = [name for name, there in given.items() if there]
    if len(names) > 1:
        raise DarkMinerError(
            f"{' and '.join(names)} are given, and prompts come from one of them: leave the others "
            "empty."
        )
    if prompt_list != NONE:
        return listed(prompt_list, concept)[:count]
    if prompt_file.strip():
        return read_csv(permitted_file(prompt_file, "prompt_file"))[:count]
    return own


def check_guidance(asked: tuple[UserPrompt, ...], negative: object) -> None:
    """Refuse guidance that has no other side.

    Raises:
        DarkMinerError: if prompts have guidance and negative is not connected.
    """
    if negative is None and any(one.guidance not in (None, 1.0) for one in asked):
        raise DarkMinerError(
            "prompt_file has a column guidance and negative is not connected: connect the empty "
            "prompt, or take the column out."
        )
