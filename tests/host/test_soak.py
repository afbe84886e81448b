"""What shows only in the long run, on a real server: scripts/soak.sh runs it."""

from __future__ import annotations

import logging
import os
import random
import subprocess
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from .conftest import Running, script
from .test_kept import LONG, interrupted, started
from .test_nodes import failing, loop

pytestmark = [
    pytest.mark.host,
    pytest.mark.skipif("SOAK" not in os.environ, reason="minutes: bash scripts/soak.sh"),
]
log = logging.getLogger(__name__)
ServerError = script("comfy_server").ServerError
JOBS, ROUNDS, STOPS = 50, 100, 25
FLAT = 1.05
"""How much of what it took early a server may take late."""
SHORT = {"preset": "paper", "chase_steps": 0, "bank_size": 0, "mine_steps": 2,
         "circumvent_steps": 2, "threshold": "-1"}  # fmt: skip


def taken(pid):
    """Resident memory in MB, and open descriptors."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6, len(os.listdir(f"/proc/{pid}/fd"))


def assert_flat(seen):
    """After the last ten no more than after those from the third on: the host itself collects
    what has gone every ten seconds only, which are some jobs.
    """
    parts = (zip(*part, strict=True) for part in (seen[2:12], seen[-10:]))
    early, late = ([max(values) for values in part] for part in parts)
    log.info("early %.0f MB and %d descriptors, late %.0f MB and %d", *early, *late)
    assert all(now <= FLAT * then for now, then in zip(late, early, strict=True))


def test_many_jobs_in_one_server_take_no_more_than_three(tmp_path):
    seen = []
    with started(tmp_path, tmp_path / "output") as server:
        running = Running(server.address, tmp_path / "output")
        for seed in range(JOBS):
            running.run(loop("loras/many", seed=seed, max_rounds=1, run_folder="", **SHORT))
            seen.append(taken(server._process.pid))
    assert_flat(seen)


def test_many_rounds_in_one_job_take_no_more_than_three(tmp_path):
    seen = []
    with started(tmp_path, tmp_path / "output") as server:

        def watch(kind, data):
            if kind == "progress_text" and f"round {len(seen) + 2} of" in data["text"]:
                seen.append(taken(server._process.pid))

        running = Running(server.address, tmp_path / "output")
        running.run(loop("loras/long", max_rounds=ROUNDS, run_folder="", **SHORT), watch)
    assert len(seen) == ROUNDS - 1
    assert_flat(seen)


def test_the_stop_button_is_obeyed_at_any_moment(comfy):
    slow = {**LONG, "mine_steps": 30, "circumvent_steps": 30}
    comfy.run(loop("loras/warm", seed=10, **{**slow, "run_folder": "off"}))
    prompt = loop("loras/whole", seed=11, **{**slow, "run_folder": "off"})
    begun = time.monotonic()
    whole = load_file(comfy.output / comfy.run(prompt)["save"]["text"][0])
    took, dice, waited, saved = time.monotonic() - begun, random.Random(0), [], 0
    for i in range(STOPS):
        # A folder of its own, so that each run begins anew.
        stopped = loop("loras/stopped", seed=11, **{**slow, "run_folder": f"stops/{i}"})
        seconds, said = interrupted(comfy, stopped, "step", dice.random() * 0.5 * took)
        waited.append(seconds)
        saved += "the LoRA so far is saved as loras/unfinished/" in said[-1]
        if i % 8 == 0:
            again = comfy.run({**stopped, "save": prompt["save"]})
            one = load_file(comfy.output / again["save"]["text"][0])
            assert all(bool((one[k] == whole[k]).all()) for k in whole)
    log.info("obeyed within %.2f s, %d of %d left a LoRA so far", max(waited), saved, STOPS)
    assert max(waited) < 2.0 and saved >= STOPS // 3


def test_a_disk_that_fills_up_costs_no_more_than_it_must(tmp_path):
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", place]).returncode:
        pytest.skip("a small disk needs the right to mount one")
    prompt = loop("loras/full", seed=12, **{**LONG, "run_folder": "full"})
    plug, output = place / "plug", place / "output"
    try:
        with started(place, output) as server:
            running = Running(server.address, output)

            def watch(kind, data):
                if kind == "progress_text" and "round 1 of 2 · circumvent" in data["text"]:
                    if not plug.exists():
                        free = os.statvfs(place)
                        plug.write_bytes(bytes(free.f_bavail * free.f_frsize - 4096))

            with pytest.raises(ServerError) as caught:
                running.run(prompt, watch)
            assert plug.exists() and "No space left" in str(caught.value)
            assert "make room" in failing(running, prompt)
            plug.unlink()
            goes_on = running.run(prompt)
            whole = running.run(loop("loras/whole", seed=12, **{**LONG, "run_folder": "off"}))
            one, two = (load_file(output / o["save"]["text"][0]) for o in (goes_on, whole))
            assert all(bool((one[k] == two[k]).all()) for k in two)
    finally:
        subprocess.run(["umount", "-l", place], check=True)
