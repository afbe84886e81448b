import pytest
from dark_miner.darkminer.errors import DarkMinerError, writable


@pytest.mark.parametrize("text", ["plain", "梵高 🎨", ""])
def test_what_can_be_written_stays(text):
    assert writable(text) == text == str(DarkMinerError(text))


def test_a_message_holds_nothing_that_no_encoding_can_write():
    assert str(DarkMinerError("folder \ud800")) == "folder \\ud800"
    assert str(DarkMinerError("\udcff.png")) == "\\udcff.png"
