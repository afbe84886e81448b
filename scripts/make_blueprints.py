"""Write the subgraph blueprints, which the host offers among its nodes, from a template.

    python scripts/make_blueprints.py           write
    python scripts/make_blueprints.py --check   only say which files are not what they would be

"One Dark Miner round" is the visible loop of the template ``erase_demo_as_graph``, from *Round:
Open* to *Round: Close*, as one node: what comes from outside becomes its inputs. Sockets and
widgets are asked of a real server (``COMFYUI_PATH``), as for the templates.
"""

from __future__ import annotations

import argparse
import json
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from comfy_server import Prompt
from make_workflows import (
    API,
    GAP,
    ROOT,
    WIDTH,
    Graph,
    Info,
    Links,
    default_of,
    definitions,
    dump,
    inputs_of,
    is_link,
    is_widget,
    make_node,
    make_outputs,
    place,
    set_order,
    type_name,
)

FOLDER = ROOT / "subgraphs"
NAME, SOURCE = "One Dark Miner round", "erase_demo_as_graph"
COLUMNS = [["9"], ["10"], ["11"], ["13"], ["14"]]
SHARED = ("seed", "preset", "settings", "clip_vision")
"""Inputs of several nodes inside that the one node has once."""

OWN = {"9": ("max_rounds",), "10": ("exclude_words",), "11": ("threshold",)}
"""Further widgets inside that stand on the one node."""

OUTPUTS = (("14", "lora"), ("14", "embeddings"), ("14", "rounds"), ("14", "score"),
           ("14", "summary"), ("11", "target"))  # fmt: skip
INPUT_NODE, OUTPUT_NODE = -10, -20
LINK = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")


def inside() -> Prompt:
    """The round's nodes, with every value as a new node has it."""
    whole = json.loads((API / f"{SOURCE}.json").read_text(encoding="utf-8"))
    return {node_id: whole[node_id] for column in COLUMNS for node_id in column}


def plain(prompt: Prompt, nodes: Info) -> Prompt:
    """Links among the round's own nodes, and defaults: a blueprint belongs to no concept."""
    made: Prompt = {}
    for node_id, node in prompt.items():
        inputs: dict[str, Any] = {}
        for name, (kind, options) in inputs_of(nodes[node["class_type"]]).items():
            value = node["inputs"].get(name)
            if is_link(value) and value[0] in prompt:
                inputs[name] = value
            elif is_widget(kind, options):
                inputs[name] = default_of(kind, options)
        made[node_id] = {**node, "inputs": inputs}
    return made


def asked(prompt: Prompt, nodes: Info) -> dict[str, tuple[str, list[tuple[str, str]]]]:
    """Name of each of the one node's inputs -> its type, and the inputs inside that take it."""
    found: dict[str, tuple[str, list[tuple[str, str]]]] = {}
    for node_id, node in inside().items():
        specs = inputs_of(nodes[node["class_type"]])
        for name, (kind, options) in specs.items():
            value = node["inputs"].get(name)
            outside = is_link(value) and value[0] not in prompt
            chosen = name in SHARED or name in OWN.get(node_id, ())
            if not (outside or chosen) or (is_widget(kind, options) and not chosen):
                continue
            title = {"reference": "anchor"}.get(name, name)
            found.setdefault(title, (type_name(kind), []))[1].append((node_id, name))
    sockets = {k: v for k, v in found.items() if k not in _widgets(found)}
    return {**sockets, **{k: v for k, v in found.items() if k not in sockets}}


def _widgets(found: dict[str, Any]) -> set[str]:
    return {k for k, (kind, _) in found.items() if kind in ("INT", "STRING", "COMBO", "FLOAT")}


def link(row: Sequence[Any]) -> Graph:
    """A link as subgraphs write it."""
    return dict(zip(LINK, row, strict=True))


def slot_of(made: Graph, name: str) -> int:
    """The place of an input among a node's own."""
    return next(i for i, row in enumerate(made["inputs"]) if row["name"] == name)


def blueprint(nodes: Info) -> Graph:
    """The file: one node on an empty page, and what is inside it."""
    prompt, links = plain(inside(), nodes), Links()
    made = {i: make_node(i, n, nodes[n["class_type"]], links) for i, n in prompt.items()}
    set_order(prompt, made)
    place(made, COLUMNS, top=0)
    rows = [link(row) for row in links.rows]
    ins = _inputs(made, asked(prompt, nodes), rows)
    for graph_node in made.values():
        graph_node["outputs"] = make_outputs(graph_node, nodes[graph_node["type"]], links)
    outs = _outputs(made, rows)
    name = str(uuid.uuid5(uuid.NAMESPACE_OID, f"dark-miner/{NAME}"))
    definition = {
        "id": name, "version": 1,
        "state": {"lastGroupId": 0, "lastNodeId": max(map(int, made)), "lastLinkId": len(rows),
                  "lastRerouteId": 0},
        "revision": 0, "config": {}, "name": NAME,
        "inputNode": {"id": INPUT_NODE, "bounding": [-WIDTH, 0, 160, 60 + 20 * len(ins)]},
        "outputNode": {"id": OUTPUT_NODE, "bounding": [5 * (WIDTH + GAP), 0, 160,
                                                       60 + 20 * len(outs)]},
        "inputs": ins, "outputs": outs, "widgets": [], "nodes": list(made.values()), "groups": [],
        "links": rows, "extra": {}, "category": "DarkMiner",
        "description": "Mines, verifies and circumvents until nothing is found: the visible loop "
        "of Dark Miner as one node.",
    }  # fmt: skip
    return {
        "id": str(uuid.uuid5(uuid.NAMESPACE_OID, f"dark-miner/{NAME}/page")), "revision": 0,
        "last_node_id": 1, "last_link_id": 0, "nodes": [_one(name, ins, outs, made)], "links": [],
        "groups": [], "definitions": {"subgraphs": [definition]}, "config": {}, "extra": {},
        "version": 0.4,
    }  # fmt: skip


