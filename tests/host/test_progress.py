"""What a person sees while a node runs and when it is done: bar, line of text, log, panel."""

import importlib
import io
import json
import time

import pytest
import torch
from PIL import Image

from .test_nodes import SAMPLING, graph, loop, models_and_pool, node
from .test_panel import kept, picture

pytestmark = pytest.mark.host


class Seen:
    """Everything that the server says of the nodes that are shown."""

    def __init__(self):
        self.bars, self.texts, self.times = {}, {}, {}
        self.panels, self.told = {}, {}

    def __call__(self, kind, data):
        if kind == "darkminer.panel":
            self.panels.setdefault(data["node"], []).append(data)
            self.told.setdefault(data["node"], []).append(time.monotonic())
        if kind == "progress_text":
            self.texts.setdefault(data["node"], []).append(data["text"])
            self.times.setdefault(data["node"], []).append(time.monotonic())
        if kind == "progress_state":
            for name, state in data["nodes"].items():
                if state["state"] == "running":
                    self.bars.setdefault(name, []).append((state["value"], state["max"]))


def watched(comfy, prompt):
    seen = Seen()
    log = comfy.output.parent / "server.log"
    before = len(log.read_text(errors="replace"))
    outputs = comfy.run(prompt, seen)
    return seen, outputs, log.read_text(errors="replace")[before:]


@pytest.fixture(scope="module")
def by_loop(comfy):
    return watched(comfy, loop("loras/seen", seed=21, mine_steps=40, circumvent_steps=30))


def lines(log, name):
    return [line.split(f"{name}: ", 1)[1] for line in log.splitlines() if f"{name}: " in line]


def test_a_whole_run_has_one_bar_that_never_falls(by_loop):
    bars = by_loop[0].bars["loop"][1:]  # the host's own first state is of 1
    assert {most for _, most in bars} == {1000}
    values = [value for value, _ in bars]
    assert values == sorted(values) and len(set(values)) > 20
    assert values[0] < 100 and values[-2] > 900 and values[-1] == 1000


def test_the_log_has_a_line_for_every_part_in_its_order(by_loop):
    said = [line.split(" · prompt ")[0].split(" · picture ")[0].split(" · answer ")[0]
            .split(" · step ")[0] for line in lines(by_loop[2], "DarkMinerLoop")]  # fmt: skip
    ahead, *parts = dict.fromkeys(said)
    assert ahead.startswith("at most about "), "how long it takes, before it begins"
    in_round = ["mine", "mine tokens", "verify", "pictures", "circumvent"]
    assert parts == [
        "the concept's prompts", "vocabulary bank · prompts", "vocabulary bank · pictures",
        "text start · pictures", "text start", "chase · the concept's answers",
        "chase · pictures of anchors", "chase · the anchors' answers", "chase · the bank's answers",
        "chase · unrelated answers", "chase",
        *(f"round {n} of 2 · {name}" for n in (1, 2) for name in in_round),
        "last look · mine", "last look · mine tokens", "last look · verify",
        "pictures before and after",
    ]  # fmt: skip


def test_the_node_says_where_it_is_a_few_times_a_second(by_loop):
    seen = by_loop[0]
    texts, times = seen.texts["loop"], seen.times["loop"]
    assert texts[0] == "loading the model"
    assert any(t.startswith("round 1 of 2 · mine · step ") and " · loss " in t for t in texts)
    assert any(t.endswith(" left") for t in texts)
    assert len(texts) <= 4 + (times[-1] - times[0]) / 0.25


def test_the_loop_ends_with_its_verdict_on_the_node(by_loop):
    seen, outputs, _ = by_loop
    (words,) = outputs["loop"]["text"]
    assert words.startswith('"ink" is still there after 2 rounds (score ')
    text, took = seen.texts["loop"][-1].split("\n")
    assert text == words and took.endswith((" s", " min"))


