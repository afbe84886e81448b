"""Every template in ComfyUI's own page: readable as it opens, nothing missing, nothing covered."""

import json

import pytest

from .conftest import ROOT

pytestmark = [pytest.mark.browser, pytest.mark.host]

LOADERS = ("Loader", "LoaderSimple", "LoaderModelOnly")
"""Ends of the names of nodes that miss their file until the user has it."""
NAMES = sorted(path.stem for path in (ROOT / "workflows").glob("*.json"))


@pytest.mark.parametrize("vue", [False, True], ids=["classic", "vue"])
def test_templates_open_readable_and_whole(opened, vue):
    tab = opened(vue=vue)
    for name in NAMES:
        path = ROOT / "workflows" / f"{name}.json"
        graph = json.loads(path.read_text(encoding="utf-8"))
        tab.page.evaluate(
            "([graph, name]) => app.loadGraphData(graph, true, true, name)", [graph, name]
        )
        tab.page.wait_for_timeout(1500)
        tab.shot(f"opened_{name}_{'vue' if vue else 'classic'}")
        state = tab.page.evaluate(
            """() => ({
              scale: app.canvas.ds.scale,
              types: app.graph.nodes.map((n) => n.type),
              missing: app.graph.nodes.map((n) => n.type)
                .filter((type) => !LiteGraph.registered_node_types[type]),
              wrong: app.graph.nodes.filter((n) => n.has_errors).map((n) => n.type),
              boxes: app.graph.nodes.map((n) => [n.type, n.pos[0], n.pos[1] - 30,
                n.size[0], n.size[1] + 30]),
            })"""
        )
        assert sorted(state["types"]) == sorted(node["type"] for node in graph["nodes"]), name
        assert state["missing"] == [], name
        assert [kind for kind in state["wrong"] if not kind.endswith(LOADERS)] == [], name
        assert state["scale"] >= 0.6, name
        covered = [
            (a[0], b[0])
            for i, a in enumerate(state["boxes"])
            for b in state["boxes"][:i]
            if a[1] < b[1] + b[3]
            and b[1] < a[1] + a[3]
            and a[2] < b[2] + b[4]
            and b[2] < a[2] + a[4]
        ]
        assert covered == [], name
    assert tab.faults == []
