"""Which words speak of a concept, and where a prompt's placeholder is."""

import pytest
from dark_miner.darkminer.method.chase_pictures import ChasePictures
from dark_miner.darkminer.method.loop import new_adapters
from dark_miner.darkminer.method.text_start import text_pool, with_word, without_concept
from dark_miner.darkminer.method.words import bases, names, split_words, without
from dark_miner.darkminer.rng import generator

from . import toy

VOCABULARY = (
    "ink inks inked inking inkjet jet drink pink link think blink winking inky photo berry berries "
    "wolf wolves bake baking baked stop stopped stopping flower sunflower sun cat cats category "
    "catfish fish glass class noto"
).split()


@pytest.mark.parametrize(
    "text, words",
    [
        ("(ink:1.3)", ["ink"]), ("ink.", ["ink"]), ("ink/noto", ["ink", "noto"]),
        ("Ink, [noto]", ["ink", "noto"]), ("((ink))", ["ink"]),
        ("pen-and-ink", ["pen", "and", "ink"]),
        ("the ink's", ["the", "ink", "s"]), ("embedding:ink", ["ink"]), ("Café", ["cafe"]),
        ("", []), ("1.5", []),
    ],
)  # fmt: skip
def test_words_of_a_prompt_come_without_its_syntax(text, words):
    assert split_words(text) == words


@pytest.mark.parametrize("concept", ["ink", "(ink:1.3)", "ink.", "INK", "inks", "inked", "inking"])
def test_inflections_and_compounds_are_left_out_and_chance_letters_stay(concept):
    left = set(without(VOCABULARY, [concept]))
    assert not left & {"ink", "inks", "inked", "inking", "inkjet"}
    assert {"drink", "pink", "link", "think", "blink", "winking", "photo", "jet"} <= left


@pytest.mark.parametrize(
    "concept, gone, stays",
    [
        ("ink/noto", "ink noto inks", "photo pink"),
        ("berries", "berry berries", "baked"),
        ("wolf", "wolf wolves", "flower"),
        ("bake", "bake baked baking", "stop"),
        ("stopping", "stop stopped stopping", "bake"),
        ("a flower", "flower sunflower", "sun"),
        ("cats", "cat cats catfish", "category fish"),
        ("glass", "glass", "class"),
    ],
)
def test_inflections_are_known_in_both_directions(concept, gone, stays):
    left = set(without(VOCABULARY, [concept]))
    assert not left & set(gone.split()) and set(stays.split()) <= left


def test_a_word_is_its_own_base_and_short_stems_are_none():
    assert bases("sing") == {"sing"} and bases("red") == {"red"} and bases("as") == {"as"}
    assert bases("inked") == {"inked", "ink", "inke"}


def test_no_lone_punctuation_is_left_where_the_placeholder_was():
    assert without_concept("a drawing of *, pale") == "a drawing, pale"
    assert with_word("a drawing of *, pale", "dog") == "a drawing of *, pale of a dog"
    assert without_concept("*, pale") == "pale"
    assert without_concept("a *, pale photo") == "a, pale photo"


def test_a_token_takes_the_concepts_place_and_no_letters_within_words():
    """Concept "ink" in "a drinking pink fox": the entry's own template says where it stood."""
    template = "a * drawing of a drinking pink fox"
    prompt = template.replace("*", "ink")
    own = [toy.context(1)[0], toy.context(2)[0]]
    start = text_pool(
        "ink", ["ink", prompt], own, [None, toy.context(3)[0]], ["*", template]
    )  # fmt: skip
    entries = tuple(
        type(e)(**{**vars(e), "latents": toy.pool().latents[:1]}) for e in start.entries
    )
    model = toy.model()
    adapters = new_adapters(model, toy.LORA, seed=0)
    pictures = ChasePictures(
        model, adapters, type(start)(entries, concept="ink"), toy.pool(), toy.context(0),
        "a * photo", asked=4, eta=3.0, concept_eta=3.0, anchor_images=0, anchor_eta=0.0,
        gen=generator(0, 0, "c"),
    )  # fmt: skip
    assert pictures.prompts == ["a * photo", template]


@pytest.mark.parametrize(
    "prompt, concept, said",
    [
        ("a photo by van gogh", "Van Gogh", True), ("a photo of cats", "cat", True),
        ("(ink:1.2) drawing", "ink", True), ("ink", "ink", True), ("a gogh van photo", "van gogh",
        False), ("a pink drawing", "ink", False), ("a drawing", "ink drawing", False),
        ("a photo", "", False), ("", "ink", False), ("24", "24", True), ("a photo", "24", False),
    ],
)  # fmt: skip
def test_whether_a_prompt_says_the_concept(prompt, concept, said):
    assert names(prompt, concept) is said