def test_the_panel_is_told_where_the_run_is_at_most_twice_a_second(by_loop):
    states, times = by_loop[0].panels["loop"], by_loop[0].told["loop"]
    assert {s["kind"] for s in states} == {"DarkMinerLoop"}
    assert [s["state"] for s in states] == ["running"] * (len(states) - 1) + ["done"]
    shares = [s["share"] for s in states]
    assert shares == sorted(shares) and len(states) > 4
    assert len(times) <= 3 + 2 * (times[-1] - times[0])
    at = next(s for s in states if s["title"].startswith("round 1 of 2 · mine"))
    assert 0 < at["step"] <= at["steps"] == 40 and at["left"].endswith(" left")
    curve = next(s["curve"] for s in states if s["curve"])
    assert len(curve["points"]) <= 120 and curve["title"]


def test_the_end_stays_on_the_panel_with_scores_and_pairs_of_pictures(comfy, by_loop):
    seen, outputs, _ = by_loop
    state = kept(comfy, "loop", "")
    assert state == seen.panels["loop"][-1]
    assert state["words"].startswith(outputs["loop"]["text"][0])
    assert [look["name"] for look in state["looks"]] == ["round 1", "round 2", "last look"]
    assert all(look["there"] and look["threshold"] == -1 for look in state["looks"])
    for look in state["looks"]:
        assert len(look["pair"]) == 2
        for name in look["pair"]:
            status, kind, body = picture(comfy, name)
            assert (status, kind) == (200, "image/png")
            assert Image.open(io.BytesIO(body)).size == (32, 32)


def test_a_saved_file_is_named_by_its_place_below_output(comfy, by_loop):
    seen, outputs, _ = by_loop
    (name,) = outputs["save"]["text"]
    assert name.startswith("loras/seen_") and (comfy.output / name).is_file()
    assert seen.texts["save"] == [f"saved as {name}"]
    report = (comfy.output / name).with_suffix(".report.json")
    read = json.loads(report.read_text(encoding="utf-8"))
    assert read["file"] == report.name.replace(".report.json", ".safetensors")
    assert {"chase", "mine 1", "circumvent 2"} <= read["losses"].keys()
    assert read["lora"]["outcome"] == outputs["loop"]["text"][0]
    assert "<h1>ink</h1>" in report.with_suffix(".html").read_text(encoding="utf-8")


def test_the_visible_loop_writes_on_the_nodes_of_the_canvas(comfy):
    """Its rounds run in copies of the nodes, which nobody sees."""
    prompt = graph("loras/seen_graph")
    prompt["pool"]["inputs"]["seed"] = 21  # a pool that no other test has made
    seen, outputs, _ = watched(comfy, prompt)
    assert set(seen.texts) <= set(prompt)
    close = [o["text"] for name, o in outputs.items() if "close" in name and "text" in o]
    assert close == [[seen.texts["close"][-1]]]
    assert close[0][0].startswith('"ink" is still there after 2 rounds (score ')
    assert seen.texts["verify"][-1].startswith("still there · score ")
    assert " embeddings mined · 3 steps · loss " in seen.texts["mine"][-1]
    assert seen.texts["train"][-1].startswith("4 steps · loss ")
    assert seen.texts["bank"][-1].split(" · ")[0].endswith(" prompts to keep")
    assert seen.texts["pool"][-1].startswith("5 pictures · ")
    for bars in seen.bars.values():
        values = [value for value, most in bars if most == 1000]
        assert values == sorted(values)
    looks = kept(comfy, "verify", "")["looks"]
    assert [look["name"] for look in looks] == ["round 1", "round 2", "round 3"]
    assert set(seen.panels) <= {"pool", "bank", "start", "chase", "mine", "verify", "train"}


