"""Keep the tables of the help pages as the nodes' schemas have them.

    python scripts/make_help.py           write
    python scripts/make_help.py --check   only say which pages are not up to date

``js/docs/NODE.md`` is written by hand but for its sections "Inputs" and "Outputs", which come from
the tooltips. A node without a page gets one to fill in.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any

from make_workflows import ROOT, definitions, inputs_of, type_name

PAGES = ROOT / "js" / "docs"
SECTION = re.compile(r"## (Inputs|Outputs)\n.*?(?=\n## |\Z)", re.S)


def cell(text: Any) -> str:
    return str(text or "").replace("|", "\\|").replace("\n", " ")


def default_text(options: dict[str, Any]) -> str:
    value = options.get("default")
    if value is None or value == "":
        return ""
    return f"`{value}`"


def inputs_table(info: dict[str, Any]) -> str:
    """All inputs with type, default and tooltip; what may be left out is marked."""
    if not inputs_of(info):
        return "None."
    rows = ["| input | type | default | what it is |", "|---|---|---|---|"]
    optional = info["input"].get("optional", {})
    for name, (kind, options) in inputs_of(info).items():
        sort = type_name(kind) + (", optional" if name in optional else "")
        rows.append(
            f"| `{name}` | {sort} | {default_text(options)} | {cell(options.get('tooltip'))} |"
        )
    return "\n".join(rows)


def outputs_table(info: dict[str, Any]) -> str:
    rows = ["| output | type | what it is |", "|---|---|---|"]
    tooltips = info.get("output_tooltips") or [""] * len(info["output"])
    for name, kind, tooltip in zip(info["output_name"], info["output"], tooltips, strict=True):
        rows.append(f"| `{name}` | {type_name(kind)} | {cell(tooltip)} |")
    return "\n".join(rows) if info["output"] else "None."


def page(text: str, info: dict[str, Any]) -> str:
    """The page with its two tables replaced."""
    tables = {"Inputs": inputs_table(info), "Outputs": outputs_table(info)}
    return SECTION.sub(lambda m: f"## {m[1]}\n\n{tables[m[1]]}\n", text).rstrip() + "\n"


def empty(info: dict[str, Any]) -> str:
    return f"# {info['display_name']}\n\n{info['description']}\n\n## Inputs\n\n## Outputs\n"


def build(nodes: dict[str, Any]) -> dict[Path, str]:
    """Path -> text of each of the pack's help pages."""
    files = {}
    for node_id, info in nodes.items():
        if info["category"] == "DarkMiner":
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
