"""What the pack's nodes say in ComfyUI's own page: their names in other languages, their help."""

import json

import pytest

from .conftest import ROOT, set_host_setting

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
