"""A real browser on a real server. Not part of the default run: ``-m browser`` asks for it.

It needs the package ``playwright`` and a Chromium (``chromium`` on the PATH, or ``CHROMIUM``); no
browser build is downloaded. Screenshots lie in ``.work/browser``.
"""

from __future__ import annotations

import json
import os
import shutil
import urllib.request
import uuid

import pytest
from dark_miner.benchmarks.hosted import ROOT

from ..host.conftest import comfy  # noqa: F401 - a fixture

SHOTS = ROOT / ".work" / "browser"
READY = "window.app?.vueAppReady && (window.app.isGraphReady ?? window.app.graph)"
FEW = {
    2: {"size": 8, "sampling_steps": 3},
    4: {
        "max_rounds": 1, "sampling_steps": 3, "threshold": "-1", "length": 20, "mine_steps": 8,
        "count": 1, "circumvent_steps": 21, "chase_steps": 3, "bank_size": 6, "run_folder": "off",
    },
}  # fmt: skip
"""Node of the demo's template -> values that make it short."""
AFTER = (7, 8)
"""Nodes that draw pictures with the erased model, which are left out."""


def pytest_collection_modifyitems(config, items):
    """Leave the browser out where nobody asks for it."""
    asked = config.option.markexpr
    left_out = [
        item for item in items
        if any(item.get_closest_marker(mark) and mark not in asked for mark in ("browser", "walk"))
    ]  # fmt: skip
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session")
def chromium():
    """The browser, which needs no network."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        pytest.fail("The browser tests need playwright: pip install playwright.")
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.fail("The browser tests need Chromium: install it, or name its program in CHROMIUM.")
    SHOTS.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as play:
        yield play.chromium.launch(executable_path=path, args=["--no-sandbox"])


class Open:
    """ComfyUI's page with the demo's template in it.

    Attributes:
        faults: what went wrong in the pack's own code, and what nobody caught.
    """

    def __init__(self, context, address, workflow):
        self.page, self._workflow = context.new_page(), workflow
        self.faults = []
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.goto(f"http://{address}")
        self._ready()

    def _heard(self, message):
        url = message.location.get("url", "")
        ours = "/extensions/dark-miner/" in url
        if message.type == "error" and (ours or "arkminer" in message.text):
            self.faults.append(f"{message.text} {url}".strip())

    def _ready(self):
        self.page.wait_for_function(READY, timeout=120_000)
        self.page.wait_for_timeout(2000)

    def load(self, values=FEW, whole=False):
        """The demo's template, made short; whole: with the pictures that are drawn at its end."""
        graph = json.loads((ROOT / "workflows" / "erase_demo.json").read_text(encoding="utf-8"))
        graph["id"] = self._workflow
        for node in graph["nodes"]:
            node["mode"] = 2 if node["id"] in AFTER and not whole else node["mode"]
        self.page.evaluate("graph => app.loadGraphData(graph)", graph)
        for node, changes in values.items():
            for name, value in changes.items():
                self.set(node, name, value)

    def set(self, node, name, value):
        """Write into a widget."""
        self.page.evaluate(
            """([node, name, value]) => {
              app.graph.getNodeById(node).widgets.find((w) => w.name === name).value = value;
            }""",
            [node, name, value],
        )

    def look_at(self, node, below=0):
        """Move the canvas so that a node's left side, from ``below`` its top on, is in view."""
        self.page.evaluate(
            """([id, below]) => {
              const node = app.canvas.graph.getNodeById(id);
              app.canvas.ds.scale = 1;
              app.canvas.ds.offset = [400 - node.pos[0], 100 - below - node.pos[1]];
              app.canvas.setDirty(true, true);
            }""",
            [node, below],
        )
        self.page.wait_for_timeout(500)

    def reload(self):
        self.page.reload()
        self._ready()

    def run(self):
        self.page.evaluate("app.queuePrompt(0, 1)")

    def panel(self, words="", kind="DarkMinerLoop"):
        """The panel of a kind of node, where it holds some words."""
        return self.page.locator(f".dm-panel[data-kind={kind}]", has_text=words)

    def shot(self, name):
        self.page.screenshot(path=SHOTS / f"{name}.png")


def set_host_setting(server, name, value):
    """Write one of ComfyUI's own settings, for every page that opens later."""
    url = f"http://{server.address}/settings/Comfy.{name}"
    asked = urllib.request.Request(url, json.dumps(value).encode(), method="POST")
    urllib.request.urlopen(asked, timeout=30).close()


@pytest.fixture
def opened(chromium, comfy):  # noqa: F811
    """Opens pages of one workflow, which no other test has; each call is another browser."""
    contexts, workflow = [], str(uuid.uuid4())

    def make(*, vue=False):
        set_host_setting(comfy, "VueNodes.Enabled", vue)
        set_host_setting(comfy, "TutorialCompleted", True)
        contexts.append(chromium.new_context(viewport={"width": 1400, "height": 1000}))
        return Open(contexts[-1], comfy.address, workflow)

    yield make
    for context in contexts:
        context.close()
