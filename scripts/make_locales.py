"""Write the page's texts in English, Chinese and Japanese from the nodes' schemas.

    python scripts/make_locales.py           write
    python scripts/make_locales.py --check   only say which files are not what they would be

``locales/LANGUAGE/nodeDefs.json``, ``main.json`` and ``settings.json`` are in the host's format.
English is the schema itself, and of settings what stands in ``js``. The other languages are tables
in ``scripts/locales``: names of nodes, inputs and outputs, and the tooltips of the inputs that are
not folded away, by their English text, so that a tooltip that has changed is missed at once. Names
of Dark Miner Settings are put together of stage and setting. What a table lacks ends the script.
The panel's words go to ``js/panel/languages``; a test knows all that it can say.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from make_workflows import ROOT, Info, definitions, dump, inputs_of

FOLDER, TABLES = ROOT / "locales", Path(__file__).parent / "locales"
PANEL = ROOT / "js" / "panel" / "languages"
LANGUAGES = ("zh", "ja")
ENGLISH = {"DarkMiner": "Dark Miner"}
CATEGORY, SETTINGS = "DarkMiner", "DarkMinerSettings"

Table = dict[str, Any]


def ours(nodes: Info) -> dict[str, Any]:
    """The pack's own nodes."""
    return {i: info for i, info in nodes.items() if info["category"].split("/")[0] == CATEGORY}


def categories(known: dict[str, Any]) -> list[str]:
    """What the node search sorts them under, step by step."""
    return list(dict.fromkeys(s for info in known.values() for s in info["category"].split("/")))


def english(info: dict[str, Any]) -> Table:
    """A node's texts as the schema has them."""
    tips = info.get("output_tooltips") or [None] * len(info["output"])
    return {
        "display_name": info["display_name"],
        "description": info["description"],
        "inputs": {
            name: {"name": options.get("display_name") or name, "tooltip": options["tooltip"]}
            for name, (_, options) in inputs_of(info).items()
        },
        "outputs": {
            str(i): {"name": name, **({"tooltip": tip} if tip else {})}
            for i, (name, tip) in enumerate(zip(info["output_name"], tips, strict=True))
        },
    }


def front(node_id: str, options: dict[str, Any]) -> bool:
    """Whether an input is seen without asking for more."""
    return node_id != SETTINGS and not options.get("advanced")


def translated(node_id: str, info: dict[str, Any], table: Table, missed: list[str]) -> Table:
    """The same in another language; tooltips that are folded away stay English on the page."""

    def of(part: str, key: str) -> Any:
        if key not in table[part]:
            missed.append(f"{part}: {key}")
        return table[part].get(key, key)

    inputs: Table = {}
    for name, (_, options) in inputs_of(info).items():
        inputs[name] = {"name": name_of(name, table, missed)}
        if front(node_id, options):
            inputs[name]["tooltip"] = of("tooltips", options["tooltip"])
    title, about = of("nodes", node_id) if node_id in table["nodes"] else (of("nodes", node_id), "")
    return {
        "display_name": title,
        "description": about,
        "inputs": inputs,
        "outputs": {str(i): {"name": of("outputs", n)} for i, n in enumerate(info["output_name"])},
    }


def name_of(name: str, table: Table, missed: list[str]) -> str:
    """An input's name: its own, or that of its stage and its setting."""
    if name in table["inputs"]:
        return table["inputs"][name]
    stage, _, field = name.partition("_")
    if stage in table["stages"] and field in table["fields"]:
        return f"{table['stages'][stage]} · {table['fields'][field]}"
    missed.append(f"inputs: {name}")
    return name


def build(nodes: Info) -> dict[Path, str]:
    """Path -> text of every file.

    Raises:
        SystemExit: if a table lacks a text, or has one that nothing asks for; names it.
    """
    known = ours(nodes)
    files = {
        FOLDER / "en" / "nodeDefs.json": dump({i: english(info) for i, info in known.items()}),
        FOLDER / "en" / "main.json": dump(
            {"nodeCategories": {c: ENGLISH.get(c, c) for c in categories(known)}}
        ),
    }
    for language in LANGUAGES:
        table = json.loads((TABLES / f"{language}.json").read_text(encoding="utf-8"))
        missed = [f"categories: {c}" for c in categories(known) if c not in table["categories"]]
        made = {i: translated(i, info, table, missed) for i, info in known.items()}
        unused = set(table["tooltips"]) - {
            options["tooltip"] for i, info in known.items()
            for _, options in inputs_of(info).values() if front(i, options)
        } | set(table["nodes"]) - set(known)  # fmt: skip
        if missed or unused:
            lacks = "; ".join(dict.fromkeys(missed)) or "nothing"
            raise SystemExit(
                f"scripts/locales/{language}.json lacks {lacks}; nothing asks for "
                f"{'; '.join(sorted(unused)) or 'nothing'}."
            )
        files[FOLDER / language / "nodeDefs.json"] = dump(made)
        files[FOLDER / language / "settings.json"] = dump(
            {setting.replace(".", "_"): texts for setting, texts in table["settings"].items()}
        )
        files[PANEL / f"{language}.json"] = dump(table["panel"])
        named = {"nodeCategories": {c: table["categories"][c] for c in categories(known)}}
        files[FOLDER / language / "main.json"] = dump(named)
    return files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    options = parser.parse_args()
    stale = []
    for path, text in build(definitions()).items():
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            stale.append(str(path.relative_to(ROOT)))
            if not options.check:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
    if stale and options.check:
        sys.exit(f"not up to date: {', '.join(stale)}; run scripts/make_locales.py")


if __name__ == "__main__":
    main()
