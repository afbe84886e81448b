"""The commands for a user's own checkpoint, run as one would, on a stand-in for SD 1.5's file."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from . import standins
from .conftest import ROOT, pack
from .miniature import FAMILIES, fill

pytestmark = pytest.mark.host

DRAW = ["--width", "64", "--height", "64", "--steps", "2", "--cfg", "2"]


@pytest.fixture(scope="module")
def files(hosted, tmp_path_factory):
    """Checkpoint, the judge's CLIP, an erasure of the checkpoint's, and a host to load them."""
    import comfy.sd

    folder = tmp_path_factory.mktemp("own")
    standins.host_of_few_layers(Path(os.environ["COMFYUI_PATH"]), folder / "host")
    half = {k: (v.half() if v.is_floating_point() else v).contiguous().clone()
            for k, v in standins.checkpoint("sd15").items()}  # fmt: skip
    save_file(half, folder / "model.safetensors")
    clip = standins.open_clip()
    # Random weights point away from every text: turned round, the scores are no zeros.
    clip["text_projection"] = -clip["text_projection"]
    save_file(clip, folder / "clip.safetensors")
    model = comfy.sd.load_checkpoint_guess_config(
        str(folder / "model.safetensors"), output_vae=False, output_clip=False
    )[0]
    lora, gen = {}, torch.Generator().manual_seed(0)
    for path, stem in pack("nodes.host.lora").names_of(model).items():
        weight = model.model.diffusion_model.get_submodule(path).weight
        lora[f"{stem}.lora_up.weight"] = 0.1 * torch.randn(weight.shape[0], 2, generator=gen)
        lora[f"{stem}.lora_down.weight"] = torch.randn(2, weight.flatten(1).shape[1], generator=gen)
        lora[f"{stem}.alpha"] = torch.tensor(2.0)
    save_file(lora, folder / "erase.safetensors")
    (folder / "captions.txt").write_text("a red car\na house by the sea\n")
    return folder


def command(files, module, *options):
    judge = ["--open-clip", standins.OPEN_CLIP, "--open-clip-weights", files / "clip.safetensors"]
    return subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", *map(str, [*judge, *DRAW, *options])],
        cwd=ROOT, env={**os.environ, "COMFYUI_PATH": str(files / "host")}, text=True,
        capture_output=True, timeout=300,
    )  # fmt: skip


@pytest.mark.checkpoint
def test_a_report_card_of_a_checkpoint_and_its_erasure(files):
    done = command(
        files, "red_team", "--checkpoint", files / "model.safetensors", "--concept", "van gogh",
        "--lora", files / "erase.safetensors", "--card", files / "card", "--short", "--prompts", 1,
        "--attacks", "completion",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads((files / "card" / "card.json").read_text("utf-8"))
    assert list(told["models"]) == ["before", "after"] and told["concept"] == "van gogh"
    for column in told["models"].values():
        assert list(column["attacks"]) == ["words", "completion"]
        assert column["attacks"]["completion"]["success"]["count"] == 1
    assert told["models"]["after"]["lora"] and not told["models"]["before"]["lora"]
    assert [p["strength"] for p in told["effects"]["strengths"]] == [0.25, 0.5, 0.75, 1.0]
    assert told["effects"]["drift"]["value"] > 0.01
    prompts = [p["prompt"] if "prompt" in p else p["text"] for p in told["protocol"]["prompts"]]
    assert all("van gogh" in p.casefold() for p in prompts)
    assert told["protocol"]["sampling"]["steps"] == 2 and "60 texts" in done.stdout
    page = (files / "card" / "card.html").read_text("utf-8")
    assert "Strength and drift" in page and (files / "card" / "card.png").is_file()
    assert "peak memory" in done.stdout and "GiB" in done.stdout
    assert re.search(r"RedTeam: (about \d+|a few seconds)", done.stderr)


@pytest.mark.checkpoint
def test_clip_score_of_a_checkpoint_before_and_after(files):
    done = command(
        files, "fidelity", "--checkpoint", files / "model.safetensors", "--lora",
        files / "erase.safetensors", "--captions", files / "captions.txt", "--json",
        files / "figures.json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads((files / "figures.json").read_text("utf-8"))
    assert list(told) == ["before", "after"]
    before, after = (told[name]["clip_score"] for name in told)
    assert before["count"] == 2 and before["value"] != after["value"]
    assert told["after"]["distance"] is None and "no folder of real pictures" in done.stdout


@pytest.mark.parametrize(
    "module, options, words",
    [
        ("red_team", ["--checkpoint", "none.safetensors"], "none.safetensors is no file"),
        ("red_team", ["--checkpoint", "FILE"], "needs --concept"),
        ("red_team", ["--checkpoint", "FILE", "--concept", "x"], "needs --lora"),
        ("red_team", ["--checkpoint", "FILE", "--concept", "x", "--template", "y"], "has no *"),
        ("red_team", ["--checkpoint", "FILE", "--clip", "a", "b"], "--clip a is no file"),
        ("fidelity", ["--captions", "FILE"], "--checkpoint is needed"),
        ("fidelity", ["--checkpoint", "FILE", "--captions", "FILE", "--fid-weights", "FILE"],
         "--fid-weights needs --folder"),
        ("fidelity", ["--checkpoint", "FILE", "--captions", "FILE", "--count", "1"], "2 at least"),
    ],
)  # fmt: skip
def test_what_is_missing_ends_the_command_before_anything_is_loaded(
    hosted, module, options, words, tmp_path, monkeypatch, capsys
):
    (tmp_path / "file").write_text("a file")
    given = [str(tmp_path / "file") if o == "FILE" else o for o in options]
    monkeypatch.setattr(sys, "argv", [module, *given])
    with pytest.raises(SystemExit) as ended:
        pack(f"benchmarks.{module}").parsed()
    assert ended.value.code == 2 and words in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    "changes, words",
    [({"clip_type": "sd9"}, "--clip-type 'sd9': choose of .*flux"), ({}, "holds no text encoder")],
)
def test_a_file_that_is_not_a_whole_checkpoint_says_what_to_name(hosted, tmp_path, changes, words):
    """A network alone is read by the host as a checkpoint without the rest."""
    network = fill(FAMILIES["sd15"].network(), 0)
    tensors = {f"model.diffusion_model.{k}": v.contiguous().clone()
               for k, v in network.state_dict().items()}  # fmt: skip
    save_file(tensors, tmp_path / "network.safetensors")
    args = SimpleNamespace(**{
        "checkpoint": tmp_path / "network.safetensors", "clip": [], "vae": None,
        "clip_type": "stable_diffusion", **changes,
    })  # fmt: skip
    with pytest.raises(SystemExit, match=words):
        pack("benchmarks.checkpoint").load(args)
