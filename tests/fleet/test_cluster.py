"""Two machines, one of which is lost; and two thousand rows that cost next to nothing."""

from __future__ import annotations

import asyncio
import heapq
import json
import logging
import os
import random
import resource
import secrets
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from dark_miner.benchmarks.hosted import ROOT, load_pack, script
from dark_miner.fleet.executors import OnRay
from dark_miner.fleet.reading import Machine

pytestmark = pytest.mark.fleet
log = logging.getLogger(__name__)

STORE = 100 * 1024 * 1024  # bytes of Ray's object store
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
"""What the machines of a cluster know each other by."""
OFTEN = {"DARKMINER_CHECKPOINT_SECONDS": "0"}
HEAD, OTHER = "10.213.7.1", "10.213.7.2"
FEW = {
    "max_rounds": 1, "sampling.steps": 2, "sampling.batch": 4, "mine.steps": 6, "mine.lr_drop": 6,
    "verify.threshold": -1, "circumvent.steps": 6, "circumvent.lr_drop": 6, "circumvent.images": 2,
    "lora.rank": 2,
}  # fmt: skip


def of_ray(*arguments, inside, host):
    """Run Ray's own command in a namespace; rows there find their host by its environment."""
    before = ["ip", "netns", "exec", inside]
    return subprocess.run(
        [*before, sys.executable, "-m", "ray.scripts.scripts", *arguments],
        check=True, capture_output=True, text=True,
        env=os.environ | TOKEN | OFTEN | {"COMFYUI_PATH": str(host)},
    )  # fmt: skip


def ip(*arguments, check=True):
    return subprocess.run(["ip", *arguments], check=check, capture_output=True, text=True)


@pytest.fixture
def machines():
    """Two network namespaces with a cable between them: head and other."""
    pytest.importorskip("ray", reason="needs Ray: pip install 'ray[default]'")
    if shutil.which("ip") is None or os.geteuid():
        pytest.skip("needs network namespaces: Linux, iproute2 and root")
    names = f"fleet-head-{os.getpid()}", f"fleet-other-{os.getpid()}"
    try:
        for name in names:
            if ip("netns", "add", name, check=False).returncode:
                pytest.skip("no network namespace can be made here")
            ip("-n", name, "link", "set", "lo", "up")
        ip("-n", names[0], "link", "add", "cable", "type", "veth", "peer", "name", "cable",
           "netns", names[1])  # fmt: skip
        for name, address in zip(names, (HEAD, OTHER), strict=True):
            ip("-n", name, "address", "add", f"{address}/24", "dev", "cable")
            ip("-n", name, "link", "set", "cable", "up")
        yield names
    finally:
        for name in names:
            lost(name)
            ip("netns", "del", name, check=False)


def lost(machine):
    """Everything that runs on a machine ends at once."""
    for _ in range(3):
        for process in ip("netns", "pids", machine, check=False).stdout.split():
            try:
                os.kill(int(process), signal.SIGKILL)
            except ProcessLookupError:
                continue


def results(folder):
    path = folder / "results.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def under_way(folder):
    """How many rows have a stage behind them and are not done: each machine takes one at a time."""
    kept = {path.parents[2] for path in folder.glob("rows/*/darkminer/run/embeddings-*")}
    return sum(not (row / "done.json").exists() for row in kept)


def gallery_and_stand_ins(folder):
    """Checkpoints of three families, and a host whose encoders have few layers."""
    from safetensors.torch import save_file

    from ..host import standins

    host = standins.host_of_few_layers(Path(os.environ["COMFYUI_PATH"]), folder / "host")
    for name, tensors in (
        ("sd15", standins.checkpoint("sd15")), ("sdxl", standins.checkpoint("sdxl")),
        ("open_clip", standins.open_clip()),
    ):  # fmt: skip
        half = {
            k: (v.half() if v.is_floating_point() else v).contiguous().clone()
            for k, v in tensors.items()
        }
        save_file(half, folder / f"{name}.safetensors")
    return host


