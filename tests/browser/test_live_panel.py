"""The live panel in ComfyUI's own page: classic canvas and Vue nodes."""

import pytest

from .conftest import FEW, SHOTS

pytestmark = [pytest.mark.browser, pytest.mark.host]

LOOP, END = 4, 240_000
WAYS = pytest.mark.parametrize("vue", [False, True], ids=["classic", "vue"])


def widgets(page):
    return page.evaluate(
        "app.graph.serialize().nodes.find((n) => n.id === 4).widgets_values.length"
    )


def share(panel):
    return int(panel.locator("[role=progressbar]").get_attribute("aria-valuenow"))


@WAYS
def test_the_panel_comes_with_a_run_survives_a_reload_and_shows_the_end(opened, vue):
    first = opened(vue=vue)
    first.load()
    before = widgets(first.page)
    assert first.page.locator(".dm-panel").count() == 0, "nothing on a node that has not run"
    first.look_at(1)
    first.shot("template")
    first.run()
    first.look_at(LOOP, 300 if vue else 720)
    running = first.panel("text start")
    running.wait_for(timeout=END)
    running.locator("figure svg").wait_for(timeout=END)
    begun = share(running)
    first.shot(f"running_{'vue' if vue else 'classic'}")

    second = opened(vue=vue)  # another browser, and the first once more
    second.load()
    second.look_at(LOOP, 300 if vue else 720)
    second.panel().wait_for(timeout=10_000)
    first.reload()
    first.look_at(LOOP, 300 if vue else 720)

    first.panel("Finished").wait_for(timeout=END)
    ended = first.panel()
    assert begun < 100 and ended.locator("li").count() == 2
    assert '"ink" is still there after 1 round' in ended.inner_text()
    pictures = ended.locator("img").evaluate_all("all => all.map((i) => [i.naturalWidth, i.alt])")
    assert len(pictures) == 4 and all(width == 32 and words for width, words in pictures)
    assert second.panel("Finished").filter(has_text="last look").count() == 1
    second.page.close()
    first.shot(f"ended_{'vue' if vue else 'classic'}")

    fold = ended.locator("button")
    high = ended.bounding_box()["height"]
    fold.focus()
    first.page.keyboard.press("Enter")
    first.page.wait_for_timeout(500)
    assert fold.get_attribute("aria-expanded") == "false" and ended.locator("li").count() == 0
    assert ended.locator(".dm-inner").bounding_box()["height"] < high - 100
    first.shot(f"folded_{'vue' if vue else 'classic'}")

    assert widgets(first.page) == before, "a saved workflow knows nothing of it"
    first.page.evaluate("app.graph.remove(app.graph.getNodeById(4))")
    first.page.wait_for_timeout(500)
    assert first.panel().count() == 0
    assert first.faults == [] and second.faults == []


@WAYS
def test_what_broke_a_run_stands_on_the_node(opened, vue):
    tab = opened(vue=vue)
    tab.load(FEW | {LOOP: {**FEW[LOOP], "anchor_prompt": "an ink drawing"}})
    tab.run()
    tab.look_at(LOOP, 300 if vue else 720)
    failed = tab.panel("Failed")
    failed.wait_for(timeout=END)
    assert "anchor_prompt" in failed.locator("[role=status]").inner_text()
    tab.shot(f"failed_{'vue' if vue else 'classic'}")
    assert tab.faults == []


