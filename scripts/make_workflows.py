"""Write the workflow templates (UI format) from their API versions.

    python scripts/make_workflows.py           write
    python scripts/make_workflows.py --check   only say which files are not what they would be

``workflows/api/NAME.json`` says what runs; ``scripts/workflow_layouts.json`` says where it stands:
columns of nodes, groups, notes. What the nodes' sockets and widgets are is asked of a real server
(``COMFYUI_PATH``, as ``scripts/setup.sh`` exports it), so a template cannot drift from either.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import uuid
from pathlib import Path
from typing import Any

from comfy_server import Client, Prompt, Server, prepare_base

ROOT = Path(__file__).resolve().parent.parent
API = ROOT / "workflows" / "api"
LAYOUTS = ROOT / "scripts" / "workflow_layouts.json"
MODELS = json.loads((ROOT / "scripts" / "workflow_models.json").read_text(encoding="utf-8"))
"""File that a template asks for -> the host's folder for it, and where the browser offers it."""
PACK_VERSION = "0.1.0"
HOST_VERSION = "0.30.0"  # the host that the templates are made with
WIDGET_TYPES = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
PICTURE_NODES = ("PreviewImage", "SaveImage")
SCREEN, MARGIN = (1500, 850), 60  # what a browser leaves of a common screen, and its bars
READABLE = 0.65  # of full size; the canvas leaves out text that is smaller than eight pixels
WIDTH, GAP, TITLE, ROW, PICTURE, TEXT = 320, 60, 30, 24, 260, 90
VUE_SOCKET, VUE_ROW, VUE_FIELD, VUE_FOOT = 20, 28, 36, 34  # heights of the same as Vue nodes

Info = dict[str, Any]
Graph = dict[str, Any]


def inputs_of(info: Info) -> dict[str, tuple[Any, dict[str, Any]]]:
    """Name -> (type, options) of a node's inputs, in the order of its definition."""
    found = {}
    for kind in ("required", "optional"):
        for name, spec in info["input"].get(kind, {}).items():
            options = spec[1] if len(spec) > 1 else {}
            found[name] = (spec[0], options)
    return found


def is_widget(kind: Any, options: dict[str, Any]) -> bool:
    """Whether an input is set on the node itself rather than only by a link."""
    return (isinstance(kind, list) or kind in WIDGET_TYPES) and not options.get("forceInput")


def type_name(kind: Any) -> str:
    return "COMBO" if isinstance(kind, list) else str(kind)


def default_of(kind: Any, options: dict[str, Any]) -> Any:
    """What the browser shows in an untouched widget."""
    if "default" in options:
        return options["default"]
    choices = kind if isinstance(kind, list) else options.get("options")
    if choices:
        return choices[0]
    return {"INT": 0, "FLOAT": 0.0, "BOOLEAN": False}.get(type_name(kind), "")


def has_control(name: str, kind: Any, options: dict[str, Any]) -> bool:
    """Whether the browser adds a "control after generate" widget behind this one."""
    return kind == "INT" and bool(
        options.get("control_after_generate", name in ("seed", "noise_seed"))
    )


def filled(prompt: Prompt, nodes: Info) -> Prompt:
    """The API prompt with every widget's value written out and inputs in definition order."""
    result: Prompt = {}
    for node_id in sorted(prompt, key=int):
        node = prompt[node_id]
        specs = inputs_of(nodes[node["class_type"]])
        unknown = set(node["inputs"]) - set(specs)
        if unknown:
            raise SystemExit(f"{node['class_type']} has no input {', '.join(sorted(unknown))}.")
        inputs = {
            name: node["inputs"][name] if name in node["inputs"] else default_of(kind, options)
            for name, (kind, options) in specs.items()
            if name in node["inputs"] or is_widget(kind, options)
        }
        title = node.get("_meta", {}).get("title") or nodes[node["class_type"]]["display_name"]
        result[node_id] = {
            "inputs": inputs,
            "class_type": node["class_type"],
            "_meta": {"title": title},
        }
    return result


def is_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)


class Links:
    """Numbers the links of one graph and remembers who uses them."""

    def __init__(self) -> None:
        self.rows: list[list[Any]] = []

    def add(self, origin: str, slot: int, target: str, target_slot: int, kind: str) -> int:
        number = len(self.rows) + 1
        self.rows.append([number, int(origin), slot, int(target), target_slot, kind])
        return number

    def leaving(self, node_id: str, slot: int) -> list[int]:
        return [row[0] for row in self.rows if row[1:3] == [int(node_id), slot]]


