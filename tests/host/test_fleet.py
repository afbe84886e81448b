"""The fleet on a real host: faults before anything runs, rows that are killed, the summary page."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
import yaml

from .conftest import pack
from .miniature import FAMILIES

pytestmark = pytest.mark.host
ROOT = Path(__file__).resolve().parents[2]

FEW = {
    "max_rounds": 1, "sampling.steps": 2, "sampling.batch": 4, "mine.steps": 6, "mine.lr_drop": 6,
    "verify.threshold": -1, "circumvent.steps": 6, "circumvent.lr_drop": 6, "circumvent.images": 2,
    "lora.rank": 2,
}  # fmt: skip
DEFAULTS = {"preset": "paper", "pictures": 4, "settings": FEW, "prompts": 1}


def header_only(path, tensors):
    """A safetensors file whose numbers are a hole in the disk."""
    entries, end = {}, 0
    for name, shape in tensors.items():
        size = 4 * torch.Size(shape).numel()
        entries[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(entries).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return str(path)


def network(family):
    """Names and shapes of a family's network, as a checkpoint has them."""
    with torch.device("meta"):
        state = FAMILIES[family].network().state_dict()
    return {f"model.diffusion_model.{k}": tuple(v.shape) for k, v in state.items()}


def written(folder, **plan):
    path = folder / "plan.yaml"
    path.write_text(
        yaml.safe_dump({"output": "out", "machine": {"ray": "off"}, **plan}, sort_keys=False)
    )
    return path


def checked(path):
    plan = pack("fleet.reading").read_plan(path)
    return plan, *pack("fleet.checks").check(plan)


def test_twenty_faults_are_twenty_sentences_and_nothing_runs(hosted, tmp_path):
    whole = network("sd15") | {"first_stage_model.x": (1,), "cond_stage_model.x": (1,)}
    cut = Path(header_only(tmp_path / "cut.safetensors", whole))
    os.truncate(cut, cut.stat().st_size - 1)
    checkpoints = {
        "g": "gallery",
        "good": header_only(tmp_path / "good.safetensors", whole),
        "missing": "nowhere.safetensors",
        "pickle": "old.ckpt",
        "strange": header_only(tmp_path / "strange.safetensors", {"a.weight": (4, 4)}),
        "cut": str(cut),
        "bare": header_only(tmp_path / "bare.safetensors", network("sd15")),
    }
    ink = {"checkpoint": "g", "concept": "ink"}
    rows = [
        ink,
        {"checkpoint": "sd99", "concept": "ink"},
        {**ink, "preset": "quick"},
        {**ink, "seed": -1},
        {**ink, "attacks": ["magic"]},
        {"checkpoint": "g"},
        {**ink, "template": "a drawing"},
        {**ink, "settings": {"chase.stepz": 3}},
        {**ink, "settings": {"sampling.steps": 0}},
        {**ink, "bake": True, "seed": 9},
        {**ink, "anchor": "an ink drawing", "seed": 10},
        ink,
        {**ink, "concept": "INK!"},
        {"checkpoint": "g", "concept": "van gogh", "attacks": ["probe"]},
        {**ink, "seed": 15, "pictures": 10_000, "width": 4096, "height": 4096},
    ]
    path = written(tmp_path, checkpoints=checkpoints, rows=rows,
                   machine={"ray": "off", "num_cpus": 0}, defaults={"preset": "fast"})  # fmt: skip
    faults = checked(path)[2]
    expected = [
        "machine.num_cpus is 0",
        "row 2: checkpoint is 'sd99'", "row 3: preset is 'quick'", "row 4: seed is -1",
        "row 5: attacks is", "row 6: concept is missing", "row 7: template is 'a drawing'",
        "checkpoint missing: .* cannot be read", "checkpoint pickle: .* is a pickle",
        "checkpoint strange: .* unknown family", "checkpoint cut: .* is cut short",
        "checkpoint bare: .* holds no text encoder",
        "row 8: chase.stepz is '3'", "row 9: sampling.steps is '0'", "row 10: bake is on",
        "row 11: anchor 'an ink drawing' names", "row 14: The gallery's judge does not know",
        "row 12 asks for the same as row 1",
        "row 13 and row 1 would both be called 'g-ink-fast-0'", "The plan takes about",
    ]  # fmt: skip
    assert len(expected) == len(faults) == 20, "\n".join(faults)
    for sentence, wanted in zip(faults, expected, strict=True):
        assert re.search(wanted, sentence), (wanted, sentence)
        assert sentence.endswith(".") and "\n" not in sentence
    assert not (tmp_path / "out").exists()
    command = pack("fleet.command")
    assert command.main([str(path)]) == command.FAULTS and not (tmp_path / "out").exists()


