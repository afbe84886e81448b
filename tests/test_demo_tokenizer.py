"""Every word of the captions is one token; any other text can be written and read."""

import json

import pytest
from dark_miner.demo import tokenizer

CLIPTokenizer = pytest.importorskip("transformers").CLIPTokenizer


@pytest.fixture(scope="module")
def clip_tokenizer():
    return CLIPTokenizer.from_pretrained(str(tokenizer.FOLDER))


def test_shipped_files_are_what_the_script_writes(tmp_path):
    assert tokenizer.write(tmp_path) == 827
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        made, shipped = (tmp_path / name).read_bytes(), (tokenizer.FOLDER / name).read_bytes()
        assert made == shipped, name


def test_each_word_is_one_token_of_its_own(clip_tokenizer):
    rows = [clip_tokenizer(word)["input_ids"] for word in tokenizer.WORDS]
    assert all(len(row) == 3 for row in rows)  # start, word, end
    assert len({row[1] for row in rows}) == len(tokenizer.WORDS)


def test_unknown_words_fall_apart_into_letters_and_come_back(clip_tokenizer):
    text = "a zebra, jumping 42 times!"
    row = clip_tokenizer(text)["input_ids"]
    assert len(row) > 8
    words = clip_tokenizer.decode(row, skip_special_tokens=True)
    assert words.replace(" ", "") == text.replace(" ", "")


def test_capitals_do_not_matter(clip_tokenizer):
    assert clip_tokenizer("A Noto drawing") == clip_tokenizer("a noto drawing")


def test_start_and_end_are_the_last_numbers():
    numbers = json.loads((tokenizer.FOLDER / "vocab.json").read_text(encoding="utf-8"))
    assert (numbers[tokenizer.START], numbers[tokenizer.END]) == (825, 826)
    assert sorted(numbers.values()) == list(range(827))


def test_split_takes_the_earliest_merge_first():
    merges = {("b", "c</w>"): 0, ("a", "b"): 1}
    assert tokenizer.split("abc", merges) == ["a", "bc</w>"]
    assert tokenizer.split("abab", {("a", "b"): 0}) == ["ab", "a", "b</w>"]