@WAYS
def test_the_panel_and_the_toasts_can_be_switched_off(opened, vue):
    tab = opened(vue=vue)
    tab.load(FEW | {LOOP: {**FEW[LOOP], "anchor_prompt": "an ink drawing"}})
    tab.run()
    tab.look_at(LOOP, 300 if vue else 720)
    tab.panel("Failed").wait_for(timeout=END)
    size = "app.graph.getNodeById(4).size[1]"
    high = tab.page.evaluate(size)
    switch = "on => app.extensionManager.setting.set('DarkMiner.Panel.Show', on)"
    try:
        tab.page.evaluate(switch, False)
        tab.page.wait_for_timeout(1000)
        assert tab.panel().count() == 0 and widgets(tab.page)
        if not vue:
            assert tab.page.evaluate(size) < high - 20, "the node gives the panel's room back"
        tab.reload()
        tab.load()
        tab.page.wait_for_timeout(1000)
        assert tab.panel().count() == 0, "it stays off"
    finally:
        tab.page.evaluate(switch, True)
    tab.look_at(LOOP, 300 if vue else 720)
    tab.panel("Failed").wait_for(timeout=10_000)
    assert tab.faults == []


def test_the_pictures_of_the_panel_are_the_users_choice(opened):
    tab = opened()
    tab.load()
    tab.run()
    tab.look_at(LOOP, 720)
    tab.panel("Finished").wait_for(timeout=END)
    choose = "which => app.extensionManager.setting.set('DarkMiner.Panel.Pictures', which)"
    try:
        for which, pictures in (("newest", 2), ("none", 0), ("all", 4)):
            tab.page.evaluate(choose, which)
            tab.page.wait_for_timeout(500)
            assert tab.panel().locator("img").count() == pictures, which
            assert tab.panel().locator("li").count() == 2, "scores stay"
    finally:
        tab.page.evaluate(choose, "all")
    assert tab.faults == []


def test_a_new_node_holds_the_run_folder_of_the_settings(opened):
    tab = opened()
    choose = "name => app.extensionManager.setting.set('DarkMiner.Runs.Folder', name)"
    folder = """([kind, add]) => {
      if (add) app.graph.add(LiteGraph.createNode(kind));
      const node = app.graph.nodes.filter((n) => n.type === kind).at(-1);
      return node.widgets.find((w) => w.name === "run_folder").value;
    }"""
    try:
        tab.page.evaluate(choose, "nightly")
        for kind in ("DarkMinerLoop", "EraseConcepts"):
            assert tab.page.evaluate(folder, [kind, True]) == "nightly"
        tab.load({})
        assert tab.page.evaluate(folder, ["DarkMinerLoop", False]) == "", "a workflow keeps its own"
    finally:
        tab.page.evaluate(choose, "")
    assert tab.page.evaluate(folder, ["DarkMinerLoop", True]) == ""
    assert tab.faults == []


def test_a_node_inside_a_subgraph_has_its_panel_there(opened):
    tab = opened()
    tab.load(FEW | {LOOP: {**FEW[LOOP], "anchor_prompt": "an ink drawing"}})
    inside = tab.page.evaluate(
        """() => {
          const { node } = app.graph.convertToSubgraph(new Set([app.graph.getNodeById(4)]));
          window.theSubgraph = node.subgraph;
          return node.subgraph.nodes[0].id;
        }"""
    )
    tab.run()
    tab.page.wait_for_timeout(3000)
    tab.page.evaluate("app.canvas.setGraph(window.theSubgraph)")
    tab.look_at(inside, 720)
    tab.panel("Failed").wait_for(timeout=END)
    tab.shot("subgraph")
    assert tab.faults == []


def test_the_report_beside_the_file_opens_without_any_network(comfy, chromium):
    """Of the runs above."""
    reports = sorted((comfy.output / "loras").glob("erase_ink_*.report.html"))
    assert reports, "runs of this file have saved their LoRA"
    context = chromium.new_context(viewport={"width": 1100, "height": 1400}, offline=True)
    page, asked, errors = context.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: errors.append(message.text))
    page.goto(f"file://{reports[-1]}")
    assert [url for url in asked if not url.startswith("data:")] == [f"file://{reports[-1]}"]
    assert errors == [] and page.locator("h1").inner_text() == "ink"
    broken = page.locator("img").evaluate_all("all => all.filter((i) => !i.naturalWidth).length")
    assert broken == 0 and page.locator("img").count() >= 8
    page.screenshot(path=SHOTS / "report.png", full_page=True)
    context.close()
