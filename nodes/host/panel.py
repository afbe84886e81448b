"""What the pack's page shows of a node on its way: kept here, so that it survives a reload.

The newest run of each node is kept, and of few nodes. Every page is told of changes; one that opens
later asks for all that is kept (:func:`add_routes`).
"""

from __future__ import annotations

import io
import secrets
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import comfy.model_management
import numpy as np
from PIL import Image
from torch import Tensor

from ...darkminer.errors import writable
from ...darkminer.progress.board import Board, Look
from ...darkminer.progress.course import Course
from ...darkminer.types import StepReport
from .running import Running, running, the_server

EVENT = "darkminer.panel"
STATES = "/darkminer/state"
PICTURES = "/darkminer/picture/{name}"

_SECONDS_BETWEEN_UPDATES = 0.5
_PANELS = 32  # nodes whose newest run is kept
_SIDE = 160  # pixels of a picture's longer side
_WORDS = 2000  # letters of a sentence


@dataclass(frozen=True)
class Picture:
    """A small picture as pages ask for it."""

    name: str
    body: bytes
    kind: str


@dataclass(frozen=True)
class Kept:
    """A node's newest run.

    Attributes:
        prompt: the id of what was queued.
        told: what a page is told.
        looks: the verifications in it.
        note: what else the run has said to a person.
        end: what it has said where something ended it.
    """

    prompt: str
    told: dict[str, Any]
    looks: tuple[Look, ...] = ()
    note: str = ""
    end: str = ""

    @property
    def pictures(self) -> Iterator[Picture]:
        """The pictures of the verifications."""
        return (picture for look in self.looks for picture in look.pair or ())


class Panels:
    """The newest run of each node, the oldest forgotten first; threads may share it."""

    def __init__(self, most: int = _PANELS):
        self._most, self._lock = most, threading.Lock()
        self._kept: dict[tuple[str, str], Kept] = {}

    def of(self, where: Running) -> Kept | None:
        """What is kept of the node, where it is of the same prompt."""
        with self._lock:
            kept = self._kept.get((where.workflow, where.node))
        return kept if kept is not None and kept.prompt == where.prompt else None

    def keep(self, where: Running, kept: Kept) -> None:
        """Keep a node's newest run in place of the one before."""
        with self._lock:
            self._kept.pop((where.workflow, where.node), None)
            self._kept[where.workflow, where.node] = kept
            for key in list(self._kept)[: -self._most]:
                del self._kept[key]

    def told(self) -> list[dict[str, Any]]:
        """All that is kept, the oldest first."""
        with self._lock:
            return [kept.told for kept in self._kept.values()]

    def picture(self, name: str) -> Picture | None:
        """A picture of what is kept."""
        with self._lock:
            every = (picture for kept in self._kept.values() for picture in kept.pictures)
            return next((picture for picture in every if picture.name == name), None)


PANELS = Panels()


class Panel:
    """Shows one node's run; where nothing runs, or nobody could look, it does nothing.

    Args:
        node: the node's kind; course: follows the same reports, before this.
    """

    def __init__(self, node: str, course: Course):
        self._node, self._where = node, running()
        if self._where is None:
            return
        before = PANELS.of(self._where)  # by an earlier piece of the same run
        self._began = before.told["began"] if before is not None else time.time()
        self._board = Board(course, encoded, before.looks if before is not None else ())
        self._tell("running", "loading the model")

    def __call__(self, report: StepReport) -> None:
        if self._where is None:
            return
        self._board(report)
        if time.monotonic() - self._said >= _SECONDS_BETWEEN_UPDATES:
            self._tell("running")

    def note(self, text: str) -> None:
        """A sentence beside all else."""
        if self._where is not None:
            note(self._where, text)

    def done(self, words: str) -> None:
        """What has come of it."""
        if self._where is not None:
            self._tell("done", words)

    def _tell(self, state: str, words: str = "") -> None:
        assert self._where is not None
        self._said = time.monotonic()
        before = PANELS.of(self._where)
        note = before.note if before is not None else ""
        looks = self._board.looks
        told = {
            **_about(self._where, self._node, state, words), **self._board.told(), "note": note,
            "began": self._began, "looks": [
                {**look.figures, "pair": look.pair and [p.name for p in look.pair]}
                for look in looks
            ],
        }  # fmt: skip
        _tell(self._where, Kept(self._where.prompt, told, looks, note))


def note(where: Running, text: str, *, ends: bool = False) -> None:
    """Have a node's panel, if it has one, show a sentence from its next change on.

    Args:
        ends: whether something ends the run, which :func:`broken` will say.
    """
    kept, text = PANELS.of(where), writable(text)
    if kept is not None:
        PANELS.keep(where, replace(kept, end=text) if ends else replace(kept, note=text))


def broken(node: str, error: BaseException) -> None:
    """Leave on the running node's panel what ended it: the stop button, or an error's sentence."""
    where = running()
    if where is None:
        return
    kept = PANELS.of(where) or Kept(where.prompt, _nothing())
    stopped = isinstance(error, comfy.model_management.InterruptProcessingException)
    words = "" if stopped else str(error) or type(error).__name__
    words = "\n".join(filter(None, (words, kept.end)))
    about = _about(where, node, "stopped" if stopped else "failed", words)
    _tell(where, replace(kept, told={**kept.told, **about, "left": "", "note": ""}))


def _tell(where: Running, kept: Kept) -> None:
    """Keep it, and tell every page that is open."""
    PANELS.keep(where, kept)
    where.server.send_sync(EVENT, kept.told)


def _about(where: Running, node: str, state: str, words: str) -> dict[str, Any]:
    words = writable(words)
    words = words if len(words) <= _WORDS else f"{words[:_WORDS]}…"
    return {
        "prompt_id": where.prompt, "workflow": where.workflow, "node": where.node, "kind": node,
        "state": state, "words": words, "now": time.time(),
    }  # fmt: skip


def _nothing() -> dict[str, Any]:
    """What a run that has reported nothing shows."""
    return {**Board(Course(), encoded).told(), "looks": [], "note": "", "began": time.time()}


def encoded(picture: Tensor) -> Picture:
    """A picture ``[H, W, 3]`` in 0..1 as a small file."""
    pixels = (picture.float().clamp(0, 1).cpu().numpy() * 255).round().astype(np.uint8)
    image, file = Image.fromarray(pixels), io.BytesIO()
    hard = max(image.size) <= _SIDE // 2  # its pixels are to be seen
    if not hard:
        image.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    image.save(file, "PNG" if hard else "JPEG", quality=85)
    return Picture(secrets.token_hex(8), file.getvalue(), "image/png" if hard else "image/jpeg")


def add_routes() -> None:
    """Let pages ask for what is kept; to be called once, before the server starts."""
    server = the_server()
    if server is None:
        return
    from aiohttp import web

    async def states(_: Any) -> Any:
        return web.json_response({"panels": PANELS.told()}, headers={"Cache-Control": "no-store"})

    async def picture(request: Any) -> Any:
        found = PANELS.picture(request.match_info["name"])
        if found is None:
            raise web.HTTPNotFound(text="This picture is not kept any more.")
        kept = {"Cache-Control": "private, max-age=86400, immutable"}
        return web.Response(body=found.body, content_type=found.kind, headers=kept)

    server.routes.get(STATES)(states)
    server.routes.get(PICTURES)(picture)
