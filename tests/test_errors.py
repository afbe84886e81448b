import pytest
from dark_miner.darkminer.errors import DarkMinerError, can_be_written, writable


@pytest.mark.parametrize("text", ["plain", "梵高 🎨", ""])
def test_what_can_be_written_stays(text):
    assert writable(text) == text == str(DarkMinerError(text))


def test_a_message_holds_nothing_that_no_encoding_can_write():
    assert str(DarkMinerError("folder \ud800")) == "folder \\ud800"
    assert str(DarkMinerError("\udcff.png")) == "\\udcff.png"


def raised(cause, hidden=False):
    try:
        try:
            raise cause
        except RuntimeError as error:
            if hidden:
                raise DarkMinerError("plain") from None
            raise DarkMinerError("plain") from error
    except DarkMinerError as error:
        return error


def test_what_led_to_an_error_counts_unless_it_is_hidden():
    assert can_be_written(raised(RuntimeError("plain")))
    assert not can_be_written(RuntimeError("\ud800"))
    assert not can_be_written(raised(RuntimeError("\ud800")))
    assert can_be_written(raised(RuntimeError("\ud800"), hidden=True))
    loop = RuntimeError("plain")
    loop.__cause__ = loop
    assert can_be_written(loop)
