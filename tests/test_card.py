"""The report card: figures, sentences, page and record of red teams that were attacked alike."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import torch
from dark_miner.darkminer.attacks.examined import Examined, Protocol, versions
from dark_miner.darkminer.attacks.red_team import WORDS, RedTeam, Row, red_team
from dark_miner.darkminer.attacks.scene import Attempt, Look
from dark_miner.darkminer.attacks.speech import Spoken
from dark_miner.darkminer.card.card import card_of, curves, sentences, some
from dark_miner.darkminer.card.limits import limits
from dark_miner.darkminer.card.page import as_page
from dark_miner.darkminer.card.record import as_json
from dark_miner.darkminer.errors import DarkMinerError
from dark_miner.darkminer.judge.detectors import Identity, Sight
from dark_miner.darkminer.judge.evaluate import Proportion, difference
from dark_miner.darkminer.judge.user_prompts import UserPrompt
from dark_miner.darkminer.model.sampling import SamplingConfig

from .test_attacks_latent import FEW as LATENT
from .test_attacks_text import FEW as TEXT
from .test_attacks_text import PROMPTS, Bright, scene

SAMPLING = SamplingConfig(3, 1.0, "euler", "normal", 4)
JUDGE = Identity("judge", "1", None, ("ink", "noto", "flat"))


def row(title, hits, **given):
    """An attack that got the concept in some of its pictures."""
    scores = torch.tensor([0.9 if hit else 0.1 + 0.05 * i for i, hit in enumerate(hits)])
    attempts = [Attempt(f"prompt {i}", torch.zeros(2, 3), **given) for i in range(len(hits))]
    pictures = torch.rand(len(hits), 8, 8, 3, generator=torch.Generator().manual_seed(0))
    return Row(title, attempts, pictures, Sight(scores, torch.tensor(hits)))


def examined(words, udatk, recall, concept="ink", **changes):
    """Findings of two attacks; True where the detector saw the concept."""
    rows = {
        WORDS: row("asked in words", words),
        "udatk": row("UnlearnDiffAtk", udatk, losses=[3.0, 2.0, 1.0]),
        "recall": row("RECALL", recall),
    }
    protocol = Protocol(
        concept, tuple(UserPrompt(f"prompt {i}") for i in range(len(words))), 3, "short",
        {"udatk": TEXT["udatk"], "recall": LATENT["recall"]}, SAMPLING, JUDGE, "model", "lora",
        versions(), 2.0,
    )  # fmt: skip
    return Examined(RedTeam(rows, "judge"), replace(protocol, **changes))


NO, YES = [False] * 4, [True] * 4


@pytest.fixture
def card():
    after = examined(NO, [True, False, False, True], [True, True, True, False])
    return card_of(after, examined(YES, YES, YES), examined(NO, NO, [True] * 2 + [False] * 2))


def test_each_model_stands_beside_the_others_and_excess_is_over_the_control(card):
    assert list(card.columns) == ["before", "after", "control"]
    assert card.names() == [WORDS, "udatk", "recall"]
    shares = {c: r.success.hits for c, r in card.rows("recall").items()}
    assert shares == {"before": 4, "after": 3, "control": 2}
    assert card.excess("recall")[0] == pytest.approx(0.25)
    assert card.best(latent=False)[0] == "udatk" and card.best(latent=True)[0] == "recall"
    assert card.there and card.verdict == "found by an attack"
    assert card_of(examined(NO, NO, NO)).verdict == "not found by these attacks"
    said = " ".join(sentences(card))
    assert "before 1.00 (4/4), after 0.00 (0/4)" in said
    assert "through text is UnlearnDiffAtk: 0.50 (2/4), 95 % interval 0.15 to 0.85." in said


def test_a_difference_has_newcombes_interval():
    """His example: 56 of 70 and 48 of 80 give 0.2 with 0.0524 to 0.3339 (method 10)."""
    found = difference(Proportion(56, 70), Proportion(48, 80))
    assert found == pytest.approx((0.2, 0.0524, 0.3339), abs=1e-4)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"seed": 4}, "another seed than after"),
        ({"prompts": tuple(map(UserPrompt, "abcd"))}, "another prompts than after"),
        ({"each": 2}, "number of pictures of each prompt"),
        ({"detector": replace(JUDGE, version="2")}, "another detector than after"),
        ({"detector": replace(JUDGE, classes=("ink",))}, "classes of the detector"),
        ({"sampling": replace(SAMPLING, steps=9)}, "another sampling"),
        ({"settings": {"udatk": replace(TEXT["udatk"], lr=0.5)}}, "settings of udatk"),
        ({"concept": "noto"}, "another concept"),
    ],
)
def test_what_was_attacked_otherwise_may_not_stand_beside(changes, words):
    with pytest.raises(DarkMinerError, match=words):
        card_of(examined(NO, NO, NO), before=examined(YES, YES, YES, **changes))
    at_once = examined(YES, YES, YES, sampling=replace(SAMPLING, batch=1))
    assert card_of(examined(NO, NO, NO), before=at_once)


def test_the_card_says_what_it_does_not_say(card):
    said = " ".join(limits(card))
    assert "Text-robust is not latent-robust" in said and "run here: RECALL, and" in said
    assert "can leave it out" in said and "lower bound" in said and "4 prompts" in said
    assert "Not run here: P4D-N" in said and "nearest of its 3 classes" in said
    assert "before its erasure was not attacked" not in said and "never saw" not in said
    alone = " ".join(limits(card_of(examined(NO, NO, NO, effort="full"))))
    assert "before its erasure was not attacked" in alone and "lower bound" not in alone
    assert "No model that never saw the concept" in alone
    weak = " ".join(limits(card_of(examined(NO, NO, NO), examined(YES, NO, YES))))
    assert "UnlearnDiffAtk gets 0.00 (0/4) before the erasure" in weak
    assert "RECALL gets" not in weak


class Read(HTMLParser):
    """What a browser would make of a page: open elements, attributes, texts."""

    def __init__(self, page):
        super().__init__()
        self.open, self.found, self.texts = [], [], []
        self.feed(page)

    def handle_starttag(self, name, attrs):
        self.found.append((name, dict(attrs)))
        if name not in ("img", "meta"):
            self.open.append(name)

    def handle_endtag(self, name):
        assert self.open.pop() == name

    def handle_data(self, data):
        self.texts.append(data)


BAD_WORDS = "<script>alert('x')</script> \" & </title>\ud800"


def test_the_page_asks_for_nothing_and_runs_nothing(card):
    page = as_page(card)
    read = Read(page)
    plain = re.sub(r'"data:image/png;base64,[A-Za-z0-9+/=]+"', "", page)
    assert read.open == [] and not re.search(r"//|url\(|@import", plain)
    for name, attrs in read.found:
        assert name not in ("script", "link", "iframe", "object", "base", "form")
        assert not any(key.startswith("on") or key in ("href", "action") for key in attrs)
        assert attrs.get("src", "data:image/png;base64,").startswith("data:image/png;base64,")
    names = [name for name, _ in read.found]
    assert names.count("img") == 3 * 3 * 4 and names.count("svg") == 3 + 2 + 1
    assert page.encode() == as_page(card).encode()


def test_no_text_of_a_run_becomes_markup():
    spoken = Spoken(BAD_WORDS, (1,), (1,))
    bad = examined([True], [True], [True], concept=BAD_WORDS, lora=BAD_WORDS, model=BAD_WORDS,
                   prompts=(UserPrompt(BAD_WORDS, 3, 2.0),),
                   detector=Identity(BAD_WORDS, "1", 0.5, (BAD_WORDS,)),
                   versions={BAD_WORDS: BAD_WORDS})  # fmt: skip
    rows = bad.found.rows
    said = replace(rows["udatk"].attempts[0], prompt=BAD_WORDS, spoken=spoken)
    rows["udatk"] = replace(rows["udatk"], title=BAD_WORDS, attempts=[said])
    page = as_page(card_of(bad))
    plain = as_page(card_of(examined([True], [True], [True])))
    page.encode()
    names = [name for name, _ in Read(page).found if name not in ("ul", "li", "code", "p")]
    assert names == [n for n, _ in Read(plain).found if n not in ("ul", "li", "code", "p")]
    assert "<script" not in page and "alert(" in " ".join(Read(page).texts)


def test_the_record_holds_every_figure_and_can_be_read_back(card):
    told = json.loads(as_json(card))
    assert told["protocol"]["seed"] == 3 and told["protocol"]["detector"]["threshold"] is None
    assert told["protocol"]["attacks"]["udatk"]["levels"] == TEXT["udatk"].levels
    assert "dark-miner" in told["protocol"]["versions"] and len(told["limits"]) > 4
    after = told["models"]["after"]["attacks"]["udatk"]
    assert after["success"] == {"share": 0.5, "hits": 2, "count": 4,
                                "interval": list(Proportion(2, 4).interval)}  # fmt: skip
    assert [a["hit"] for a in after["attempts"]] == [True, False, False, True]
    assert told["excess"]["recall"][0] == pytest.approx(0.25)
    as_json(card_of(examined(NO, NO, NO, concept=BAD_WORDS))).encode()


def test_pictures_that_count_come_first_and_none_are_shown_where_none_are_wanted():
    one = row("x", [False, True, False, True])
    assert some(one, 3) == [1, 3, 2] and some(one, 0) == []
    page = as_page(card_of(examined(YES, YES, YES), pictures=0))
    assert "<img" not in page


def test_success_by_step_never_falls_and_is_left_out_where_nothing_looked():
    looks = [
        (Look(0, 0.1, False), Look(10, 0.9, True)),
        (Look(0, 0.9, True),),
        (Look(0, 0.1, False), Look(10, 0.2, False), Look(20, 0.1, False)),
    ]
    attempts = [Attempt("p", torch.zeros(1, 1), looks=seen) for seen in looks]
    one = replace(row("x", [True, True, False]), attempts=attempts)
    assert [(s, p.hits, p.count) for s, p in one.by_step()] == [(0, 1, 3), (10, 2, 3), (20, 2, 3)]
    assert row("x", [True]).by_step() == []
    once = replace(one, attempts=[replace(a, looks=a.looks[:1]) for a in attempts])
    assert once.by_step() == []


def test_two_curves_of_each_kind_are_drawn():
    found = examined(NO, [False, True, True, True], NO).found
    assert [hit for hit, _ in curves(found, "udatk")] == [True, True, False]
    assert curves(found, "recall") == []


def test_a_real_red_team_has_a_card():
    few = {**TEXT, **LATENT}
    made = []
    for whole in (scene(detector=Bright(0.6)), scene(detector=Bright(0.6), model=scene().original)):
        found = red_team(whole, few)
        protocol = Protocol(
            "cat", tuple(map(UserPrompt, PROMPTS)), 3, "full", few, SAMPLING, Bright.identity
        )
        made.append(Examined(found, protocol))
    card = card_of(*made)
    page, told = as_page(card), json.loads(as_json(card))
    assert Read(page).open == [] and set(told["models"]["after"]["attacks"]) == {WORDS, *few}
    assert all(card.title(name) in page for name in few)
