"""Keep the lists of the help pages as the nodes' schemas have them.

    python scripts/make_help.py           write
    python scripts/make_help.py --check   only say which pages are not up to date

``js/docs/NODE.md`` is written by hand but for its sections "Inputs" and "Outputs", which come from
the tooltips: lists, since the side panel that shows them is narrow. Inputs whose tooltips begin
alike ("Mining (equation 5): ") stand under that as a heading, those that the node folds away under
one of their own. Its picture (``make_help_pictures.py``) stands below what it says first. A node
without a page gets one to fill in.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from make_workflows import ROOT, definitions, inputs_of, type_name

PAGES = ROOT / "js" / "docs"
PICTURES = PAGES / "pictures"
SECTION = re.compile(r"## (Inputs|Outputs)\n.*?(?=\n## |\Z)", re.S)
PICTURE = re.compile(r"\n!\[[^\]]*\]\(pictures/[^)]*\)\n")


RARE = "Seldom changed"
LEAD = re.compile(r"([^.:]+): (?=\S)")
"""How a tooltip begins that names the stage which its input belongs to."""


def line(names: list[str], kind: str, about: str, default: Any = None) -> str:
    """One entry: names, what it takes or gives, what it is."""
    sort = kind if default in (None, "") else f"{kind}, {json.dumps(default, ensure_ascii=False)}"
    return f"- {', '.join(f'`{name}`' for name in names)} ({sort}): {' '.join(about.split())}"


def lead(tooltip: str) -> str:
    found = LEAD.match(tooltip)
    return found[1] if found else ""


def inputs_list(info: dict[str, Any]) -> str:
    """All inputs with type, default and tooltip, those that differ in nothing else on one line."""
    if not inputs_of(info):
        return "None."
    optional = info["input"].get("optional", {})
    leads = Counter(lead(options.get("tooltip") or "") for _, options in inputs_of(info).values())
    groups: dict[str, dict[tuple[str, str, str], list[str]]] = {"": {}}
    rare: dict[tuple[str, str, str], list[str]] = {}
    for name, (kind, options) in inputs_of(info).items():
        about, stage = options.get("tooltip") or "", lead(options.get("tooltip") or "")
        sort = type_name(kind) + (", optional" if name in optional else "")
        if stage and leads[stage] > 2:
            group, about = groups.setdefault(stage, {}), about.removeprefix(f"{stage}: ")
        else:
            group = rare if options.get("advanced") else groups[""]
        group.setdefault((sort, about, json.dumps(options.get("default"))), []).append(name)
    parts = []
    for heading, group in {**groups, RARE: rare}.items():
        if group:
            parts += [f"### {heading}", ""] if heading else []
            parts += [
                line(names, sort, about, json.loads(default))
                for (sort, about, default), names in group.items()
            ]
            parts.append("")
    return "\n".join(parts).rstrip()


def outputs_list(info: dict[str, Any]) -> str:
    """All outputs with type and tooltip."""
    tooltips = info.get("output_tooltips") or [""] * len(info["output"])
    rows = zip(info["output_name"], info["output"], tooltips, strict=True)
    return "\n".join(line([n], type_name(k), tip or "") for n, k, tip in rows) or "None."


def page(text: str, info: dict[str, Any]) -> str:
    """The page with its two lists and its picture replaced."""
    text = PICTURE.sub("", text)
    file = PICTURES / f"{info['name']}.png"
    if file.is_file():
        shown = f"![The node as it lies on the canvas](pictures/{file.name})"
        text = text.replace("\n## ", f"\n{shown}\n\n## ", 1)
    lists = {"Inputs": inputs_list(info), "Outputs": outputs_list(info)}
    return SECTION.sub(lambda m: f"## {m[1]}\n\n{lists[m[1]]}\n", text).rstrip() + "\n"


def empty(info: dict[str, Any]) -> str:
    return f"# {info['display_name']}\n\n{info['description']}\n\n## Inputs\n\n## Outputs\n"


def build(nodes: dict[str, Any]) -> dict[Path, str]:
    """Path -> text of each of the pack's help pages."""
    files = {}
    for node_id, info in nodes.items():
        if info["category"].partition("/")[0] == "DarkMiner":
            path = PAGES / f"{node_id}.md"
            text = path.read_text(encoding="utf-8") if path.is_file() else empty(info)
            files[path] = page(text, info)
    return files


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
        sys.exit(f"not up to date: {', '.join(stale)}; run scripts/make_help.py")


if __name__ == "__main__":
    main()
