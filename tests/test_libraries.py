"""What lies on the machine beside the pack decides nothing: old, broken and missing libraries."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from dark_miner.darkminer.errors import DarkMinerError
from dark_miner.darkminer.libraries import library
from dark_miner.darkminer.model.adapter import Adapters
from torch import nn

from .toy import Denoiser

ROOT = Path(__file__).resolve().parents[1]
INJECT = """
import tests.conftest, torch
from dark_miner.darkminer.model.adapter import Adapters
from tests.toy import Denoiser
network = Denoiser()
Adapters.inject(network, ["attn2.to_v"], 2, 2.0, torch.Generator().manual_seed(0))
print(type(network.attn2.to_v).__module__)
"""


def package(folder: Path, name: str, code: str, version: str | None = None) -> None:
    """A package as an installer leaves it."""
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(code)
    if version is not None:
        about = folder / f"{name}-{version}.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )


def beside(folder: Path, code: str) -> subprocess.CompletedProcess:
    path = os.pathsep.join([str(folder), str(ROOT)])
    return subprocess.run(
        [sys.executable, "-P", "-c", code], env={**os.environ, "PYTHONPATH": path}, text=True,
        capture_output=True,
    )  # fmt: skip


def test_an_old_torchao_does_not_stop_adapters(tmp_path):
    package(tmp_path, "torchao", "raise RuntimeError('built for another torch')", "0.4.0")
    done = beside(tmp_path, INJECT)
    assert done.stdout.strip() == "peft.tuners.lora.layer", done.stderr[-500:]


def test_a_broken_peft_costs_a_sentence_when_it_is_needed_and_no_import(tmp_path):
    package(tmp_path, "peft", "raise ImportError('cannot import name HybridCache')")
    ask = """
import tests.conftest
from dark_miner.darkminer.method import chase, circumvent, loop, mine, verify
from dark_miner.darkminer.model import adapter, merged
from dark_miner.darkminer.libraries import broken
(sentence,) = broken()
print(sentence)
"""
    done = beside(tmp_path, ask)
    assert done.returncode == 0, done.stderr[-500:]
    assert "peft cannot be imported (cannot import name HybridCache)" in done.stdout
    assert "requirements.txt" in done.stdout
    failed = beside(tmp_path, INJECT)
    assert "DarkMinerError: The library peft cannot be imported" in failed.stderr


def test_what_peft_itself_cannot_do_without_is_named(tmp_path):
    """transformers imports it, and peft transformers."""
    package(tmp_path, "bitsandbytes", "raise RuntimeError('built for another torch')", "0.4.0")
    failed = beside(tmp_path, INJECT)
    assert "peft cannot be imported (built for another torch)" in failed.stderr


def test_a_missing_library_is_named_as_it_is_installed():
    with pytest.raises(DarkMinerError, match="no_such_library cannot be imported"):
        library("no_such_library.inside")
    assert library("json") is __import__("json")


def test_adapters_leave_no_note_on_the_network():
    network = Denoiser()
    before = sorted(vars(network))
    Adapters.inject(network, ["attn2.to_v"], 2, 2.0, torch.Generator().manual_seed(0)).remove()
    assert sorted(vars(network)) == before and type(network.attn2.to_v) is nn.Linear
