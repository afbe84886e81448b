"""What a browser makes of a saved workflow, and prompts with other values in the same wiring."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

Prompt = dict[str, dict[str, Any]]
NOTES = ("Note", "MarkdownNote")
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")


def widget_names(definition: dict) -> Iterator[str | None]:
    """The node's widgets in the browser's order, seeds followed by their control (None)."""
    for kind in ("required", "optional"):
        for name, spec in definition["input"].get(kind, {}).items():
            options = spec[1] if len(spec) > 1 else {}
            scalar = isinstance(spec[0], list) or spec[0] in WIDGETS
            if not scalar or options.get("forceInput"):
                continue
            yield name
            named_seed = name in ("seed", "noise_seed")
            if spec[0] == "INT" and options.get("control_after_generate", named_seed):
                yield None


def untouched(definition: dict, name: str) -> Any:
    """What the browser shows in a widget that a saved file says nothing of."""
    known = definition["input"]
    kind, *more = (known.get("required", {}) | known.get("optional", {}))[name]
    options = more[0] if more else {}
    choices = kind if isinstance(kind, list) else options.get("options") or [""]
    return options.get("default", choices[0])


def to_api(graph: dict, definitions: dict, *, older: bool = False) -> Prompt:
    """What the browser queues for a UI-format graph.

    Templates have notes besides nodes of the server, and nothing else that the browser resolves by
    itself: no subgraphs, reroutes or primitives (unknown to ``definitions``), and no node is muted
    or bypassed.

    Args:
        older: whether nodes may have widgets by now that the file says nothing of; the browser
            counts values from the first widget on, whatever their names.
    """
    assert not graph.get("definitions"), "subgraphs"
    links = {row[0]: [str(row[1]), row[2]] for row in graph["links"]}
    prompt = {}
    for node in graph["nodes"]:
        if node["type"] in NOTES:
            continue
        assert node["mode"] == 0, f"{node['type']} is muted or bypassed"
        names = list(widget_names(definitions[node["type"]]))
        values = node["widgets_values"]
        assert len(names) == len(values) or older and len(names) > len(values), node["type"]
        values = values + [
            n and untouched(definitions[node["type"]], n) for n in names[len(values) :]
        ]
        inputs = {n: v for n, v in zip(names, values, strict=True) if n is not None}
        linked = {i["name"]: links[i["link"]] for i in node["inputs"] if i["link"] is not None}
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs | linked}
    return prompt


def with_values(prompt: Prompt, values: Mapping[str, Any], left_out: str = "") -> Prompt:
    """The same workflow with other values, by the names of inputs; links stay.

    Args:
        left_out: how the names of those nodes begin whose values stay as well.
    """
    prompt = copy.deepcopy(prompt)
    for node in prompt.values():
        if left_out and node["class_type"].startswith(left_out):
            continue
        for field, value in values.items():
            if field in node["inputs"] and not isinstance(node["inputs"][field], list):
                node["inputs"][field] = value
    return prompt
