"""The page's texts in English, Chinese and Japanese: what the server hands out, and whole."""

import json
import re

import pytest

from .conftest import ROOT, script

pytestmark = pytest.mark.host

ASIAN = {"zh": r"[\u4e00-\u9fff]", "ja": r"[\u3040-\u30ff\u4e00-\u9fff]"}
AS_THEY_ARE = (
    r"(?i)CLIP|VAE|LoRA( \d)?|gamma|alpha|AUC|RECALL|P4D-[NK]|UnlearnDiffAtk|Ring-A-Bell|CCE"
)


@pytest.fixture(scope="module")
def served(comfy):
    """Definitions and translations as the page gets them."""

    async def question(client):
        async with client.session.get(f"http://{comfy.address}/i18n") as answer:
            return await client.object_info(), await answer.json()

    return comfy.ask(question)


def test_the_files_are_what_the_script_makes_and_the_server_hands_out(served):
    definitions, translations = served
    module = script("make_locales")
    files = module.build(definitions)
    stale = [p.name for p, text in files.items() if p.read_text(encoding="utf-8") != text]
    assert not stale, f"run scripts/make_locales.py: {stale}"
    panel = [p for p in files if p.is_relative_to(module.PANEL)]
    assert sorted(panel) == sorted(module.PANEL.iterdir()), "what the panel's own code reads"
    files = {p: text for p, text in files.items() if p not in panel}
    assert {p.parent.name for p in files} == {"en", "zh", "ja"} <= set(translations)
    for path, text in files.items():
        read, language = json.loads(text), translations[path.parent.name]
        known = language if path.name == "main.json" else language[path.stem]
        for key, value in read.items():
            assert known[key] == value
    assert not [p for p in (ROOT / "locales").rglob("*.json") if p not in files]


def test_english_is_the_schema(served):
    definitions, translations = served
    for node_id, texts in translations["en"]["nodeDefs"].items():
        info = definitions[node_id]
        assert texts["display_name"] == info["display_name"]
        given = info["input"].get("required", {}) | info["input"].get("optional", {})
        assert texts["inputs"].keys() == given.keys()
        for name, (_, options, *_) in given.items():
            assert texts["inputs"][name]["tooltip"] == options["tooltip"]


@pytest.mark.parametrize("language", ASIAN)
def test_nothing_that_is_seen_at_first_is_left_in_english(served, language):
    definitions, translations = served
    known, letters = translations[language]["nodeDefs"], ASIAN[language]
    mine = {i for i, info in definitions.items() if info["category"].startswith("DarkMiner")}
    assert known.keys() == mine and len(mine) > 20
    for node_id in mine:
        info, texts = definitions[node_id], known[node_id]
        given = info["input"].get("required", {}) | info["input"].get("optional", {})
        assert texts["inputs"].keys() == given.keys()
        assert len(texts["outputs"]) == len(info["output"])
        assert re.search(letters, texts["display_name"] + texts["description"])
        for name, (_, options, *_) in given.items():
            shown = texts["inputs"][name]
            assert re.search(letters, shown["name"]) or re.fullmatch(AS_THEY_ARE, shown["name"]), (
                f"{node_id}.{name} is {shown['name']!r}"
            )
            if node_id != "DarkMinerSettings" and not options.get("advanced"):
                assert re.search(letters, shown["tooltip"]), f"{node_id}.{name}"


@pytest.mark.parametrize("language", ASIAN)
def test_settings_speak_the_language(served, language):
    _, translations = served
    code = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "js").glob("*.js"))
    wanted = {s.replace(".", "_") for s in re.findall(r'"(DarkMiner\.\w+\.\w+)"', code)}
    known = translations[language]["settings"]
    assert len(wanted) >= 4 and known.keys() == wanted
    for name, texts in known.items():
        assert all(re.search(ASIAN[language], words) for words in
                   (texts["name"], *texts.get("options", {}).values())), name  # fmt: skip
        for shown in texts.get("options", {}):
            assert f'text: "{shown}"' in code


def test_a_text_that_a_table_lacks_or_nobody_wants_ends_the_script(served):
    definitions, _ = served
    changed = json.loads(json.dumps(definitions))
    inputs = changed["CompareErasure"]["input"]["required"]
    before = inputs["prompts"][1]["tooltip"]
    inputs["prompts"][1]["tooltip"] = "Something new."
    with pytest.raises(SystemExit, match="lacks tooltips: Something new.; nothing asks for What"):
        script("make_locales").build(changed)
    inputs["prompts"][1]["tooltip"] = before
    inputs["novel"] = ["INT", {"tooltip": "Its VAE."}]
    with pytest.raises(SystemExit, match="lacks inputs: novel"):
        script("make_locales").build(changed)