def make_inputs(node_id: str, node: dict[str, Any], info: Info, links: Links) -> list[Graph]:
    """Sockets first, then widgets (each with its socket), as the browser orders them."""
    specs = inputs_of(info)
    sockets = [n for n, (k, o) in specs.items() if not is_widget(k, o)]
    widgets = [n for n, (k, o) in specs.items() if is_widget(k, o)]
    rows = []
    for slot, name in enumerate([*sockets, *widgets]):
        kind = type_name(specs[name][0])
        value = node["inputs"].get(name)
        row: Graph = {"name": name, "type": kind, "link": None}
        if name in widgets:
            row["widget"] = {"name": name}
        elif name in info["input"].get("optional", {}):
            row["shape"] = 7
        if is_link(value):
            row["link"] = links.add(value[0], value[1], node_id, slot, kind)
        rows.append(row)
    return rows


def widget_values(node: dict[str, Any], info: Info) -> list[Any]:
    """Values in widget order; a seed is followed by its "fixed"."""
    values = []
    for name, (kind, options) in inputs_of(info).items():
        if not is_widget(kind, options):
            continue
        value = node["inputs"][name]
        values.append(default_of(kind, options) if is_link(value) else value)
        if has_control(name, kind, options):
            values.append("fixed")
    return values


def node_size(node_type: str, info: Info) -> list[int]:
    """Width and height that leave room for sockets, widgets and pictures, in both frontends."""
    specs = inputs_of(info)
    widgets = {n: (k, o) for n, (k, o) in specs.items() if is_widget(k, o)}
    sockets = max(len(specs) - len(widgets), len(info["output"]))
    texts = TEXT * sum(bool(o.get("multiline")) for _, o in widgets.values())
    controls = sum(has_control(name, k, o) for name, (k, o) in widgets.items())
    canvas = ROW * (sockets + len(widgets) + controls)
    seen = [type_name(k) for k, o in widgets.values() if not o.get("advanced")]
    folds = len(seen) < len(widgets)
    vue = VUE_SOCKET * sockets + sum(VUE_FIELD if k == "STRING" else VUE_ROW for k in seen)
    height = TITLE + texts + max(canvas, vue + VUE_FOOT * (1 + folds))
    return [WIDTH, height + (PICTURE if node_type in PICTURE_NODES else 0)]


def make_node(node_id: str, node: dict[str, Any], info: Info, links: Links) -> Graph:
    """One node in UI format, still without its place and its outgoing links."""
    ours = info["python_module"].startswith("custom_nodes")
    made: Graph = {
        "id": int(node_id),
        "type": node["class_type"],
        "pos": [0, 0],
        "size": node_size(node["class_type"], info),
        "flags": {},
        "order": 0,
        "mode": 0,
        "inputs": make_inputs(node_id, node, info, links),
        "outputs": [],
        "properties": {
            "Node name for S&R": node["class_type"],
            "cnr_id": "dark-miner" if ours else "comfy-core",
            "ver": PACK_VERSION if ours else HOST_VERSION,
        },
        "widgets_values": widget_values(node, info),
    }
    files = [v for v in node["inputs"].values() if isinstance(v, str) and v in MODELS]
    if files:
        made["properties"]["models"] = [{"name": file, **MODELS[file]} for file in files]
    title = node.get("_meta", {}).get("title")
    if title and title != info["display_name"]:
        made["title"] = title
    return made


def make_outputs(made: Graph, info: Info, links: Links) -> list[Graph]:
    names = info.get("output_name") or info["output"]
    return [
        {
            "name": name,
            "type": type_name(kind),
            "links": links.leaving(str(made["id"]), slot) or None,
        }
        for slot, (name, kind) in enumerate(zip(names, info["output"], strict=True))
    ]


def set_order(prompt: Prompt, made: dict[str, Graph]) -> None:
    """Number the nodes so that each stands after all it depends on."""
    done: list[str] = []
    while len(done) < len(prompt):
        for node_id, node in prompt.items():
            sources = {v[0] for v in node["inputs"].values() if is_link(v)}
            if node_id not in done and sources <= set(done):
                made[node_id]["order"] = len(done)
                done.append(node_id)


def place(made: dict[str, Graph], columns: list[list[str]], top: int) -> None:
    """Stand the nodes in columns from left to right."""
    placed = [node_id for column in columns for node_id in column]
    if sorted(placed) != sorted(made):
        raise SystemExit(f"the columns must name each node once: {sorted(made, key=int)}.")
    x = 0
    for column in columns:
        y = top
        for node_id in column:
            made[node_id]["pos"] = [x, y]
            y += made[node_id]["size"][1] + GAP
        x += max(made[node_id]["size"][0] for node_id in column) + GAP


