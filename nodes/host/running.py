"""Which node is running, and where a person sees it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

from comfy_execution.progress import get_progress_state
from comfy_execution.utils import get_executing_context


@dataclass(frozen=True)
class Running:
    """The node that is running.

    Attributes:
        server: the host's server.
        prompt: the id of what was queued.
        node: the node on the canvas, which the running one may be a copy of; inside a subgraph the
            ids of all that hold it come first (``"12:5"``).
        workflow: the id of the workflow that was queued from a page; empty where nobody knows.
    """

    server: Any
    prompt: str
    node: str
    workflow: str


def the_server() -> Any:
    """The running host's server; None without one: then there is nobody to tell."""
    module = sys.modules.get("server")
    return getattr(getattr(module, "PromptServer", None), "instance", None)


def running() -> Running | None:
    """The node that this thread runs; None outside a run, or without a server."""
    server, context = the_server(), get_executing_context()
    if server is None or context is None:
        return None
    shown = get_progress_state().dynprompt.get_display_node_id(context.node_id)
    return Running(server, context.prompt_id, shown, _workflow(server, context.prompt_id))


def _workflow(server: Any, prompt_id: str) -> str:
    """The id of the workflow that a running prompt was made of."""
    queue = getattr(server, "prompt_queue", None)
    for item in list(getattr(queue, "currently_running", {}).values()):
        if item[1] == prompt_id:
            about = (item[3] or {}).get("extra_pnginfo") or {}
            workflow = about.get("workflow") if isinstance(about, dict) else None
            return str(workflow.get("id") or "") if isinstance(workflow, dict) else ""
    return ""
