"""A library that cannot be imported: its nodes say so, the others are there."""

import os
import subprocess
import sys

import pytest
from dark_miner.benchmarks.hosted import ROOT

pytestmark = pytest.mark.host

ASK = """
import asyncio, logging
logging.basicConfig(level=logging.WARNING)
import tests.conftest
from dark_miner.benchmarks.hosted import load_pack
load_pack()
import dark_miner
extension = asyncio.run(dark_miner.comfy_entrypoint())
nodes = asyncio.run(extension.get_node_list())
print(sorted(node.define_schema().node_id for node in nodes))
"""


def test_the_nodes_are_there_without_peft_and_the_log_says_why(tmp_path):
    (tmp_path / "peft.py").write_text("raise ImportError('cannot import name HybridCache')")
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-P", "-c", ASK], env={**os.environ, "PYTHONPATH": path}, text=True,
        capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-800:]
    assert "'CombineErasures'" in done.stdout and "'DarkMinerLoop'" in done.stdout
    assert "Dark Miner: The library peft cannot be imported (cannot import" in done.stderr
