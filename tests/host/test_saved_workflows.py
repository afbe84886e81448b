"""Workflows that somebody saved before nodes got further inputs: they load and mean the same.

``templates_before`` holds the templates as they once were, in both formats, and never changes. A
new input goes behind a node's others and has a default that leaves the node as it was.
"""

import os
import sys
from pathlib import Path

import pytest

from .conftest import ROOT, Running, script
from .frontend import to_api
from .test_workflows import bare, place_empty_models, read

pytestmark = pytest.mark.host

BEFORE = Path(__file__).parent / "templates_before"
NAMES = sorted(path.stem for path in BEFORE.glob("*.json"))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    module, base = script("comfy_server"), tmp_path_factory.mktemp("saved")
    module.prepare_base(base, ROOT)
    place_empty_models(base, BEFORE / "api")
    host, output = Path(os.environ["COMFYUI_PATH"]), base / "output"
    with module.Server(host, sys.executable, base, output, cpu=True) as server:
        running = Running(server.address, output)
        running.definitions = running.ask(lambda client: client.object_info())
        yield running


def accepted(server, prompt):
    """Queue a prompt and stop it: a refused one raises with the reasons."""

    async def queue(client):
        await client.queue(prompt)
        for path, body in (("queue", {"clear": True}), ("interrupt", {})):
            await client.session.post(f"http://{server.address}/{path}", json=body)

    server.ask(queue)


def test_there_are_saved_workflows_in_both_formats():
    assert len(NAMES) >= 7 and {path.stem for path in (BEFORE / "api").glob("*.json")} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_api_prompt_is_accepted(server, name):
    """Nothing in it is unknown by now: the host would leave that out without a word."""
    prompt = read(BEFORE / "api" / f"{name}.json")
    for node in prompt.values():
        known = server.definitions[node["class_type"]]["input"]
        assert node["inputs"].keys() <= known["required"].keys() | known.get("optional", {}).keys()
    accepted(server, prompt)


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_workflow_is_accepted_and_says_what_it_said(server, name):
    """Each value still stands in the widget that it was saved from."""
    graph = read(BEFORE / f"{name}.json")
    prompt = to_api(graph, server.definitions, older=True)
    saved = bare(read(BEFORE / "api" / f"{name}.json"))
    assert prompt.keys() == saved.keys()
    for node_id, node in saved.items():
        assert prompt[node_id]["class_type"] == node["class_type"]
        assert prompt[node_id]["inputs"].items() >= node["inputs"].items()
    accepted(server, prompt)
