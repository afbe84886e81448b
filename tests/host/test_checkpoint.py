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


TINY = [
    f"--set={name}.{place}={value}" for name, values in {
        "esd-x": {"steps": 2, "draw_steps": 2, "rank": 2}, "uce": {"rank": 2},
        "ca": {"steps": 1, "prompts": 2, "batch": 1, "rank": 2},
        "paper": {
            "max_rounds": 1, "mine.steps": 2, "mine.lr_drop": 2, "verify.threshold": -1,
            "circumvent.steps": 2, "circumvent.lr_drop": 2, "circumvent.images": 2,
        },
    }.items() for place, value in values.items()
]  # fmt: skip


@pytest.mark.checkpoint
def test_methods_beside_one_another_on_a_checkpoint(files):
    out, asked = files / "beside", ["--only", "none,esd-x,uce,ca,sld-max,paper", "--seed", 1]

    def compared(*more):
        return command(
            files, "comparison", "--on", files / "model.safetensors", "--concept", "van gogh",
            "--prompts", 1, "--each", 1, "--pool", 3, "--attacks", "completion", "--out", out,
            "--keep", files / "captions.txt", *asked, *TINY, *more,
        )  # fmt: skip

    done = compared()
    assert done.returncode == 0, done.stderr[-2000:]
    rows = {f.stem: json.loads(f.read_text("utf-8")) for f in out.glob("*.json")}
    given = rows.pop("asked")
    assert given["concept"] == "van gogh" and given["set"]["uce"] == {"rank": 2}
    assert rows.keys() == {"none", "esd-x", "uce", "ca", "sld-max", "paper"}, done.stdout
    assert {f.stem for f in out.glob("*.safetensors")} == {"esd-x", "uce", "ca", "paper"}
    assert rows["none"]["likeness"] == pytest.approx(1.0) and rows["none"]["seconds"] == 0
    assert rows["none"]["keep"] == ["a red car", "a house by the sea"]
    for name, row in rows.items():
        assert [title for title, *_ in row["attacks"]] == ["asked in words", "completion"]
        assert row["kept"]["count"] == 2
        assert (row["kept"]["value"] == rows["none"]["kept"]["value"]) == (name == "none")
    assert rows["esd-x"]["settings"]["steps"] == 2 and rows["esd-x"]["settings"]["part"] == "x"
    table = (out / "table.md").read_text("utf-8")
    assert (
        table.count("\n| ") == 7 and table.strip() in done.stdout and (out / "table.png").is_file()
    )

    (out / "uce.json").unlink()
    made = {f: f.stat().st_mtime_ns for f in out.glob("*.safetensors")}
    again = compared()
    assert again.returncode == 0, again.stderr[-2000:]
    assert {f: f.stat().st_mtime_ns for f in made} == made
    assert json.loads((out / "uce.json").read_text("utf-8")) == rows["uce"]
    other = compared("--cfg", "3")
    assert other.returncode == 1 and "holds rows of another cfg (2.0, now 3.0)" in other.stderr


@pytest.mark.parametrize(
    "module, options, words",
    [
        ("red_team", ["--checkpoint", "none.safetensors"], "none.safetensors is no file"),
        ("red_team", ["--checkpoint", "FILE"], "needs --concept"),
        ("red_team", ["--checkpoint", "FILE", "--concept", "x"], "needs --lora"),
        ("red_team", ["--checkpoint", "FILE", "--concept", "x", "--template", "y"], "has no *"),
        ("red_team", ["--checkpoint", "FILE", "--clip", "a", "b"], "--clip a is no file"),
        ("comparison", ["--on", "none.ckpt"], "--on none.ckpt is no file"),
        ("comparison", ["--on", "FILE"], "--on needs --concept"),
        ("comparison", ["--on", "FILE", "--concept", "x", "--template", "y"], "has no *"),
        ("comparison", ["--on", "FILE", "--concept", "x", "--keep", "k"], "--keep k is no file"),
        ("comparison", ["--on", "FILE", "--concept", "x", "--detector", "gallery"],
         "knows the gallery alone"),
        ("comparison", ["--on", "FILE", "--concept", "x", "--detector", "taste"],
         "invalid choice: 'taste'"),
        ("comparison", ["--on", "FILE", "--concept", "x", "--only", "uce,magic"],
         "--only magic: choose of none, esd-x"),
        ("comparison", ["--on", "FILE", "--concept", "x", "--attacks", "magic"],
         "no attack 'magic'"),
        ("comparison", ["--on", "FILE", "--concept", "x", "--pool", "0"], "1 at least"),
        ("comparison", ["--on", "FILE", "--concept", "x", "--set", "esd-x"],
         "write METHOD.INPUT=VALUE"),
        ("comparison", ["--on", "FILE", "--concept", "x", "--set", "esd-x.part=u"],
         "esd-x has no input part; it has: eta, steps"),
        ("comparison", ["--on", "FILE", "--concept", "x", "--set", "esd-x.steps=many"],
         "'many' is no number"),
        ("comparison", ["--on", "FILE", "--concept", "x", "--set", "esd-x.steps=0"], "steps"),
        ("comparison", ["--on", "FILE", "--concept", "x", "--set", "fast.magic=1"],
         "a setting there is"),
        ("comparison", ["--concept", "x"], "are for --on"),
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


def test_a_detector_that_is_not_installed_is_said_before_the_checkpoint_is_read(
    hosted, tmp_path, monkeypatch
):
    (tmp_path / "m.safetensors").write_text("no checkpoint")
    monkeypatch.setitem(sys.modules, "nudenet", None)
    monkeypatch.setattr(sys, "argv", [
        "comparison", "--on", str(tmp_path / "m.safetensors"), "--detector", "nudity", "--out",
        str(tmp_path / "out"),
    ])  # fmt: skip
    with pytest.raises(SystemExit, match="pip install nudenet"):
        pack("benchmarks.comparison").main()


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
