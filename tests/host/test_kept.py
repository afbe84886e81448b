"""A run that a crash, the stop button or its time ends goes on where it was, on a real server."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest
from dark_miner.benchmarks.hosted import ROOT
from safetensors.torch import load_file

from .conftest import Running, script
from .test_nodes import failing, loop, node

pytestmark = pytest.mark.host

KILLS = int(os.environ.get("SOAK_KILLS", "3"))
"""Times the server is killed; SOAK_KILLS=25 for a soak."""
LONG = {
    "preset": "paper", "chase_steps": 0, "bank_size": 0, "mine_steps": 12, "circumvent_steps": 12,
    "max_rounds": 2, "run_folder": "",
}  # fmt: skip


def bytes_of(output, outputs):
    return (output / outputs["save"]["text"][0]).read_bytes()


def started(base, output):
    """A server with folders of its own, which keeps a stage every half second."""
    module = script("comfy_server")
    module.prepare_base(base, ROOT)
    return module.Server(Path(os.environ["COMFYUI_PATH"]), sys.executable, base, output, cpu=True)


@pytest.fixture
def often(monkeypatch):
    monkeypatch.setenv("DARKMINER_CHECKPOINT_SECONDS", "0.5")


def ended_after(server, prompt, seconds):
    """Queue a prompt and kill the server some time after training has begun."""

    async def talk(client):
        begun = asyncio.Event()

        def watch(kind, data):
            if kind == "progress_text" and "step" in data["text"]:
                begun.set()

        task = asyncio.ensure_future(client.run(prompt, watch))
        await asyncio.wait([task, asyncio.ensure_future(begun.wait())],
                           return_when=asyncio.FIRST_COMPLETED, timeout=240)  # fmt: skip
        await asyncio.sleep(seconds)
        if task.done():
            return True
        os.kill(server._process.pid, signal.SIGKILL)
        server._process.wait()
        await asyncio.gather(task, return_exceptions=True)
        return False

    return Running(server.address, server.log.parent / "output").ask(talk)


def test_a_killed_server_goes_on_and_ends_with_the_same_bytes(tmp_path, comfy, often):
    prompt = loop("loras/killed", seed=5, **LONG)
    begun = time.monotonic()
    whole = bytes_of(comfy.output, comfy.run(prompt))
    took = time.monotonic() - begun
    base, output = tmp_path, tmp_path / "output"
    killed, told_before = 0, ""
    for i in range(KILLS):
        with started(base, output) as server:
            killed += not ended_after(server, prompt, took * (i + 1) / (2 * KILLS + 2))
            told_before = server.log.read_text(errors="replace") if i == 0 else told_before
    assert killed, "the server was done before it was killed"
    (run,) = (output / "darkminer").iterdir()
    assert any(p.name.startswith("state-") for p in run.iterdir())
    size = sum(p.stat().st_size for p in run.iterdir())
    with started(base, output) as server:
        running = Running(server.address, output)
        assert bytes_of(output, running.run(prompt)) == whole
        log = server.log.read_text(errors="replace")
    assert "goes on after" in log or "is taken from" in log
    told = re.search(r"DarkMinerLoop: kept in output/(\S+) \(about ([\d.]+) MB\)", log)
    assert told and told[1] == f"darkminer/{run.name}", log
    assert size < 1e6 * float(told[2]) < 6 * size
    first = next(line for line in told_before.splitlines() if "kept in output" in line)
    assert "DarkMinerLoop: at most " in first, first


def test_an_erasure_of_yesterday_goes_on_today(tmp_path, comfy):
    """Two server processes, a round each, give what one gives in two rounds."""
    few = {**LONG, "max_rounds": 1, "seed": 7}
    with started(tmp_path, tmp_path / "output") as server:
        Running(server.address, tmp_path / "output").run(loop("loras/yesterday", **few))
    prompt = loop("loras/today", **few)
    name = "yesterday_00001_.safetensors"
    prompt["load"] = {"class_type": "LoadErasureLoRA", "inputs": {"lora_name": name}}
    prompt["loop"]["inputs"] |= {"lora": ["load", 0], "embeddings": ["load", 1]}
    with started(tmp_path, tmp_path / "output") as server:
        outputs = Running(server.address, tmp_path / "output").run(prompt)
        today = load_file(tmp_path / "output" / outputs["save"]["text"][0])
        assert "embeddings of its run" in outputs["load"]["text"][0]
    at_once = comfy.run(loop("loras/at_once", **{**few, "max_rounds": 2}))
    whole = load_file(comfy.output / at_once["save"]["text"][0])
    assert all(bool((today[k] == whole[k]).all()) for k in whole)


def interrupted(comfy, prompt, word, seconds=0.0):
    """Queue a prompt and press stop once its node says ``word``; what its node said last."""
    said = []

    async def talk(client):
        seen = asyncio.Event()

        def watch(kind, data):
            if kind == "progress_text":
                said.append(data["text"])
                if word in data["text"]:
                    seen.set()

        task = asyncio.ensure_future(client.run(prompt, watch))
        await asyncio.wait_for(seen.wait(), 240)
        await asyncio.sleep(seconds)
        pressed = time.monotonic()
        await client.session.post(f"http://{comfy.address}/interrupt")
        with pytest.raises(script("comfy_server").ServerError, match="interrupted"):
            await task
        return time.monotonic() - pressed

    return comfy.ask(talk), said


def test_the_stop_button_leaves_the_lora_so_far_and_the_next_run_goes_on(comfy):
    prompt = loop("loras/stopped", seed=6, **LONG)
    _, said = interrupted(comfy, prompt, "circumvent · step")
    assert "the LoRA so far is saved as loras/unfinished/ink-" in said[-1]
    (so_far,) = (comfy.output / "loras" / "unfinished").glob("*.safetensors")
    assert any(bool(t.any()) for k, t in load_file(so_far).items() if "lora_up" in k)
    other = comfy.run(loop("loras/between", seed=6, **{**LONG, "run_folder": "off"}))
    heard = []

    def watch(kind, data):
        if kind == "progress_text":
            heard.append(data["text"])

    again = comfy.run(prompt, watch)
    assert any("goes on after" in text for text in heard)
    one, two = (load_file(comfy.output / o["save"]["text"][0]) for o in (again, other))
    assert all(bool((one[k] == two[k]).all()) for k in two)
    assert not so_far.exists(), "the finished run's file takes its place"


def test_a_stop_while_the_reports_pictures_are_drawn_loses_nothing(comfy):
    prompt = loop("loras/late", seed=8, **{**LONG, "run_folder": "off", "max_rounds": 1})
    for inputs in (step["inputs"] for step in prompt.values()):
        if "sampling_steps" in inputs:
            inputs["sampling_steps"] = 40
    before = set((comfy.output / "loras" / "unfinished").glob("*.safetensors"))
    _, said = interrupted(comfy, prompt, "pictures before and after")
    assert "the LoRA so far is saved as loras/unfinished/ink-" in said[-1]
    assert len(set((comfy.output / "loras" / "unfinished").glob("*.safetensors")) - before) == 1


def test_a_named_run_is_refused_to_others_and_goes_on_with_more_time_and_rounds(comfy):
    named = {**LONG, "run_folder": "tests/named", "seed": 8}
    prompt = loop(**named, max_minutes=0.02)
    prompt["save"] = node("PreviewImage", images=["loop", 3])  # there is hardly a LoRA to save
    short = comfy.run(prompt)
    assert "The time was up before" in short["loop"]["text"][0]
    (inputs,) = (comfy.output / "darkminer" / "tests" / "named").glob("inputs-*.json")
    assert json.loads(inputs.read_text())["value"]["seed"] == "8"
    refused = failing(comfy, loop("loras/other", **{**named, "seed": 9}))
    assert "holds another run (seed was 8 and is 9): name a new folder" in refused
    refused = failing(comfy, loop("loras/other", **{**named, "length": 19}))
    assert "mine.length was 20 and is 19" in refused
    done = comfy.run(loop("loras/named", **named))
    off = {**named, "run_folder": "off"}
    plain = comfy.run(loop("loras/named_off", **off))
    one, two = (load_file(comfy.output / o["save"]["text"][0]) for o in (done, plain))
    assert all(bool((one[k] == two[k]).all()) for k in two)
    more = comfy.run(loop("loras/more", **{**named, "max_rounds": 3}))
    plain = comfy.run(loop("loras/more_off", **{**off, "max_rounds": 3}))
    one, two = (load_file(comfy.output / o["save"]["text"][0]) for o in (more, plain))
    assert all(bool((one[k] == two[k]).all()) for k in two)


@pytest.mark.parametrize("name", ["../up", "/abs", "a/../../b", "con", "x\0y", "C:\\x"])
def test_a_run_folder_that_leads_elsewhere_is_refused_when_queued(comfy, name):
    with pytest.raises(script("comfy_server").ServerError, match="run_folder"):
        comfy.run(loop("loras/never", run_folder=name))
