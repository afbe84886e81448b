"""CASES.md says which test holds which kind of fault: the names in it are those of tests."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (TESTS / "CASES.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| **")
]
NAMED = sorted({name for row in ROWS for name in re.findall(r"`([\w/]+\.py::\w+)`", row[1])})


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0].strip("*"))
def test_a_kind_has_tests_and_a_place_or_is_said_to_be_open(row):
    kind, tests, place = row
    assert kind.startswith("**") and kind.endswith("**")
    assert "::" in tests or "open" in tests
    for path in re.findall(r"`((?:darkminer|nodes|scripts)/[\w/]+\.\w+)`", place):
        assert (TESTS.parent / path).is_file(), path


@pytest.mark.parametrize("name", NAMED)
def test_a_named_test_exists(name):
    path, _, function = name.partition("::")
    source = (TESTS / path).read_text(encoding="utf-8")
    assert re.search(rf"^def {function}\(", source, re.MULTILINE), name
