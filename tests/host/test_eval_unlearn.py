"""The plug for eval-unlearn: by itself, and (``-m eval_unlearn``) run by the package.

That package is installed without what it depends on, in an environment made for the test: most of
its metrics are then missing, and the runner is its own.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from .conftest import ROOT, pack

pytestmark = pytest.mark.host

PLUG = ROOT / "plugs" / "eval_unlearn"
PACKAGE = "eval-unlearn==1.1.2"
PROMPTS = ["a ink drawing of a cat", "a noto drawing of a fish"]
DRAW = {"checkpoint": "gallery", "width": 32, "height": 32, "steps": 4, "cfg": 3.0}

RUN = """
import json, sys
from eval_unlearn.registry import register_metric
from eval_unlearn.runners import SingleBenchmarkRunner
from eval_unlearn.types import Dataset, MetricResult

prompts, config, folder = json.loads(sys.argv[1])

@register_metric("brightness")
class Brightness:
    def __init__(self, **given):
        self.seen = []

    def load_dataset(self):
        return [Dataset([prompt], {"source": "two prompts"}) for prompt in prompts]

    def update(self, images, prompts, metadata):
        self.seen += [sum(image.convert("L").tobytes()) for image in images]

    def compute(self):
        return MetricResult("brightness", sum(self.seen) / len(self.seen))

SingleBenchmarkRunner("dark_miner", "brightness", config, {}, folder, seed=3).run()
"""


@pytest.fixture(scope="module")
def plug():
    file = PLUG / "dark_miner_eval_unlearn.py"
    spec = importlib.util.spec_from_file_location("dark_miner_eval_unlearn", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture(scope="module")
def lora(hosted, sockets, tmp_path_factory):
    """An erasure's file whose values are no zeros."""
    gen = torch.Generator().manual_seed(0)
    made = {k: v if k.endswith("alpha") else 0.2 * torch.randn(v.shape, generator=gen)
            for k, v in sockets["LORA_MODEL"].items()}  # fmt: skip
    file = tmp_path_factory.mktemp("lora") / "erase.safetensors"
    save_file(made, file)
    return file


def pixels(images):
    return [np.asarray(image) for image in images]


def test_it_draws_what_the_hosts_sampler_draws_with_the_erasure(plug, lora, sockets):
    made = plug.DarkMinerTechnique(**DRAW, lora=str(lora)).generate(PROMPTS, seed=3)
    assert [image.size for image in made] == [(32, 32)] * 2
    load, text = pack("darkminer.files.lora_load"), pack("nodes.host.text")
    erased = pack("nodes.host.lora").apply_lora(sockets["MODEL"], load.read_lora(lora))
    config = pack("darkminer.model.sampling").SamplingConfig(4, 3.0, "euler", "normal", 1)
    no = text.conditioning(sockets["CLIP"], "")
    for i, prompt in enumerate(PROMPTS):
        said = text.conditioning(sockets["CLIP"], prompt)
        one = pack("nodes.host.draw").drawn(
            erased, sockets["VAE"], said, no, (32, 32), 3 + i, config
        )
        assert np.abs(pixels(made)[i] - 255 * one[0].numpy()).max() <= 0.51
    plain = plug.DarkMinerTechnique(**DRAW).generate(PROMPTS, seed=3)
    none = plug.DarkMinerTechnique(**DRAW, lora=str(lora), strength=0.0).generate(PROMPTS, seed=3)
    for i in range(2):
        assert (pixels(plain)[i] == pixels(none)[i]).all()
        assert (pixels(plain)[i] != pixels(made)[i]).any()


def test_guidance_and_steps_of_a_call_count_and_no_seed_is_one_of_chance(plug):
    drawn = plug.DarkMinerTechnique(**DRAW).generate
    usual, other = drawn(PROMPTS[:1], seed=1), drawn(PROMPTS[:1], seed=1, guidance_scale=0.5)
    assert (pixels(usual)[0] != pixels(other)[0]).any()
    fewer = drawn(PROMPTS[:1], seed=1, num_inference_steps=1)
    assert (pixels(usual)[0] != pixels(fewer)[0]).any()
    one, two = pixels(drawn(PROMPTS[:1]))[0], pixels(drawn(PROMPTS[:1]))[0]
    assert (one != two).any()