def test_a_header_tells_family_size_and_time(hosted, tmp_path):
    whole = network("sdxl") | {"first_stage_model.x": (1,), "conditioner.x": (1,)}
    place = header_only(tmp_path / "xl.safetensors", whole)
    found = pack("fleet.host").family(place)
    assert (found.name, found.side, found.width, found.wide) == ("SDXL", 1024, 2048, 2816)
    path = written(tmp_path, checkpoints={"xl": place}, defaults={"open_clip_weights": place},
                   rows=[{"checkpoint": "xl", "concept": "ink", "bake": True}])  # fmt: skip
    _, (row,), faults = checked(path)
    assert not faults and row.row.width == 1024
    assert row.cost.disk > found.size and row.cost.passes > 1000
    assert row.cost.seconds is None or row.cost.seconds > 60


def night(path, say=lambda line: None, work=None):
    plan, rows, faults = checked(path)
    assert not faults, faults
    made = pack("fleet.night").Night(plan, rows, say)
    made.run(pack("fleet.executors").Here(work or pack("fleet.process").run_row))
    return made


def killed_once(folder):
    """Kill the first process that has kept something of its run.

    A file may lie there before the run's folder knows of it; the third follows two that it knows.
    """
    end, seen = time.monotonic() + 240, set()
    while time.monotonic() < end:
        seen |= {path.name for path in folder.rglob("stage-*.safetensors")}
        if len(seen) > 2:
            parent = os.getpid()
            for stat in Path("/proc").glob("[0-9]*/stat"):
                try:
                    text = stat.read_text()
                    command = (stat.parent / "cmdline").read_bytes()
                except OSError:
                    continue
                if int(text.rpartition(")")[2].split()[1]) == parent and b"fleet\0row" in command:
                    os.kill(int(stat.parent.name), signal.SIGKILL)
                    return
        time.sleep(0.02)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_a_killed_row_goes_on_to_the_same_bytes_and_a_failed_one_stops_nobody(
    hosted, tmp_path, monkeypatch
):
    monkeypatch.setenv("DARKMINER_CHECKPOINT_SECONDS", "0")
    (tmp_path / "bad.safetensors").write_bytes(b"no image encoder")
    bad = {"checkpoint": "g", "concept": "noto", "clip_vision": "bad.safetensors"}
    rows = [bad, {"checkpoint": "g", "concept": "ink", "attacks": ["probe"]}]
    path = written(tmp_path, checkpoints={"g": "gallery"}, defaults=DEFAULTS, rows=rows)
    lines = []
    whole = night(path, lines.append)
    failed, done = (whole.results.of([one.digest])[one.digest] for one in whole.rows)
    assert failed["status"] == "failed" and "Traceback" not in failed["why"], failed
    assert done["status"] == "done" and 0 <= done["worst"] <= 1 and done["seconds"] > 0
    assert "failed (" in lines[0] and lines[1].startswith("[2/2] g-ink-paper-0: ")
    folder = whole.folder / done["folder"]
    assert all((folder / name).stat().st_size for name in done["files"].values())
    assert set(done["files"]) == {"lora", "report", "card"}
    page = (whole.folder / "index.html").read_text("utf-8")
    assert page.index("g-noto-paper-0") < page.index("g-ink-paper-0"), "what fails stands first"
    assert f'href="{done["folder"]}/g-ink-paper-0.safetensors"' in page

    there = tmp_path / "there"
    path.write_text(yaml.safe_dump({
        "output": f"file://{there}", "work": "again", "machine": {"ray": "off"},
        "checkpoints": {"g": "gallery"},
        "defaults": DEFAULTS, "rows": [{**rows[1], "attacks": []}],
    }))  # fmt: skip
    killer = threading.Thread(target=killed_once, args=(tmp_path / "again",))
    killer.start()
    killed = night(path)
    killer.join()
    (one,) = killed.results.of([one.digest for one in killed.rows]).values()
    assert one["status"] == "done" and one["attempts"] == 2, one
    assert "goes on after" in (killed.folder / one["folder"] / "log.txt").read_text()
    assert one["sha256"] == done["sha256"]
    brought = (there / one["folder"] / one["files"]["lora"]).read_bytes()
    assert hashlib.sha256(brought).hexdigest() == done["sha256"]
    assert (there / "index.html").read_text("utf-8").count("g-ink-paper-0")
    mute = night(path, work=lambda task: pytest.fail("a row that is done was done again"))
    assert not mute.left
    path.write_text(path.read_text().replace("work: again", "work: elsewhere"))
    other = night(path, work=lambda task: pytest.fail("another machine did it again"))
    assert not other.left and other.folder.name == "elsewhere"


def test_the_command_says_what_is_missing(tmp_path):
    def said(*arguments, **environment):
        kept = {k: v for k, v in os.environ.items() if k != "COMFYUI_PATH"}
        return subprocess.run(
            [sys.executable, "-m", "fleet", *arguments], cwd=ROOT, env=kept | environment,
            capture_output=True, text=True,
        )  # fmt: skip

    path = written(tmp_path, checkpoints={"g": "gallery"}, rows=[{"checkpoint": "g"}])
    done = said(str(path))
    assert done.returncode == 1 and "set COMFYUI_PATH" in done.stderr
    assert "Traceback" not in done.stderr
