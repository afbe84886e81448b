"""Take a picture of every node of the pack for its help page.

    python scripts/make_help_pictures.py [NODE ...]       then run scripts/make_help.py

It needs the package ``playwright`` and a Chromium, as the browser tests do; ``COMFYUI_PATH`` names
the host. The node is one that was just added, in ComfyUI's page with Nodes 2.0.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

from comfy_server import Server, prepare_base
from make_help import PICTURES, ROOT
from make_workflows import definitions
from PIL import Image

COLOURS = 64
ADD = """(name) => {
  const node = LiteGraph.createNode(name);
  node.pos = [400, 120];
  app.graph.add(node);
  app.canvas.ds.scale = 1;
  app.canvas.ds.offset = [0, 0];
  app.canvas.setDirty(true, true);
  return String(node.id);
}"""
TAKE_AWAY = "(id) => app.graph.remove(app.graph.getNodeById(Number(id)))"
SETTINGS = {"Comfy.VueNodes.Enabled": True, "Comfy.TutorialCompleted": True}


def set_up(address: str) -> None:
    """Nodes 2.0, and nothing that greets a newcomer."""
    for name, value in SETTINGS.items():
        url = f"http://{address}/settings/{name}"
        urllib.request.urlopen(
            urllib.request.Request(url, json.dumps(value).encode(), method="POST"), timeout=30
        ).close()


def taken(page: Any, name: str) -> bytes:
    """PNG of a new node, in few colours: what is drawn is flat."""
    node = page.evaluate(ADD, name)
    page.wait_for_timeout(1200)
    shot = page.locator(f"[data-node-id='{node}']").screenshot()
    page.evaluate(TAKE_AWAY, node)
    picture = (
        Image.open(io.BytesIO(shot)).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    )
    kept = io.BytesIO()
    picture.save(kept, "PNG", optimize=True)
    return kept.getvalue()


def take(names: list[str], chromium: str) -> None:
    from playwright.sync_api import sync_playwright

    host = Path(os.environ["COMFYUI_PATH"])
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as play:
        base = Path(folder)
        prepare_base(base, ROOT)
        with Server(host, sys.executable, base, base / "output", cpu=True) as server:
            set_up(server.address)
            browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1200, "height": 1600})
            page.goto(f"http://{server.address}")
            page.wait_for_function("window.app?.vueAppReady && window.app.graph", timeout=120_000)
            page.wait_for_timeout(3000)
            page.evaluate("app.graph.clear()")
            for name in names:
                (PICTURES / f"{name}.png").write_bytes(taken(page, name))
                print(name)
            browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("nodes", nargs="*", help="ids; none: all")
    options = parser.parse_args()
    ours = [n for n, info in definitions().items() if info["category"].startswith("DarkMiner")]
    if unknown := set(options.nodes) - set(ours):
        parser.error(f"no node of this pack: {', '.join(sorted(unknown))}")
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if chromium is None:
        parser.error("there is no Chromium: install it, or name its program in CHROMIUM")
    take(options.nodes or ours, chromium)


if __name__ == "__main__":
    main()
