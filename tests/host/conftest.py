"""A real ComfyUI for the tests: in this process, and as a server."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest
from dark_miner.benchmarks.hosted import ROOT, load_pack, script


def pytest_collection_modifyitems(config, items):
    """Of the ways to run a template leave out those that do not run by default."""
    if "templates" in config.option.markexpr:
        return
    kept, left_out = [], []
    for item in items:
        mark = item.get_closest_marker("templates")
        (kept if mark is None or mark.kwargs["by_default"] else left_out).append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept


class Running:
    """A server with the pack in it."""

    def __init__(self, address: str, output: Path):
        self.address, self.output = address, output

    def ask(self, question):
        """Run ``question(client)``."""

        async def talk():
            async with script("comfy_server").Client(self.address) as client:
                return await question(client)

        return asyncio.run(talk())

    def run(self, prompt, watch=lambda *_: None):
        """Run a prompt to its end; its nodes' outputs by node id."""
        return self.ask(lambda client: client.run(prompt, watch))


@pytest.fixture(scope="session")
def comfy(tmp_path_factory):
    """A server on a free port, with folders of its own."""
    if "COMFYUI_PATH" not in os.environ:
        pytest.fail("COMFYUI_PATH names no ComfyUI: run bash scripts/test.sh, which installs one.")
    module, base = script("comfy_server"), tmp_path_factory.mktemp("comfy")
    module.prepare_base(base, ROOT)
    host, output = Path(os.environ["COMFYUI_PATH"]), base / "output"
    with module.Server(host, sys.executable, base, output, cpu=True) as server:
        yield Running(server.address, output)


@pytest.fixture(scope="session")
def hosted():
    """The pack beside the host's own modules, in this process."""
    return load_pack()
