"""The scripts: what they refuse, what they write, and that their lists agree."""

import hashlib
import importlib
import io
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def script(monkeypatch):
    """Import a module of scripts/ by name, as if it were run from there."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module


def run_setup(**environment):
    keep = {k: os.environ[k] for k in ("PATH", "HOME") if k in os.environ}
    return subprocess.run(
        ["bash", str(ROOT / "scripts" / "setup.sh")],
        env=keep | environment,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    ("place", "says"),
    [("nowhere", "does not exist"), (".", "is no ComfyUI")],
)
def test_setup_refuses_a_wrong_comfyui_path(tmp_path, place, says):
    done = run_setup(COMFYUI_PATH=str(tmp_path / place))
    assert done.returncode != 0
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_setup_refuses_a_python_that_cannot_run_the_host(tmp_path):
    (tmp_path / "main.py").touch()
    (tmp_path / "comfyui_version.py").touch()
    done = run_setup(COMFYUI_PATH=str(tmp_path), PYTHON="no-such-python")
    assert done.returncode != 0
    assert "PYTHON names no program" in done.stderr


def test_setup_refuses_a_host_that_is_not_pinned():
    done = run_setup(COMFYUI_VERSION="0.1.0")
    assert done.returncode != 0
    assert len(done.stderr.strip().splitlines()) == 1
    assert all(version in done.stderr for version in ("0.1.0", *pinned_hosts()))


def test_setup_refuses_two_answers_to_which_host(tmp_path):
    (tmp_path / "main.py").touch()
    (tmp_path / "comfyui_version.py").touch()
    done = run_setup(COMFYUI_PATH=str(tmp_path), COMFYUI_VERSION=pinned_hosts()[0])
    assert done.returncode != 0
    assert "both COMFYUI_PATH and COMFYUI_VERSION" in done.stderr


def pinned_hosts() -> list[str]:
    """The hosts that setup.sh knows, in its order; each with an archive of its own."""
    text = (ROOT / "scripts" / "setup.sh").read_text()
    pins = re.findall(r'^  "(\d+\.\d+\.\d+) (\d+\.\d+\.\d+) ([0-9a-f]{64})"$', text, re.M)
    assert pins and all(len(set(column)) == len(pins) for column in zip(*pins, strict=True))
    return [version for version, *_ in pins]


def test_the_project_says_which_hosts_were_tested(script):
    """The pins, newest first: the first makes the templates, the last is the least."""
    tomllib = pytest.importorskip("tomllib")
    text = (ROOT / "pyproject.toml").read_text()
    hosts = pinned_hosts()
    assert hosts == sorted(hosts, key=lambda v: [int(n) for n in v.split(".")], reverse=True)
    assert tomllib.loads(text)["tool"]["comfy"]["requires-comfyui"] == f">={hosts[-1]}"
    (said,) = re.findall(r"^# Tested on (.+), the hosts", text, re.M)
    assert re.findall(r"[\d.]+\d", said) == hosts[::-1]
    assert script("make_workflows").HOST_VERSION == hosts[0]
    readme = (ROOT / "README.md").read_text()
    assert f"ComfyUI ({hosts[-1]} or newer)" in readme
    assert all(version in readme for version in hosts[1:])


def test_scripts_are_valid_bash():
    for path in [*sorted((ROOT / "scripts").glob("*.sh")), ROOT / ".ci" / "run"]:
        subprocess.run(["bash", "-n", str(path)], check=True)


def test_requirements_are_those_of_the_project_and_spare_torch(script):
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    listed = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    assert listed == project["dependencies"]
    names = script("check_requirements").names(ROOT / "requirements.txt")
    assert not {"torch", "torchvision", "torchaudio", "transformers"} & set(names)


def test_one_version_everywhere(script):
    tomllib = pytest.importorskip("tomllib")
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert script("make_workflows").PACK_VERSION == version
    assert re.search(rf"^## {re.escape(version)}\b", (ROOT / "CHANGELOG.md").read_text(), re.M)


def test_missing_requirements_are_named(script):
    module = script("check_requirements")
    assert module.missing(["pytest", "no-such-package-here"]) == ["no-such-package-here"]
    assert "ruff" in module.names(ROOT / "requirements-dev.txt")
    assert "peft" in module.names(ROOT / "requirements-dev.txt")


def archive(path: Path) -> str:
    with tarfile.open(path, "w:gz") as tar:
        for name in ("pkg-1/setup.py", "pkg-1/vendor/ComfyUI/main.py", "pkg-1/vendor/ComfyUI/a/b"):
            info = tarfile.TarInfo(name)
            info.size = len(name)
            tar.addfile(info, io.BytesIO(name.encode()))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def unpack(*arguments):
    command = [sys.executable, str(ROOT / "scripts" / "unpack_host.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_only_the_host_leaves_the_archive(tmp_path):
    digest = archive(tmp_path / "a.tar.gz")
    assert unpack(tmp_path / "a.tar.gz", digest, tmp_path / "host").returncode == 0
    files = sorted(p.relative_to(tmp_path / "host").as_posix() for p in tmp_path.rglob("host/**/*"))
    assert files == ["a", "a/b", "main.py"]


def test_another_archive_is_refused(tmp_path):
    archive(tmp_path / "a.tar.gz")
    done = unpack(tmp_path / "a.tar.gz", "0" * 64, tmp_path / "host")
    assert done.returncode != 0
    assert "not the pinned" in done.stderr
    assert not (tmp_path / "host").exists()


def test_the_base_folder_links_the_pack_and_moves_with_it(script, tmp_path):
    prepare_base = script("comfy_server").prepare_base
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        prepare_base(tmp_path / "base", tmp_path / name)
        prepare_base(tmp_path / "base", tmp_path / name)
        link = tmp_path / "base" / "custom_nodes" / "dark-miner"
        assert link.resolve() == (tmp_path / name).resolve()


def test_a_server_that_dies_is_reported_with_its_last_words(script, tmp_path):
    module = script("comfy_server")
    (tmp_path / "main.py").write_text("raise SystemExit('no memory left')")
    module.prepare_base(tmp_path / "base", tmp_path)
    server = module.Server(tmp_path, sys.executable, tmp_path / "base", tmp_path, cpu=True)
    with pytest.raises(module.ServerError, match="no memory left"), server:
        pass


def test_a_refusal_names_node_and_reason(script):
    prompt = {"3": {"class_type": "KSampler", "inputs": {}, "_meta": {"title": "Before"}}}
    error = {"message": "Required input is missing", "details": "model"}
    reply = {"node_errors": {"3": {"errors": [error]}}}
    found = script("comfy_server").refusal(reply, prompt)
    assert found == "Before: Required input is missing (model)"


def test_the_demo_prompt_takes_style_and_seed(script):
    prompt = script("run_demo").erasure_prompt("ink", 7)
    words = [v for n in prompt.values() for k, v in n["inputs"].items() if k == "concept"]
    seeds = [
        n["inputs"]["seed"]
        for n in prompt.values()
        if n["class_type"].startswith("DarkMiner") and "seed" in n["inputs"]
    ]
    assert set(words) == {"ink"}
    assert set(seeds) == {7}


def test_the_grid_has_a_picture_for_each_style_and_object(script):
    Image = pytest.importorskip("PIL.Image")
    module = script("run_demo")
    rows = ["cat", "bus"]
    images = [Image.new("RGB", (32, 32), "red") for _ in range(len(rows) * len(module.STYLES))]
    page = module.draw_grid(images, images, "noto", rows)
    pixels = list(page.convert("RGB").resize((page.width // 4, page.height // 4)).getdata())
    share = sum(p[0] > 200 and p[1] < 60 for p in pixels) / len(pixels)
    assert share > 0.6


NODES = {
    "Source": {
        "input": {"required": {"text": ["STRING", {"default": "a cat", "multiline": True}]}},
        "output": ["MODEL"],
        "output_name": ["MODEL"],
        "display_name": "Source",
        "python_module": "nodes",
    },
    "Sink": {
        "input": {
            "required": {"seed": ["INT", {"default": 3}], "model": ["MODEL", {}]},
            "optional": {"mode": ["COMBO", {"options": ["x", "y"]}], "extra": ["MODEL", {}]},
        },
        "output": [],
        "output_name": [],
        "display_name": "Sink",
        "python_module": "custom_nodes.dark-miner",
    },
}
PROMPT = {
    "2": {"class_type": "Sink", "inputs": {"model": ["1", 0]}},
    "1": {"class_type": "Source", "inputs": {}},
}


def test_api_prompts_are_written_out_in_full(script):
    found = script("make_workflows").filled(PROMPT, NODES)
    assert list(found) == ["1", "2"]
    assert found["1"]["inputs"] == {"text": "a cat"}
    assert found["2"]["inputs"] == {"seed": 3, "model": ["1", 0], "mode": "x"}


def test_templates_order_sockets_before_widgets_and_follow_seeds(script):
    module = script("make_workflows")
    layout = {"columns": [["1"], ["2"]], "groups": [{"title": "All", "nodes": ["1", "2"]}]}
    layout["note"] = ["hello"]
    graph = module.to_ui("t", module.filled(PROMPT, NODES), layout, NODES)
    note, source, sink = graph["nodes"]
    assert [row["name"] for row in sink["inputs"]] == ["model", "extra", "seed", "mode"]
    assert sink["widgets_values"] == [3, "fixed", "x"]
    assert graph["links"] == [[1, 1, 0, 2, 0, "MODEL"]]
    assert source["outputs"][0]["links"] == [1]
    assert sink["properties"]["cnr_id"] == "dark-miner"
    assert source["properties"]["cnr_id"] == "comfy-core"
    assert note["type"] == "MarkdownNote"
    assert sink["order"] > source["order"]


def test_an_input_that_the_node_lacks_is_refused(script):
    wrong = {"1": {"class_type": "Source", "inputs": {"txet": "a"}}}
    with pytest.raises(SystemExit, match="txet"):
        script("make_workflows").filled(wrong, NODES)
