"""Who may import whom, read from the imports themselves."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HOST = {"comfy", "comfy_api", "comfy_execution", "comfy_extras", "folder_paths", "nodes", "server"}
HOST |= {"execution"}
METHOD = sorted((ROOT / "darkminer").rglob("*.py"))
NODES = sorted((ROOT / "nodes").glob("*.py"))


def imports(path):
    """Absolute module names; relative ones as dots and name."""
    for found in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(found, ast.Import):
            yield from (alias.name for alias in found.names)
        elif isinstance(found, ast.ImportFrom):
            base = "." * found.level + (found.module or "")
            yield base
            if found.level:
                yield from (f"{base}.{alias.name}" for alias in found.names)


@pytest.mark.parametrize("path", METHOD, ids=lambda p: p.name)
def test_the_method_imports_no_host_and_no_node(path):
    for name in imports(path):
        assert name.split(".")[0] not in HOST, name
        assert not name.startswith("..nodes") and not name.startswith("...nodes"), name


@pytest.mark.parametrize("path", METHOD, ids=lambda p: p.name)
def test_nothing_in_the_method_imports_the_attacks(path):
    if path.parent.name != "attacks":
        assert not any("attacks" in name.split(".") for name in imports(path))


@pytest.mark.parametrize("path", NODES, ids=lambda p: p.name)
def test_only_the_host_files_import_the_hosts_inside(path):
    inside = {n for n in imports(path) if n.split(".")[0] in ("comfy", "folder_paths")}
    assert path.name.startswith("host") or not inside


def test_there_is_something_to_check():
    assert len(METHOD) > 15 and len(NODES) > 10
