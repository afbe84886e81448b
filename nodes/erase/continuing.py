"""Going on with an erasure: what an earlier run hands over, and what is not done twice."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from comfy_api.latest import io

from ...darkminer.config import EraseConfig
from ...darkminer.errors import DarkMinerError
from ...darkminer.types import EmbeddingPool, ImagePool
from .. import sockets

log = logging.getLogger(__name__)

OPENINGS = ("when new", "always", "never")


def continuing_inputs() -> list:
    """What a loop goes on from besides ``lora``; they stand behind all other inputs."""
    return [
        sockets.Embeddings.Input(
            "embeddings", optional=True,
            tooltip="What the erasure in lora has found so far: rounds and seeds go on from there.",
        ),
        io.Combo.Input(
            "opening", options=list(OPENINGS), default=OPENINGS[0], optional=True, advanced=True,
            tooltip="The preset's text start and chase, before the first round. when new: left out "
            "where lora and embeddings are both connected. always: once more, at full rates. "
            "never: rounds only.",
        ),
    ]  # fmt: skip


def opens(choice: str, lora: Any, embeddings: EmbeddingPool | None) -> bool:
    """Whether text start and chase come before the first round."""
    if choice == "when new":
        return lora is None or embeddings is None
    return choice == "always"


def check_continued(lora: Any, embeddings: EmbeddingPool | None, pool: ImagePool) -> None:
    """Refuse embeddings that are not those of ``lora``.

    A LoRA alone is another erasure's, on top of which this one is trained; where it is of the same
    concept the log says that embeddings are missing.

    Raises:
        DarkMinerError: if so, and if embeddings of mined rounds come without their LoRA.
    """
    metadata = getattr(lora, "metadata", {})
    if embeddings is None:
        if metadata.get("darkminer_concept") == pool.concept:
            log.warning(
                "lora is an erasure of %r and embeddings is not connected: rounds and seeds begin "
                "anew; connect its embeddings to go on with it.", pool.concept,
            )  # fmt: skip
        return
    if embeddings.round and lora is None:
        raise DarkMinerError(
            f"embeddings has {embeddings.round} rounds behind it and lora is not connected: "
            "connect the lora that the same node gives."
        )
    about = metadata.get("darkminer_rounds", "")
    if about.isdecimal() and int(about) > embeddings.round:
        raise DarkMinerError(
            f"lora is of round {about} and embeddings of round {embeddings.round}: connect the "
            "lora and the embeddings that one node gives."
        )


def first_embeddings(
    given: EmbeddingPool | None, config: EraseConfig, texts: Callable[[], EmbeddingPool]
) -> EmbeddingPool | None:
    """What a run begins with: what it was given, and the concept's own contexts.

    Args:
        texts: makes these contexts; asked where the preset has a text start and none were given.
    """
    if not config.text_start or (given is not None and given.text_tokens() is not None):
        return given
    made = texts()
    return made if given is None else replace(given, entries=(*made.entries, *given.entries))


def without_opening(config: EraseConfig) -> EraseConfig:
    """The same settings with neither text start nor chase nor repair: rounds only.

    A vocabulary bank that only those look at is not made.
    """
    bank = config.bank if config.retain.weight else replace(config.bank, size=0)
    return replace(
        config, text_start=False, chase=replace(config.chase, steps=0),
        repair=replace(config.repair, steps=0), bank=bank,
    )  # fmt: skip
