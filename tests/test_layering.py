"""Who may import whom, read from the imports themselves: docs/architecture.md says why."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HOST = {"comfy", "comfy_api", "comfy_execution", "comfy_extras", "folder_paths", "nodes", "server"}
HOST |= {"execution"}
HOST_INSIDE = HOST - {"comfy_api", "comfy_execution"}  # its API for nodes is no inside

BASE = {"errors", "finite", "libraries", "rng", "settings", "__version__"}
"""Modules of ``darkminer/`` that every room stands on."""

MAY_IMPORT = {
    "model": BASE,
    "method": BASE | {"model", "standing", "types"},
    "attacks": BASE | {"model", "method", "judge", "types"},
    "judge": BASE,
    "compare": BASE | {"model", "method", "attacks", "types"},
    "card": BASE | {"markup", "model", "attacks", "judge", "types"},
    "markup": BASE,
    "report": BASE | {"markup", "method", "progress", "runs", "types"},
    "files": BASE | {"model", "standing", "types"},
    "standing": BASE | {"model"},
    "image_encoder": BASE | {"model"},
    "types": BASE,
    "config": BASE | {"model", "method"},
    "runs": BASE | {"config", "files", "method", "model", "standing", "types"},
    "progress": BASE | {"model", "method", "attacks", "config", "types"},
    "room": BASE | {"config", "model", "types"},
    "errors": set(),
    "rng": set(),
    "libraries": {"errors"},
    "settings": {"errors"},
    "finite": {"errors"},
}
"""Room or module of ``darkminer/`` -> what of ``darkminer/`` it may import besides itself."""

EXCEPT = {
    # The whole run is the one stage that takes all settings.
    "method/loop.py": {"config"},
    "method/run.py": {"config"},
}
"""File -> what it alone may import besides."""

PACK = {
    "darkminer": {"darkminer"},
    "nodes": {"darkminer", "nodes"},
    "fleet": {"darkminer", "nodes", "fleet", "hosting"},
}
"""Package -> packages of the repository it may import."""

NODES = {
    "host": {"host"},
    "erase": {"host", "shared", "erase"},
    "attack": {"host", "shared", "erase", "attack"},
    "compare": {"host", "shared", "erase", "compare"},
    "shared": {"host", "shared"},
}
"""Room of ``nodes/`` -> rooms it may import; ``shared`` are the modules beside the rooms."""


def python_files(package):
    return sorted((ROOT / package).rglob("*.py"))


def resolved(path):
    """What a file imports, as absolute dotted names with the repository's root as top."""
    package = path.relative_to(ROOT).parent.parts
    for found in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(found, ast.Import):
            yield from (tuple(alias.name.split(".")) for alias in found.names)
        elif isinstance(found, ast.ImportFrom):
            base = package[: len(package) - found.level + 1] if found.level else ()
            name = (*base, *(found.module.split(".") if found.module else ()))
            for alias in found.names:
                yield (*name, alias.name)


def own(path, package):
    """What of its own package a file imports: names below it."""
    for name in resolved(path):
        if name[0] == package and len(name) > 1:
            yield name[1:]


def room(names):
    """Room of a dotted name below ``nodes/``."""
    return names[0] if names[0] in ("host", "erase", "attack", "compare") else "shared"


def relative(path):
    return str(path.relative_to(ROOT))


DARKMINER, NODE_FILES = python_files("darkminer"), python_files("nodes")


@pytest.mark.parametrize("path", DARKMINER, ids=relative)
def test_the_method_knows_no_host_and_no_node(path):
    for name in resolved(path):
        assert name[0] not in HOST, name
        assert name[0] not in ("demo", "benchmarks", "tests"), name


@pytest.mark.parametrize("path", [p for p in DARKMINER if p.name != "__init__.py"], ids=relative)
def test_a_room_imports_what_stands_below_it(path):
    inside = path.relative_to(ROOT / "darkminer").with_suffix("")
    here = inside.parts[0]
    allowed = MAY_IMPORT[here] | {here} | EXCEPT.get(f"{inside}.py", set())
    for name in own(path, "darkminer"):
        assert name[0] in allowed, f"{inside} imports {'.'.join(name)}"


def test_what_judges_is_never_imported_by_what_it_judges():
    for here in ("method", "model", "files", "config", "standing", "types"):
        assert not MAY_IMPORT[here] & {"attacks", "judge", "card", "compare"}


@pytest.mark.parametrize("path", NODE_FILES, ids=relative)
def test_only_the_door_imports_the_hosts_inside(path):
    inside = path.relative_to(ROOT / "nodes").parts[0] == "host"
    assert inside or not [n for n in resolved(path) if n[0] in HOST_INSIDE and n[0] != "nodes"]


@pytest.mark.parametrize("path", [p for p in NODE_FILES if p.name != "__init__.py"], ids=relative)
def test_the_door_knows_no_node(path):
    here = room(path.relative_to(ROOT / "nodes").with_suffix("").parts)
    for name in own(path, "nodes"):
        assert room(name) in NODES[here], f"{here} imports {'.'.join(name)}"


@pytest.mark.parametrize("path", [*DARKMINER, *NODE_FILES], ids=relative)
def test_the_product_needs_no_benchmark_and_no_test(path):
    for name in resolved(path):
        assert name[0] not in ("benchmarks", "tests"), name


@pytest.mark.parametrize("path", python_files("fleet"), ids=relative)
def test_the_fleet_stands_on_the_pack_and_has_one_door_of_its_own(path):
    own = {"darkminer", "nodes", "fleet", "benchmarks", "demo", "scripts", "tests", "hosting"}
    for name in resolved(path):
        if name[0] in HOST - {"nodes"}:
            assert path.name == "host.py", name
        elif name[0] in own and path.name != "host.py":
            assert name[0] in PACK["fleet"], name
    for package in ("darkminer", "nodes"):
        assert not [n for p in python_files(package) for n in resolved(p) if n[0] == "fleet"]


def test_there_is_something_to_check():
    assert len(DARKMINER) > 30 and len(NODE_FILES) > 35
    assert {room(p.relative_to(ROOT / "nodes").parts) for p in NODE_FILES} == set(NODES)
    assert sum(len(list(own(p, "darkminer"))) for p in DARKMINER) > 150