def test_a_seed_of_the_file_is_counted_on_over_batches(plug):
    together = pixels(plug.DarkMinerTechnique(**DRAW, seed=5).generate(PROMPTS))
    apart = plug.DarkMinerTechnique(**DRAW, seed=5)
    for prompt, picture in zip(PROMPTS, together, strict=True):
        assert (pixels(apart.generate([prompt]))[0] == picture).all()


@pytest.mark.parametrize(
    "given, words",
    [
        ({}, "checkpoint is empty"),
        ({"checkpoint": "none.ckpt"}, "none.ckpt is no file"),
        ({**DRAW, "lora": "none.safetensors"}, "none.safetensors is no file"),
        ({**DRAW, "lora_path": "x"}, "lora_path means nothing here: choose of checkpoint, lora"),
        ({**DRAW, "steps": 0}, "steps is 0: write a whole number"),
        ({**DRAW, "seed": "x"}, "seed is 'x': write a whole number from 0"),
        ({**DRAW, "width": 33}, "33"),
        (
            {**DRAW, "sampler": "magic"},
            "sampler 'magic' is none of this ComfyUI's: choose of .*euler",
        ),
        ({**DRAW, "scheduler": "magic"}, "scheduler 'magic' is none of this ComfyUI's"),
        ({**DRAW, "lora": __file__}, "test_eval_unlearn"),
    ],
)
def test_what_cannot_be_is_one_sentence(plug, given, words):
    with pytest.raises(ValueError, match=words) as refused:
        plug.DarkMinerTechnique(**given).generate(PROMPTS[:1], seed=0)
    assert str(refused.value).startswith("dark_miner: ") and "\n" not in str(refused.value)


def test_what_is_not_found_is_said(plug, monkeypatch, tmp_path):
    with pytest.raises(RuntimeError, match="set COMFYUI_PATH"):
        plug.DarkMinerTechnique(**DRAW, comfyui=str(tmp_path))
    monkeypatch.setenv("DARKMINER_PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="set DARKMINER_PATH"):
        plug.DarkMinerTechnique(**DRAW)
    monkeypatch.setitem(sys.modules, "eval_unlearn.registry", None)
    with pytest.raises(RuntimeError, match="pip install eval-unlearn"):
        plug.register()


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """An environment that sees this one's packages, with eval-unlearn and the plug besides."""
    folder = tmp_path_factory.mktemp("benchmark")
    venv.create(folder / "env", with_pip=True)
    paths = {"base": str(folder / "env"), "platbase": str(folder / "env")}
    site = sysconfig.get_path("purelib", "venv" if os.name == "posix" else "nt", paths)
    here = "\n".join(dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]))
    (Path(site) / "here.pth").write_text(here + "\n")
    python = folder / "env" / "bin" / "python"
    source = shutil.copytree(PLUG, folder / "plug", ignore=shutil.ignore_patterns("*.egg-info"))
    install = [python, "-m", "pip", "install", "--quiet", "--no-deps"]
    subprocess.run([*install, PACKAGE, "python-dotenv"], check=True)
    subprocess.run([*install, source], check=True)
    return python


@pytest.mark.eval_unlearn
def test_the_package_finds_the_plug_and_runs_a_benchmark_with_it(plug, python, lora, tmp_path):
    config = {**DRAW, "lora": str(lora), "erase_concept": "ink"}
    done = subprocess.run(
        [python, "-c", RUN, json.dumps([PROMPTS, config, str(tmp_path / "out")])], cwd=tmp_path,
        env={**os.environ, "DARKMINER_PATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    (report,) = (tmp_path / "out").glob("*_latest_report.json")
    told = json.loads(report.read_text("utf-8"))
    assert told["technique_name"] == "dark_miner" and told["erase_concept"] == "ink"
    assert told["dataset_metadata"]["total_loaded"] == 2 and told["metric_result"]["value"] > 0
    files = sorted((tmp_path / "out").rglob("*.png"), key=lambda f: int(f.stem.split("_")[-1]))
    technique = plug.DarkMinerTechnique(**config)
    for file, prompt in zip(files, PROMPTS, strict=True):
        (here,) = technique.generate([prompt], seed=3)
        assert np.abs(np.asarray(Image.open(file)).astype(int) - pixels([here])[0]).max() <= 1
