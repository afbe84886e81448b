"""The report beside a LoRA: whole by itself, escaped, and the same figures for a program."""

import json
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import torch
from dark_miner.darkminer.files.lora_file import to_state_dict
from dark_miner.darkminer.files.lora_metadata import Origin, metadata
from dark_miner.darkminer.files.lora_outcome import with_outcome
from dark_miner.darkminer.method.loop import erase
from dark_miner.darkminer.report.page import as_page
from dark_miner.darkminer.report.told import as_json, told_of

from . import toy
from .test_progress import ROUNDS, bank, start

CONCEPT = '<script>alert("x")</script> & "ink"'


class Read(HTMLParser):
    """What a browser finds in a page: elements, addresses, words."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.addresses, self.words, self.open = [], [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [v for k, v in attrs if k in ("src", "href", "srcset", "action")]
        self.open += [tag] if tag not in ("img", "meta") else []

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(scope="module")
def run():
    config = replace(ROUNDS, verify=replace(ROUNDS.verify, threshold=-1.0))
    begin = replace(start(), concept=CONCEPT)
    done = erase(
        toy.model(), toy.encode, toy.pool(), toy.context(0), config, seed=0, start=begin,
        bank=bank(), keep=[toy.context(4)],
    )  # fmt: skip
    about = metadata(
        done.adapters, done.embeddings, seed=7, settings=config, fingerprint="abc",
        family="sd15", origin=Origin(node="DarkMinerLoop", anchor="a <b>drawing</b>"),
    )  # fmt: skip
    tensors = to_state_dict(done.adapters, toy.model().names)
    lora = with_outcome(tensors, done.embeddings, empty=False, words=done.outcome.words)
    return done, about | lora.metadata, told_of(done, toy.pool())


def test_the_page_is_whole_by_itself_and_nothing_in_it_is_taken_for_markup(run):
    _, about, told = run
    page = Read(as_page(about, told, "erase.safetensors", told.concept[0]))
    assert page.open == [] and "script" not in page.tags and "b" in page.tags
    assert page.addresses and all(a.startswith("data:image/") for a in page.addresses)
    styles = [w for w in page.words if "{" in w and "color:" in w]
    assert styles and not [w for w in styles if "url(" in w or "@import" in w]
    assert CONCEPT in page.words and any("a <b>drawing</b>" in w for w in page.words)


def test_every_verification_stands_there_with_pictures_of_its_highest_scores(run):
    done, about, told = run
    page = as_page(about, told, "erase.safetensors")
    names = ["round 1", "round 2", "last look"]
    assert [look.name for look in told.looks] == names
    for look, verdict in zip(told.looks, [*done.verdicts, done.last], strict=True):
        best = sorted(verdict.scores, reverse=True)[:3]
        assert [score for score, *_ in look.pairs] == best
        assert f"score {best[0]:.2f}, threshold -1.00" in page
        assert all(source in page for _, *pair in look.pairs for source in pair)
    for name in done.losses:
        assert f"Loss of {name}:" in page
    assert done.outcome.verdict == told.verdict == "still there"


def test_a_program_reads_the_same(run):
    done, about, told = run
    read = json.loads(as_json(about, told, "erase.safetensors"))
    assert read["file"] == "erase.safetensors" and read["verdict"] == "still there"
    assert read["losses"] == done.losses
    assert [r["scores"] for r in read["run"]["rounds"]] == [
        list(r.scores) for r in done.embeddings.history
    ]
    assert read["lora"]["concept"] == CONCEPT and read["lora"]["seed"] == "7"
    assert read["lora"]["settings"]["mine"]["steps"] == ROUNDS.mine.steps


def test_a_lora_that_nobody_knows_the_run_of_has_a_report_of_its_metadata(run):
    _, about, _ = run
    page = Read(as_page(about, None, "erase.safetensors"))
    assert page.open == [] and page.addresses == []
    assert any("not known here" in w for w in page.words)
    assert Read(as_page({}, None, "bare.safetensors")).open == []
    assert "run" not in json.loads(as_json(about, None, "x"))


def test_of_many_rounds_the_first_and_the_newest_have_pictures(run):
    done, _, _ = run
    verdict = replace(done.verdicts[0], target=torch.rand(1, 200, 300, 3), scores=(0.5,))
    verdict = replace(verdict, reference=verdict.target)
    many = replace(
        done, verdicts=(verdict,) * 40, embeddings=replace(done.embeddings, round=40)
    )  # fmt: skip
    told = told_of(many, toy.pool())
    pictured = [i for i, look in enumerate(told.looks) if look.pairs]
    assert len(told.looks) == 41 and pictured == [0, 1, 2, *range(35, 41)]
    assert told.looks[0].pairs[0][1].startswith("data:image/jpeg;base64,")
    assert len(as_page({}, told, "x")) < 1_000_000