def make_groups(made: dict[str, Graph], groups: list[Graph]) -> list[Graph]:
    rows = []
    for number, group in enumerate(groups, start=1):
        nodes = [made[node_id] for node_id in group["nodes"]]
        left = min(n["pos"][0] for n in nodes) - 15
        top = min(n["pos"][1] for n in nodes) - TITLE - 50
        right = max(n["pos"][0] + n["size"][0] for n in nodes) + 15
        bottom = max(n["pos"][1] + n["size"][1] for n in nodes) + 15
        rows.append(
            {
                "id": number,
                "title": group["title"],
                "bounding": [left, top, right - left, bottom - top],
                "color": group.get("color", "#7fb4d8"),
                "font_size": 24,
                "flags": {},
            }
        )
    return rows


def make_note(number: int, text: str) -> Graph:
    """A note to the left of all nodes."""
    return {
        "id": number,
        "type": "MarkdownNote",
        "pos": [-(WIDTH + 2 * GAP), 0],
        "size": [WIDTH + 40, 120 + 22 * (len(text) // 42 + text.count("\n"))],
        "flags": {},
        "order": 0,
        "mode": 0,
        "inputs": [],
        "outputs": [],
        "title": "Read me",
        "properties": {},
        "widgets_values": [text],
        "color": "#432",
        "bgcolor": "#653",
    }


def view(shown: list[Graph], groups: list[Graph]) -> Graph:
    """Scale and offset that show the graph on a screen of :data:`SCREEN` pixels.

    One that is too large to be read as a whole is shown from its upper left, where its note is.
    """
    boxes = [(*n["pos"], *n["size"]) for n in shown] + [tuple(g["bounding"]) for g in groups]
    left, top = (min(box[i] for box in boxes) for i in (0, 1))
    spans = (max(b[i] + b[i + 2] for b in boxes) - min(b[i] for b in boxes) for i in (0, 1))
    whole = min(1.0, *(room / span for room, span in zip(SCREEN, spans, strict=True)))
    scale = max(whole, READABLE)
    edge = MARGIN / scale
    return {"scale": round(scale, 3), "offset": [round(edge - left), round(edge - top)]}


def to_ui(name: str, prompt: Prompt, layout: Graph, nodes: Info) -> Graph:
    """The UI-format graph of a filled API prompt."""
    links = Links()
    made = {
        node_id: make_node(node_id, node, nodes[node["class_type"]], links)
        for node_id, node in prompt.items()
    }
    for graph_node in made.values():
        graph_node["outputs"] = make_outputs(graph_node, nodes[graph_node["type"]], links)
    set_order(prompt, made)
    place(made, layout["columns"], top=0)
    last = max(int(node_id) for node_id in made)
    shown = [make_note(last + 1, "\n".join(layout["note"])), *made.values()]
    groups = make_groups(made, layout["groups"])
    return {
        "id": str(uuid.uuid5(uuid.NAMESPACE_OID, f"dark-miner/{name}")),
        "revision": 0,
        "last_node_id": last + 1,
        "last_link_id": len(links.rows),
        "nodes": shown,
        "links": links.rows,
        "groups": groups,
        "config": {},
        "extra": {"ds": view(shown, groups)},
        "version": 0.4,
    }


def dump(data: Any) -> str:
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"


def build(nodes: Info) -> dict[Path, str]:
    """Path -> text of every API and UI file."""
    layouts = json.loads(LAYOUTS.read_text(encoding="utf-8"))
    files = {}
    for name, layout in layouts.items():
        path = API / f"{name}.json"
        prompt = filled(json.loads(path.read_text(encoding="utf-8")), nodes)
        files[path] = dump(prompt)
        files[API.parent / f"{name}.json"] = dump(to_ui(name, prompt, layout, nodes))
    return files


async def ask(address: str) -> Info:
    async with Client(address) as client:
        return await client.object_info()


def definitions() -> Info:
    """Every node's definition, from a server started for the purpose."""
    comfyui = os.environ.get("COMFYUI_PATH")
    if not comfyui:
        raise SystemExit("set COMFYUI_PATH first: source scripts/setup.sh")
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        prepare_base(base, ROOT)
        output = base / "output"
        with Server(Path(comfyui), sys.executable, base, output, cpu=True) as server:
            return asyncio.run(ask(server.address))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    options = parser.parse_args()
    stale = []
    for path, text in build(definitions()).items():
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            stale.append(path.name)
            if not options.check:
                path.write_text(text, encoding="utf-8")
    if stale and options.check:
        sys.exit(f"not up to date: {', '.join(stale)}; run scripts/make_workflows.py")


if __name__ == "__main__":
    main()