def _inputs(
    made: dict[str, Graph], wanted: dict[str, tuple[str, list[tuple[str, str]]]],
    rows: list[Graph],
) -> list[Graph]:  # fmt: skip
    """The subgraph's inputs, with their links into the nodes inside."""
    found = []
    for slot, (name, (kind, targets)) in enumerate(wanted.items()):
        ids = []
        for node_id, field in targets:
            number, place_ = len(rows) + 1, slot_of(made[node_id], field)
            made[node_id]["inputs"][place_]["link"] = number
            rows.append(link((number, INPUT_NODE, slot, int(node_id), place_, kind)))
            ids.append(number)
        found.append({"id": _id("in", name), "name": name, "type": kind, "linkIds": ids,
                      "pos": [-WIDTH + 120, 20 + 20 * slot]})  # fmt: skip
    return found


def _outputs(made: dict[str, Graph], rows: list[Graph]) -> list[Graph]:
    found = []
    for slot, (node_id, name) in enumerate(OUTPUTS):
        own = next(i for i, out in enumerate(made[node_id]["outputs"]) if out["name"] == name)
        output, number = made[node_id]["outputs"][own], len(rows) + 1
        output["links"] = [*(output["links"] or []), number]
        rows.append(link((number, int(node_id), own, OUTPUT_NODE, slot, output["type"])))
        pos = [5 * (WIDTH + GAP) + 20, 20 + 20 * slot]
        found.append({"id": _id("out", name), "name": name, "type": output["type"],
                      "linkIds": [number], "pos": pos})  # fmt: skip
    return found


def _id(kind: str, name: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"dark-miner/{NAME}/{kind}/{name}"))


def _one(name: str, ins: list[Graph], outs: list[Graph], made: dict[str, Graph]) -> Graph:
    """The node that stands for the subgraph."""
    shown = _widgets({row["name"]: (row["type"], None) for row in ins})
    inputs = [
        {"name": row["name"], "type": row["type"], "link": None,
         **({"widget": {"name": row["name"]}} if row["name"] in shown else {})}
        for row in ins
    ]  # fmt: skip
    values = [_value(row, made) for row in ins if row["name"] in shown]
    return {
        "id": 1, "type": name, "pos": [0, 0], "size": [WIDTH, 60 + 24 * len(ins)], "flags": {},
        "order": 0, "mode": 0, "inputs": inputs,
        "outputs": [{"name": o["name"], "type": o["type"], "links": None} for o in outs],
        "title": NAME,
        "properties": {
            "proxyWidgets": [["-1", row["name"]] for row in ins if row["name"] in shown],
            "cnr_id": "dark-miner", "ver": made["9"]["properties"]["ver"],
        },
        "widgets_values": values,
    }  # fmt: skip


def _value(row: Graph, made: dict[str, Graph]) -> Any:
    """What the widget of an input inside holds, which the one outside shows."""
    for node in made.values():
        names = [i["name"] for i in node["inputs"] if "widget" in i]
        links = {i["name"]: i["link"] for i in node["inputs"]}
        for name in names:
            if links[name] in row["linkIds"]:
                return node["widgets_values"][_place_of(node, name, names)]
    raise SystemExit(f"no widget inside takes {row['name']}.")


def _place_of(node: Graph, name: str, names: list[str]) -> int:
    """A widget's place among a node's values; a seed's "fixed" stands behind it."""
    before = names[: names.index(name)]
    return len(before) + sum(n in ("seed", "noise_seed") for n in before)


def build(nodes: Info) -> dict[Path, str]:
    """Path -> text of every blueprint."""
    return {FOLDER / f"{NAME}.json": dump(blueprint(nodes))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    options = parser.parse_args()
    stale = []
    for path, text in build(definitions()).items():
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            stale.append(path.name)
            if not options.check:
                path.parent.mkdir(exist_ok=True)
                path.write_text(text, encoding="utf-8")
    if stale and options.check:
        sys.exit(f"not up to date: {', '.join(stale)}; run scripts/make_blueprints.py")


if __name__ == "__main__":
    main()
