"""A real ComfyUI for the tests: in this process, and as a server."""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
from pathlib import Path

import pytest
import torch
from dark_miner.benchmarks.hosted import ROOT, load_pack, script

BY_MARK = ("checkpoint", "eval_unlearn")
"""Marks whose tests run only where they are asked for."""


def pytest_collection_modifyitems(config, items):
    """Leave out what runs by its mark only: most ways to run a template, and long commands."""
    asked = config.option.markexpr
    kept, left_out = [], []
    for item in items:
        mark = item.get_closest_marker("templates")
        way = mark is None or mark.kwargs["by_default"] or "templates" in asked
        unasked = [m for m in BY_MARK if item.get_closest_marker(m) and m not in asked]
        (kept if way and not unasked else left_out).append(item)
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


def pack(name):
    """A module of the pack; there is one once ``hosted`` has loaded it."""
    return importlib.import_module(f"dark_miner.{name}")


@pytest.fixture(scope="module")
def nodes(hosted):
    return {node.define_schema().node_id: node for node in pack("nodes").NODES}


@pytest.fixture(scope="module")
def sockets(hosted):
    """A good value for every kind of socket, all of one world."""
    types = pack("darkminer.types")
    model, clip, vae, vision = pack("demo.models").load_demo_models()
    prompt = pack("nodes.host.text").conditioning(clip, "a drawing")
    width = prompt[0][0].shape[-1]
    latents, images = torch.zeros(4, 8, 8, 8), torch.zeros(4, 32, 32, 3, dtype=torch.uint8)
    names = pack("nodes.host.lora").names_of(model)
    lora = {}
    for path, stem in names.items():
        weight = model.model.diffusion_model.get_submodule(path).weight
        lora[f"{stem}.lora_up.weight"] = torch.zeros(weight.shape[0], 2)
        lora[f"{stem}.lora_down.weight"] = torch.zeros(2, weight.flatten(1).shape[1])
        lora[f"{stem}.alpha"] = torch.tensor(2.0)
    found = types.MinedEmbedding(torch.zeros(3, width), 0, kind="text", prompt="ink")
    return {
        "MODEL": model, "CLIP": clip, "VAE": vae, "CLIP_VISION": vision, "CONDITIONING": prompt,
        "IMAGE": torch.zeros(2, 32, 32, 3), "LORA_MODEL": lora,
        "DARKMINER_POOL": types.ImagePool(
            latents, images, "ink", "a ink drawing", 0, "", template="a * drawing"
        ),
        "DARKMINER_EMBEDDINGS": types.EmbeddingPool((found,), concept="ink"),
        "DARKMINER_BANK": types.RetainSet(
            torch.zeros(2, 3, width), torch.zeros(2, 1, 8, 8, 8), ("a", "b")
        ),
        "DARKMINER_SETTINGS": pack("darkminer.config").FAST,
        "DARKMINER_RED_TEAM": examined(),
        "DARKMINER_ROUND": pack("nodes.erase.rounds").RoundState(
            None, types.EmbeddingPool(), 0, 1
        ),
    }  # fmt: skip


def examined():
    """Findings of a red team that attacked nothing: two prompts as they are."""
    attacks, judge = pack("darkminer.attacks.red_team"), pack("darkminer.judge.detectors")
    attempt = pack("darkminer.attacks.scene").Attempt("a ink drawing", torch.zeros(3, 4))
    sight = judge.Sight(torch.tensor([0.9, 0.2]), torch.tensor([True, False]))
    pictures = torch.rand(2, 32, 32, 3, generator=torch.Generator().manual_seed(0))
    row = attacks.Row("asked in words", [attempt, attempt], pictures, sight)
    identity = judge.Identity("gallery judge", "style ink", None, ("ink", "noto"))
    record = pack("darkminer.attacks.examined")
    prompt = pack("darkminer.judge.user_prompts").UserPrompt("a ink drawing")
    protocol = record.Protocol(
        "ink", (prompt,) * 2, 0, "short", {},
        pack("darkminer.model.sampling").SamplingConfig(2, 1.0, "euler", "normal", 4), identity,
    )  # fmt: skip
    return record.Examined(attacks.RedTeam({"words": row}, str(identity)), protocol)