def plan(folder, name, ray):
    """Twelve rows: eight of the gallery, two each of what looks like SD 1.5 and SDXL."""
    path = folder / f"{name}.yaml"
    small = {"width": 64, "height": 64, "concept": ["van gogh", "monet"]}
    path.write_text(yaml.safe_dump({
        "output": name, "machine": {"ray": ray, "num_cpus": 1, "retries": 3},
        "checkpoints": {"gallery": "gallery", "sd15": "sd15.safetensors",
                        "sdxl": "sdxl.safetensors"},
        "defaults": {
            "preset": "paper", "pictures": 4, "settings": FEW, "open_clip": "ViT-S-32-alt",
            "open_clip_weights": str(folder / "open_clip.safetensors"),
        },
        "rows": [
            {"checkpoint": "gallery", "concept": ["ink", "noto", "flat", "blob"], "seed": [0, 1]},
            {"checkpoint": "sd15", **small}, {"checkpoint": "sdxl", **small},
        ],
    }))  # fmt: skip
    return path


def fleet(path, host, inside=None):
    before = ["ip", "netns", "exec", inside] if inside else []
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | TOKEN
    return subprocess.Popen(
        [*before, sys.executable, "-m", "fleet", str(path)], cwd=ROOT, text=True,
        env=environment | OFTEN | {"COMFYUI_PATH": str(host)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def test_a_machine_is_lost_and_every_row_is_done_once_with_the_same_bytes(machines, tmp_path):
    load_pack()
    head, other = machines
    host = gallery_and_stand_ins(tmp_path)
    begun = time.monotonic()
    alone = fleet(plan(tmp_path, "alone", "off"), host)
    said = alone.communicate()[0]
    assert alone.returncode == 0, said
    spent = time.monotonic() - begun
    options = ("--num-cpus=1", f"--object-store-memory={STORE}", "--disable-usage-stats")
    of_ray(
        "start", "--head", f"--node-ip-address={HEAD}", "--port=6379", *options,
        "--include-dashboard=false", f"--temp-dir=/tmp/ray-{os.getpid()}", inside=head, host=host,
    )  # fmt: skip
    of_ray(
        "start", f"--address={HEAD}:6379", f"--node-ip-address={OTHER}", *options, inside=other,
        host=host,
    )  # fmt: skip
    cluster = tmp_path / "cluster"
    begun = time.monotonic()
    running = fleet(plan(tmp_path, "cluster", f"{HEAD}:6379"), host, inside=head)
    while (len(results(cluster)) < 4 or under_way(cluster) < 2) and running.poll() is None:
        time.sleep(0.1)
    lost(other)
    said = running.communicate()[0]
    log.info("%salone %.0f s, on two machines %.0f s", said, spent, time.monotonic() - begun)
    assert running.returncode == 0, said
    lines = results(cluster)
    assert len(lines) == len({line["row"] for line in lines}) == 12
    assert all(line["status"] == "done" for line in lines)
    one = {line["row"]: line["sha256"] for line in results(tmp_path / "alone")}
    assert {line["row"]: line["sha256"] for line in lines} == one
    assert "2 machines" in said
    logs = [path.read_text() for path in cluster.rglob("log.txt")]
    assert sum(log.count("goes on after") + log.count("is taken from") for log in logs) >= 1, (
        "nothing was running on the machine that was lost"
    )


def test_what_is_baked_is_what_the_template_saves(tmp_path):
    from safetensors.torch import load_file

    load_pack()
    host = gallery_and_stand_ins(tmp_path)
    path = plan(tmp_path, "baked", "off")
    asked = yaml.safe_load(path.read_text())
    asked["rows"] = [{"checkpoint": "sd15", "concept": "van gogh", "bake": True, "width": 64,
                      "height": 64}]  # fmt: skip
    path.write_text(yaml.safe_dump(asked))
    running = fleet(path, host)
    said = running.communicate()[0]
    assert running.returncode == 0, said
    (line,) = results(tmp_path / "baked")
    folder, files = tmp_path / "baked" / line["folder"], line["files"]
    module, base = script("comfy_server"), tmp_path / "base"
    module.prepare_base(base, ROOT)
    for kind, file in (("checkpoints", tmp_path / "sd15.safetensors"),
                       ("loras", folder / files["lora"])):  # fmt: skip
        (base / "models" / kind).mkdir(parents=True, exist_ok=True)
        (base / "models" / kind / file.name).symlink_to(file)
    whole = json.loads((ROOT / "workflows" / "api" / "bake_erasure.json").read_text("utf-8"))
    prompt = {number: whole[number] for number in ("1", "2", "3")}
    prompt["1"]["inputs"]["ckpt_name"] = "sd15.safetensors"
    prompt["2"]["inputs"]["lora_name"] = files["lora"]
    with module.Server(host, sys.executable, base, tmp_path / "output", cpu=True) as server:

        async def run():
            async with module.Client(server.address) as client:
                await client.run(prompt)

        asyncio.run(run())
    (saved,) = (tmp_path / "output" / "checkpoints").glob("*.safetensors")
    one, other = load_file(folder / files["checkpoint"]), load_file(saved)
    original = load_file(tmp_path / "sd15.safetensors")
    assert one.keys() == other.keys()
    assert all(one[k].dtype == other[k].dtype and bool((one[k] == other[k]).all()) for k in one)
    changed = [k for k in one if k in original and not bool((one[k] == original[k]).all())]
    assert changed and all(k.startswith("model.diffusion_model.") for k in changed)


def asleep(task):
    """A row that does nothing but take its time."""
    import time

    time.sleep(task["seconds"])
    return {"row": task["name"], "digest": task["digest"], "status": "done", "verdict": "gone"}


def random_lengths(count):
    """Seconds of simulated rows: of one length they would all end at once, as real ones do not."""
    chance = random.Random(0)
    return [chance.uniform(10, 20) for _ in range(count)]


def end_of(lengths, slots):
    """When rows are done that cost nothing besides, each on the first slot that is free."""
    free = [0.0] * slots
    for seconds in lengths:
        heapq.heapreplace(free, free[0] + seconds)
    return max(free)


def test_two_thousand_rows_cost_next_to_nothing():
    ray = pytest.importorskip("ray", reason="needs Ray: pip install 'ray[default]'")
    slots = 40
    lengths = random_lengths(2000)
    ray.init(num_cpus=slots, object_store_memory=STORE, include_dashboard=False,
             log_to_driver=False)  # fmt: skip
    try:
        runs = OnRay(Machine(num_cpus=1), asleep)

        def tasks(lengths):
            for i, seconds in enumerate(lengths):
                yield {"name": f"row-{i}", "digest": str(i), "seconds": seconds,
                       "row": {"checkpoint": "sd15", "concept": "x" * 2000}}  # fmt: skip

        assert len(list(runs.run(tasks([0.5] * 4 * slots)))) == 4 * slots  # workers are up
        memory, seen, cpu = [], set(), resource.getrusage(resource.RUSAGE_SELF)
        begun = time.monotonic()
        for result in runs.run(tasks(lengths)):
            assert result["status"] == "done", result
            seen.add(result["digest"])
            if len(seen) % 100 == 0:
                memory.append(resident())
        took = time.monotonic() - begun
        own = resource.getrusage(resource.RUSAGE_SELF)
    finally:
        ray.shutdown()
    ideal = end_of(lengths, slots)
    overhead, growth = took / ideal - 1, memory[-1] - memory[2]
    told = (
        f"{len(lengths)} rows on {slots} slots: {took:.1f} s, {overhead:.2%} over "
        f"{ideal:.1f} s; driver {own.ru_utime - cpu.ru_utime:.1f} s of CPU, "
        f"{memory[0] / 1e6:.0f} to {memory[-1] / 1e6:.0f} MB"
    )
    log.info("%s", told)
    assert len(seen) == len(lengths)
    assert overhead < 0.01, told
    assert growth < 8e6, told


def resident():
    """Bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