def test_every_concept_of_a_list_says_which_it_is_and_what_came_of_it(comfy):
    few = {
        "mine_steps": 3, "length": 20, "count": 1, "circumvent_steps": 3, "chase_steps": 2,
        "bank_size": 4, "threshold": "1", "run_folder": "panel",
    }  # fmt: skip
    prompt = {
        "m": node("DarkMinerDemoModels"),
        "list": node(
            "EraseConcepts", model=["m", 0], clip=["m", 1], vae=["m", 2], clip_vision=["m", 3],
            concepts="ink\nnoto", template="a * drawing", size=5, width=32, height=32,
            anchor_prompt="a drawing", negative_prompt="", preset="fast", max_rounds=1, seed=5,
            **SAMPLING, **few,
        ),
        "look": node("PreviewImage", images=["list", 3]),
    }  # fmt: skip
    seen, outputs, log = watched(comfy, prompt)
    said = lines(log, "EraseConcepts")
    assert said[0].startswith("ink (1 of 2) · pictures of the concept · picture ")
    assert any(s.startswith("noto (2 of 2) · round 1 of 1 · mine ") for s in said)
    values = [value for value, most in seen.bars["list"] if most == 1000]
    assert values == sorted(values) and values[-1] == 1000
    texts = outputs["list"]["text"]
    assert [t.split(" is gone")[0] for t in texts] == ['"ink"', '"noto"']
    assert seen.texts["list"][-1].splitlines()[:2] == texts
    looks = kept(comfy, "list", "")["looks"]
    found = [("ink (1 of 2)", "round 1"), ("noto (2 of 2)", "round 1")]
    assert [(look["about"], look["name"]) for look in looks] == found
    # Queued again it goes on: the panel shows what was verified before.
    prompt["list"]["inputs"]["max_minutes"] = 5.0
    watched(comfy, prompt)
    again = kept(comfy, "list", "")
    assert [look["score"] for look in again["looks"]] == [look["score"] for look in looks]
    assert again["state"] == "done" and again["words"].startswith(texts[0])


def test_an_attack_says_what_it_does(comfy):
    prompt = models_and_pool(size=4)
    prompt |= {
        "anchor": node("CLIPTextEncode", clip=["m", 1], text="a drawing"),
        "no": node("CLIPTextEncode", clip=["m", 1], text=""),
        "attack": node(
            "AttackErasure", model=["m", 0], vae=["m", 2], pool=["pool", 0], anchor=["anchor", 0],
            seed=0, **SAMPLING, clip_vision=["m", 3], clip=["m", 1], negative=["no", 0], steps=3,
            pictures=4,
        ),
        "say": node("PreviewAny", source=["attack", 3]),
    }  # fmt: skip
    seen, outputs, log = watched(comfy, prompt)
    said = [s.split(" · ")[0] for s in lines(log, "AttackErasure")]
    assert list(dict.fromkeys(said))[:5] == [
        "calibrate", "attack by token", "attack by context 1", "attack by context 4",
        "pictures of the attacks",
    ]  # fmt: skip
    assert seen.texts["attack"][-1].startswith(outputs["say"]["text"][0])


def test_own_pictures_say_on_the_node_what_was_read(comfy):
    from PIL import Image

    folder = comfy.output.parent / "input" / "seen"
    folder.mkdir()
    Image.new("RGB", (32, 32)).save(folder / "one.png")
    prompt = models_and_pool(folder="seen")
    prompt["look"] = node("PreviewImage", images=["pool", 1])
    seen, outputs, _ = watched(comfy, prompt)
    assert seen.texts["pool"] == outputs["pool"]["text"]


def test_without_a_running_server_a_report_shows_nothing_and_stops_nothing(hosted):
    run = importlib.import_module("dark_miner.nodes.host.run")
    report = importlib.import_module("dark_miner.darkminer.types").StepReport
    progress = run.Progress("DarkMinerLoop")
    progress(report("mine", 1, 1, 2, loss=0.5, images=torch.rand(2, 8, 8, 3)))
    progress.done("half of a pair: \ud800")
