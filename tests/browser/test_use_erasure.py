"""Right click on Save Erasure LoRA: a loader with the file that was saved."""

import json

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.host]

END = 240_000
ITEMS = """(id) => app.collectNodeMenuItems(app.graph.getNodeById(id))
  .filter((item) => item?.content?.startsWith("Use this erasure"))"""


def saver(tab):
    return tab.page.evaluate("app.graph.nodes.find((n) => n.type === 'SaveErasureLoRA').id")


@pytest.mark.parametrize("vue", [False, True], ids=["classic", "vue"])
def test_a_loader_with_the_file_on_the_original_model(opened, comfy, vue):
    tab = opened(vue=vue)
    tab.load()
    node = saver(tab)
    (item,) = tab.page.evaluate(ITEMS, node)
    assert item["disabled"] and "run it first" in item["content"]
    tab.run()
    tab.panel("Finished").wait_for(timeout=END)
    tab.page.wait_for_function(f"!({ITEMS})({node})[0].disabled", timeout=60_000)
    before = set(tab.page.evaluate("app.graph.nodes.map((n) => String(n.id))"))
    tab.page.evaluate(f"({ITEMS})({node})[0].callback()")
    tab.page.wait_for_function(
        "app.graph.nodes.some((n) => n.type === 'LoraLoaderModelOnly')", timeout=60_000
    )
    tab.page.wait_for_timeout(500)
    tab.look_at(node)
    tab.shot(f"use_erasure_{'vue' if vue else 'classic'}")
    graph = tab.page.evaluate("JSON.stringify(app.graph.serialize())")
    made = [n for n in json.loads(graph)["nodes"] if str(n["id"]) not in before]
    assert [n["type"] for n in made] == ["LoraLoaderModelOnly"]
    newest = max((comfy.output / "loras").glob("*.safetensors"), key=lambda p: p.stat().st_mtime)
    assert made[0]["widgets_values"][0] == newest.name
    covered = tab.page.evaluate(
        """() => {
          const made = app.graph.nodes.find((n) => n.type === "LoraLoaderModelOnly");
          const box = (n) => [n.pos[0], n.pos[1] - 30, n.size[0], n.size[1] + 30];
          const [x, y, w, h] = box(made);
          return app.graph.nodes.filter((n) => {
            const [a, b, c, d] = box(n);
            return n !== made && a < x + w && a + c > x && b < y + h && b + d > y;
          }).map((n) => n.type);
        }"""
    )
    assert covered == []
    links = {link[0]: link for link in json.loads(graph)["links"]}
    loop = next(n for n in json.loads(graph)["nodes"] if n["type"] == "DarkMinerLoop")
    at = {i["name"]: i["link"] for i in loop["inputs"]}["model"]
    assert links[made[0]["inputs"][0]["link"]][1:3] == links[at][1:3]
    assert tab.faults == []


def test_a_file_where_no_loader_looks_is_said(opened):
    tab = opened()
    tab.load()
    node = saver(tab)
    tab.set(node, "filename_prefix", "elsewhere/erase")
    tab.run()
    tab.page.wait_for_function(f"!({ITEMS})({node})[0].disabled", timeout=END)
    tab.page.evaluate(f"({ITEMS})({node})[0].callback()")
    said = tab.page.locator(".p-toast-message", has_text="Loaders do not list elsewhere/erase")
    said.wait_for(timeout=10_000)
    assert tab.page.evaluate("app.graph.nodes.every((n) => n.type !== 'LoraLoaderModelOnly')")
