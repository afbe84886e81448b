"""What the pack's nodes say in ComfyUI's own page: their names in other languages, their help."""

import json

import pytest

from .conftest import ROOT, SHOTS, set_host_setting

pytestmark = [pytest.mark.browser, pytest.mark.host]

NAMES = ["DarkMinerLoop", "ImagePoolBuilder", "SaveErasureLoRA"]


def said_by(language):
    return json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("language", ["zh", "ja"])
def test_nodes_speak_the_users_language(opened, comfy, language):
    set_host_setting(comfy, "Locale", language)
    try:
        tab = opened()
        tab.load()
        wanted = said_by(language)
        shown = tab.page.evaluate(
            """(names) => names.map((name) => {
              const node = LiteGraph.createNode(name);
              return [node.title, node.widgets.map((w) => w.label ?? w.name)];
            })""",
            NAMES,
        )
        for name, (title, labels) in zip(NAMES, shown, strict=True):
            assert title == wanted[name]["display_name"] and not title.isascii(), name
            named = {of["name"] for of in wanted[name]["inputs"].values() if "name" in of}
            assert named & set(labels), name
        tab.shot(f"language_{language}")
        assert tab.faults == []
    finally:
        set_host_setting(comfy, "Locale", "en")


def test_the_panel_speaks_the_users_language(opened, comfy):
    """Where the run is, how it ended, and again when another language is chosen meanwhile."""
    set_host_setting(comfy, "Locale", "zh")
    try:
        tab = opened()
        tab.load()
        tab.run()
        tab.look_at(4, 720)
        tab.panel("已完成").wait_for(timeout=240_000)
        assert tab.panel("仍然存在").count() == 1 and tab.panel("still there").count() == 0
        tab.panel().screenshot(path=SHOTS / "panel_zh.png")
        tab.page.evaluate("app.extensionManager.setting.set('Comfy.Locale', 'ja')")
        tab.panel("完了").wait_for(timeout=30_000)
        tab.page.evaluate("app.extensionManager.setting.set('Comfy.Locale', 'en')")
        tab.panel("Finished").wait_for(timeout=30_000)
        assert tab.faults == []
    finally:
        set_host_setting(comfy, "Locale", "en")


@pytest.mark.parametrize("vue", [False, True], ids=["classic", "vue"])
def test_the_help_page_opens_beside_the_node(opened, vue):
    tab = opened(vue=vue)
    tab.load()
    tab.look_at(4, -150)
    tab.page.evaluate("app.canvas.selectNode(app.graph.getNodeById(4))")
    tab.page.locator("button:has(.icon-\\[lucide--info\\])").first.click(timeout=30_000)
    page = tab.page.locator(".node-help-content")
    page.locator("h1", has_text="Dark Miner Loop").wait_for(timeout=30_000)
    for heading in ("When to use it", "Stopping and going on"):
        assert page.locator("h2", has_text=heading).count() == 1
    pictures = page.locator("img").evaluate_all("all => all.map((i) => [i.alt, i.naturalWidth])")
    assert all(words and width for words, width in pictures)
    wide = "(e) => [...e.querySelectorAll('*')].filter((x) => x.scrollWidth > 1.05 * e.clientWidth)"
    assert page.evaluate(f"(e) => ({wide})(e).map((x) => x.outerHTML)") == [], "cut off at the side"
    tab.shot(f"help_{'vue' if vue else 'classic'}")
    # The host asks for a page in the user's language first; the pack has one for all.
    assert [fault for fault in tab.faults if not fault.endswith("/DarkMinerLoop/en.md")] == []
