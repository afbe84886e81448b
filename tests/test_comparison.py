"""What benchmarks.comparison keeps becomes a table and a picture, a row a method."""

import json

import pytest
from dark_miner.benchmarks import comparison_table as table
from PIL import Image


def record(title, **figures):
    return {
        "title": title, "settings": {"eta": 1.0}, "attack_steps": 400, "seconds": 61.4,
        "concept_ratio": 0.5, "concept_ratio_strict": 0.25, "cce": 1.0, "cce_strict": 0.125,
        "kept": {"noto": 1.0, "blob": 0.5}, "objects": 0.75, "objects_held_out": 0.7, **figures,
    }  # fmt: skip


@pytest.fixture
def kept(tmp_path, monkeypatch):
    monkeypatch.setattr(table, "TABLE", tmp_path / "COMPARISON.md")
    monkeypatch.setattr(table, "PICTURE", tmp_path / "comparison.png")
    for i, name in enumerate(("uce", "esd")):
        (tmp_path / f"{name}.json").write_text(json.dumps(record(name.upper())), encoding="utf-8")
        Image.new("RGB", (12, 4), (i * 200, 0, 0)).save(tmp_path / f"{name}.png")
    return tmp_path


def test_rows_come_in_the_order_of_the_methods_and_what_is_missing_is_left_out(kept):
    text = table.written(kept, ["esd", "missing", "uce"], "style ink", 3)
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    figures = "0.500 | 0.250 | 1.000 | 0.125 | 0.750 | 0.500 | 0.750 | 0.700 | 1:01 |"
    assert rows[1:] == [f"| ESD | {figures}", f"| UCE | {figures}"]
    assert len(rows[0].split("|")) == len(rows[1].split("|"))
    assert "style ink (seed 3)" in text and "- ESD: eta 1.0" in text and "400 steps" in text
    assert (kept / "COMPARISON.md").read_text(encoding="utf-8") == text
    sheet = Image.open(kept / "comparison.png")
    assert sheet.size == (24, 24) and sheet.getpixel((0, 0))[0] > sheet.getpixel((0, 13))[0]


def test_nothing_kept_is_said(tmp_path):
    with pytest.raises(SystemExit, match="run without --write first"):
        table.written(tmp_path, ["esd"], "style ink", 0)
