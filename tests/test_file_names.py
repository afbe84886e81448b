"""Names of files that every system can hold."""

import os
import unicodedata

import pytest
from dark_miner.darkminer.errors import DarkMinerError
from dark_miner.darkminer.files.names import (
    MAX_STEM,
    checked_folder,
    checked_prefix,
    file_stem,
)


@pytest.mark.parametrize(
    "concept, stem",
    [
        ("Van Gogh's style!", "van-gogh-s-style"),
        ("?", "concept"),
        ("\ud800", "concept"),
        ("梵高", "梵高"),
        ("Винсент ван Гог", "винсент-ван-гог"),
        ("विन्सेंट", "विन्सेंट"),
        ("e\u0301mile", "\u00e9mile"),
        ("../../etc/passwd", "etc-passwd"),
        ("con", "concept-con"),
        ("LPT1", "concept-lpt1"),
        ("console", "console"),
        ("a\0b\nc", "a-b-c"),
    ],
)
def test_a_concepts_letters_of_any_script_are_its_file_name(concept, stem):
    assert file_stem(concept) == stem == file_stem(unicodedata.normalize("NFD", concept))


@pytest.mark.parametrize("letter", ["x", "梵", "é", "🎨x"])
def test_a_long_concept_is_shortened_and_told_from_others(tmp_path, letter):
    one, other = file_stem(letter * 500), file_stem(letter * 501)
    assert one != other and one[:5] == other[:5]
    assert len(one.encode()) <= MAX_STEM
    (tmp_path / checked_prefix(f"{one}_00001_.safetensors.png")).touch()


@pytest.mark.parametrize(
    "prefix", ["erase", "loras/erase", "loras/%concept%", "%date%/a.b", "梵高/x", "console/x"]
)
def test_an_ordinary_prefix_stays_as_it_is(prefix):
    assert checked_prefix(prefix) == prefix


def test_folders_may_be_written_as_on_windows():
    assert checked_prefix("loras\\erase") == "loras/erase"


@pytest.mark.parametrize(
    "prefix, reason",
    [
        ("", "a part ''"),
        ("  ", "a blank at an end"),
        ("../erase", r"a part '\.\.'"),
        ("..\\erase", r"a part '\.\.'"),
        ("/etc/erase", "a part ''"),
        ("C:/erase", "holds ':'"),
        ("loras/a|b?*", r"holds '\|'"),
        ("loras/", "a part ''"),
        ("loras//x", "a part ''"),
        (" loras/x", "a blank at an end"),
        ("loras./x", "a full stop behind"),
        ("x.safetensors", "ends in '.safetensors'"),
        ("aux/x", "Windows keeps"),
        ("loras/NUL.txt", "Windows keeps"),
        ("a\0b", r"holds '\\x00'"),
        ("a\nb", r"holds '\\n'"),
        ("\ud800", r"holds '\\ud800'"),
        ("x" * 201, "more than 200 bytes"),
        ("梵" * 67, "more than 200 bytes"),
        ("%concept%" * 3, "more than 200 bytes"),
        ("/".join(["x" * 150] * 3), "longer than 400 bytes"),
    ],
)
def test_a_prefix_that_some_system_cannot_hold_is_refused_in_one_sentence(prefix, reason):
    with pytest.raises(DarkMinerError, match=f"^filename_prefix '.*{reason}") as caught:
        checked_prefix(prefix)
    assert len(str(caught.value)) < 400


def test_what_is_taken_can_be_made_here(tmp_path):
    longest = checked_prefix("/".join(["x" * 190, "y" * 200]))
    folder, _, name = longest.rpartition("/")
    os.makedirs(tmp_path / folder)
    (tmp_path / folder / f"{name}_00001_.safetensors").touch()


@pytest.mark.parametrize("folder", ["ink", "runs/ink", "runs\\ink", "梵高/x", ".x", "a b"])
def test_a_folder_below_another_one_keeps_its_name(folder):
    assert checked_folder(folder) == folder.replace("\\", "/")


@pytest.mark.parametrize(
    "folder, reason",
    [
        ("", "a part ''"), ("..", r"a part '\.\.'"), ("a/../../b", r"a part '\.\.'"),
        ("/tmp/ink", "a part ''"), ("\\\\server\\ink", "a part ''"), ("C:\\ink", "holds ':'"),
        ("runs/nul", "Windows keeps"), ("com1.x/a", "Windows keeps"), ("ink.", "a full stop"),
        ("a\0", r"holds '\\x00'"), ("a" * 201, "more than 200"), ("a/" * 300 + "b", "longer than"),
    ],
)  # fmt: skip
def test_a_folder_that_leads_elsewhere_or_nowhere_is_one_sentence(folder, reason):
    with pytest.raises(DarkMinerError, match=f"^run folder '.*{reason}.*'runs/ink'.$") as caught:
        checked_folder(folder, "run folder")
    assert len(str(caught.value)) < 300
