"""DarkMinerRoundOpen and DarkMinerRoundClose: the loop as a visible graph.

What stands between the two is one round: mine, verify, circumvent, and any other node. The close
node repeats it by node expansion: it copies the body into a new piece of graph that starts from
this round's LoRA and embeddings, handed on as links, until verification says no or the rounds are
spent. Then it copies the body once more, to mine and to verify without training: the score is that
of the erasure which is handed on. What hangs off the body without leading to the close node (a
preview, say) shows round 1.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from comfy_api.latest import io
from comfy_execution.graph_utils import GraphBuilder, is_link

from ...darkminer.errors import DarkMinerError
from ...darkminer.files.lora_outcome import is_empty, with_outcome
from ...darkminer.method.outcome import nothing_found, outcome_of
from ...darkminer.types import EmbeddingPool
from .. import sockets
from ..host.run import say

log = logging.getLogger(__name__)

OPEN, CLOSE = "DarkMinerRoundOpen", "DarkMinerRoundClose"


@dataclass(frozen=True)
class RoundState:
    """What the close node must know of the round it closes."""

    lora: Any
    embeddings: EmbeddingPool
    done: int
    max_rounds: int

    @property
    def last(self) -> bool:
        """Whether it only looks at what the rounds have made, and trains nothing."""
        return self.done >= self.max_rounds

    def trains(self, there: bool, judged: EmbeddingPool) -> bool:
        """Whether CircumventLoRA is asked for: to train, or for a LoRA where there is none yet."""
        if self.last:
            return False
        return there or (self.lora is None and nothing_found(judged))


class DarkMinerRoundOpen(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id=OPEN,
            display_name="Round: Open",
            category="DarkMiner",
            description="Opens a round; what follows up to Round: Close is repeated.",
            inputs=[
                io.Int.Input(
                    "max_rounds", default=4, min=1, max=1000, tooltip="Rounds at the most."
                ),
                sockets.Embeddings.Input(
                    "embeddings", optional=True,
                    tooltip="What was found before the first round (the concept's own contexts).",
                ),
                sockets.Lora.Input(
                    "lora", optional=True, tooltip="The erasure before the first round."
                ),
                io.Int.Input(
                    "done", default=0, min=0, max=1000, optional=True,
                    tooltip="Rounds already run. Leave it at 0: the close node counts.",
                ),
            ],
            outputs=[
                sockets.Round.Output(display_name="round", tooltip="For Round: Close."),
                sockets.Lora.Output(display_name="lora", tooltip="The erasure so far."),
                sockets.Embeddings.Output(display_name="embeddings", tooltip="Found so far."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, max_rounds, embeddings=None, lora=None, done=0):
        embeddings = embeddings or EmbeddingPool()
        return io.NodeOutput(RoundState(lora, embeddings, done, max_rounds), lora, embeddings)


class DarkMinerRoundClose(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id=CLOSE,
            display_name="Round: Close",
            category="DarkMiner",
            description="Closes a round: repeats it while the concept is still there.",
            inputs=[
                sockets.Round.Input("round", tooltip="From Round: Open."),
                io.Boolean.Input(
                    "verified", display_name="still_there", force_input=True,
                    tooltip="From Verify (Delta CLIP) or Attack Erasure: true while the concept is "
                    "still there, which asks for another round.",
                ),
                io.Float.Input(
                    "score", force_input=True, tooltip="From Verify (Delta CLIP): the score."
                ),
                sockets.Embeddings.Input(
                    "judged", tooltip="The embeddings of Verify (Delta CLIP)."
                ),
                sockets.Lora.Input(
                    "lora", lazy=True, tooltip="From Circumvent (LoRA); only made when still there."
                ),
                sockets.Embeddings.Input(
                    "embeddings", lazy=True,
                    tooltip="From Circumvent (LoRA); only made when still there.",
                ),
            ],
            outputs=[
                sockets.Lora.Output(display_name="lora", tooltip="The erasure."),
                sockets.Embeddings.Output(display_name="embeddings", tooltip="What was found."),
                io.Int.Output(display_name="rounds", tooltip="Rounds that mined."),
                io.Float.Output(
                    display_name="score",
                    tooltip="Highest score of the last verification, which looks at the LoRA that "
                    "is handed on.",
                ),
                io.String.Output(
                    display_name="summary", tooltip="What has come of it, in words."
                ),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt],
            enable_expand=True,
        )  # fmt: skip

    @classmethod
    def check_lazy_status(cls, round, verified, score, judged, lora=None, embeddings=None):
        return ["lora", "embeddings"] if round.trains(verified, judged) else []

    @classmethod
    def execute(cls, round, verified, score, judged, lora=None, embeddings=None):
        if round.trains(verified, judged) and (lora is None or embeddings is None):
            missing = "lora" if lora is None else "embeddings"
            raise DarkMinerError(
                f"{CLOSE}: {missing} got nothing (None): connect the {missing} of CircumventLoRA."
            )
        if verified and not round.last:
            graph, last = next_round(cls.hidden.dynprompt, cls.hidden.unique_id, round.done + 1)
            return io.NodeOutput(*(last.out(i) for i in range(5)), expand=graph.finalize())
        made = round.lora if round.lora is not None else lora or {}
        found = round.embeddings.looked_at(judged) if round.last else judged
        outcome = outcome_of(found, verified, score, is_empty(made), judged.round)
        log.info("%s: %s", CLOSE, outcome.words)
        say(outcome.words)
        rounds = round.done if round.last else round.done + 1
        return io.NodeOutput(
            with_outcome(made, found, empty=outcome.empty, words=outcome.words), found, rounds,
            score, outcome.words, ui={"text": [outcome.words]},
        )  # fmt: skip


def next_round(dynprompt: Any, close_id: str, done: int) -> tuple[GraphBuilder, Any]:
    """The body once more, from this round's results on; returns the graph and its close node."""
    closing = dynprompt.get_node(close_id)["inputs"]
    open_id = closing["round"][0]
    body = _between(dynprompt, open_id, close_id)
    graph = GraphBuilder()
    # Copies are named as the node on the canvas, so that ids do not grow with every round.
    names: dict[str, str] = {}
    for node_id in body:
        shown = dynprompt.get_display_node_id(node_id)
        names[node_id] = shown
        graph.node(dynprompt.get_node(node_id)["class_type"], shown).set_override_display_id(shown)
    for node_id in body:
        node = graph.lookup_node(names[node_id])
        assert node is not None
        for key, value in dynprompt.get_node(node_id)["inputs"].items():
            if is_link(value) and value[0] in body:
                value = graph.lookup_node(names[value[0]]).out(value[1])  # type: ignore[union-attr]
            node.set_input(key, value)
    opening = graph.lookup_node(names[open_id])
    last = graph.lookup_node(names[close_id])
    assert opening is not None and last is not None
    opening.set_input("lora", closing["lora"])
    opening.set_input("embeddings", closing["embeddings"])
    opening.set_input("done", done)
    return graph, last


def _between(dynprompt: Any, open_id: str, close_id: str) -> list[str]:
    """Nodes that lie on a path from the open to the close node, both included."""
    children: dict[str, set[str]] = {}
    seen, waiting = {close_id}, [close_id]
    while waiting:
        node_id = waiting.pop()
        for value in dynprompt.get_node(node_id).get("inputs", {}).values():
            if is_link(value):
                children.setdefault(value[0], set()).add(node_id)
                if value[0] not in seen:
                    seen.add(value[0])
                    waiting.append(value[0])
    body, waiting = {open_id}, [open_id]
    while waiting:
        for child in children.get(waiting.pop(), ()):
            if child not in body:
                body.add(child)
                waiting.append(child)
    return sorted(body)
