"""How a node's panel ends, and what a page may ask for; what it shows on its way is in
``test_progress.py``.
"""

import asyncio

import pytest

from .conftest import script
from .test_nodes import loop

pytestmark = pytest.mark.host

ABOUT = {"extra_pnginfo": {"workflow": {"id": "the-workflow"}}}


def kept(comfy, node_id, workflow="the-workflow"):
    """What the server keeps of a node; None where it keeps nothing.

    Args:
        workflow: as a page names it; empty for what no page has queued.
    """

    async def ask(client):
        async with client.session.get(f"http://{comfy.address}/darkminer/state") as answer:
            assert answer.headers["Cache-Control"] == "no-store"
            return (await answer.json())["panels"]

    found = [p for p in comfy.ask(ask) if (p["workflow"], p["node"]) == (workflow, node_id)]
    assert len(found) <= 1
    return found[0] if found else None


def picture(comfy, name):
    async def ask(client):
        async with client.session.get(f"http://{comfy.address}/darkminer/picture/{name}") as answer:
            return answer.status, answer.content_type, await answer.read()

    return comfy.ask(ask)


def test_nothing_but_pictures_of_what_is_kept_can_be_asked_for(comfy):
    for name in ("no", "..%2f..%2fetc%2fpasswd", "0" * 16):
        assert picture(comfy, name)[0] == 404


def test_what_ends_a_run_stands_on_its_panel(comfy):
    """An error's own sentence, also of a run that has hardly begun, in place of the one before."""
    client = script("comfy_server")
    prompt = loop("loras/panel", seed=31)
    prompt["loop"]["inputs"]["anchor_prompt"] = "an ink drawing"
    with pytest.raises(client.ServerError, match="anchor_prompt"):
        comfy.ask(lambda talk: talk.run(prompt, about=ABOUT))
    state = kept(comfy, "loop")
    assert state["state"] == "failed" and "anchor_prompt" in state["words"]
    assert state["looks"] == [] and state["curve"] is None


def test_a_stopped_run_says_where_its_lora_is(comfy):
    client = script("comfy_server")
    prompt = loop("loras/panel", seed=32, circumvent_steps=200)

    async def run(talk):
        ends = []

        def watch(kind, data):
            if kind == "darkminer.panel" and data["title"] == "text start" and not ends:
                ends.append(asyncio.ensure_future(stop(talk)))

        await talk.run(prompt, watch, ABOUT)

    async def stop(talk):
        await talk.session.post(f"http://{comfy.address}/interrupt")

    with pytest.raises(client.ServerError, match="interrupted"):
        comfy.ask(run)
    state = kept(comfy, "loop")
    assert state["state"] == "stopped" and state["words"].startswith("stopped; the LoRA so far is")
