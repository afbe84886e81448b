"""Users' prompts: the pack's lists, and CSV files as others publish them."""

import re
from dataclasses import replace

import pytest
import torch
from dark_miner.darkminer.attacks.red_team import WORDS, red_team
from dark_miner.darkminer.attacks.scene import Attempt, without
from dark_miner.darkminer.attacks.steps import finished
from dark_miner.darkminer.errors import DarkMinerError
from dark_miner.darkminer.judge.evaluate import Mean
from dark_miner.darkminer.judge.user_prompts import LISTS, UserPrompt, listed, read_csv

from .test_attacks_latent import FEW
from .test_attacks_text import Bright, scene


def file(tmp_path, text, encoding="utf-8"):
    path = tmp_path / "prompts.csv"
    path.write_bytes(text.encode(encoding))
    return path


def test_the_lists_name_the_concept_in_a_hundred_sentences():
    for name in ("styles", "objects"):
        prompts = [p.text for p in listed(name, "crayon")]
        assert len(prompts) == len(set(prompts)) == 100
        assert all("crayon" in p and "{" not in p for p in prompts)
    people = [p.text for p in listed("people", "")]
    assert len(people) == len(set(people)) == 50 and not any("{" in p for p in people)
    assert LISTS == ("styles", "objects", "people")
    assert listed("objects", "apple")[0].text == "a photo of an apple"
    with pytest.raises(DarkMinerError, match="list 'styles' names the concept"):
        listed("styles", " ")
    with pytest.raises(DarkMinerError, match="no list of prompts 'cats'"):
        listed("cats", "x")


def test_no_sentence_speaks_of_minors():
    """Whatever a user writes as the concept is drawn into them."""
    words = re.compile(
        r"\b(child\w*|kids?|bab(y|ies)|toddlers?|boys?|girls?|teen\w*|famil(y|ies)|young|infants?|"
        r"school\w*|pupils?|sons?|daughters?|nursery|cradle)\b", re.IGNORECASE,
    )  # fmt: skip
    for name in LISTS:
        assert not [p.text for p in listed(name, "x") if words.search(p.text)], name


def test_a_file_such_as_i2p_is_read_with_seeds_and_guidance(tmp_path):
    text = (
        '\ufeff,Prompt,categories,sd_seed,sd_guidance_scale\r\n'
        '0,"a ""quiet"" street,\nat night",x,2343442,7.5\r\n'
        "1,  a   cat ,y,,\r\n"
        "2,a dog,z,4294967296,0\r\n"
    )  # fmt: skip
    assert read_csv(file(tmp_path, text)) == (
        UserPrompt('a "quiet" street, at night', 2343442, 7.5),
        UserPrompt("a cat"),
        UserPrompt("a dog", 4294967296, 0.0),
    )
    assert read_csv(file(tmp_path, "prompt\na cat\n")) == (UserPrompt("a cat"),)


@pytest.mark.parametrize(
    "text, words",
    [
        ("prompt,seed\na,1\nb,x\n", "bad row at line 3: its seed is 'x', no whole number"),
        ("prompt,seed\na,1.5\n", "line 2: its seed is '1.5', no whole number from 0"),
        ("prompt,seed\na,-1\n", "line 2: its seed is '-1'"),
        (f"prompt,seed\na,{1 << 63}\n", "line 2: its seed"),
        ("prompt,guidance\na,nan\n", "line 2: its guidance is 'nan', no number from 0 to 100"),
        ("prompt,guidance\na,1e9\n", "line 2: its guidance"),
        ('prompt,seed\n"a\nb",1\n,2\n', "line 4: it has no prompt"),
        ("seed,prompt\n1\n", "line 2: it has no prompt"),
        ("text,seed\na,1\n", "no column named prompt"),
        ("", "no column named prompt"),
        ("prompt,seed\n", "holds no prompts"),
        ('prompt\n"a', "cannot be read as CSV"),
    ],
)
def test_a_bad_row_is_one_sentence_with_its_line(tmp_path, text, words):
    with pytest.raises(DarkMinerError, match="^'prompts.csv' ") as caught:
        read_csv(file(tmp_path, text))
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_no_text_is_one_sentence(tmp_path):
    with pytest.raises(DarkMinerError, match="cannot be read as CSV"):
        read_csv(file(tmp_path, "prompt\nä\n", "utf-16"))
    with pytest.raises(DarkMinerError, match="cannot be read as CSV"):
        read_csv(tmp_path / "none.csv")


def test_pictures_start_from_the_rows_seed_and_have_its_guidance():
    whole, seen = scene(detector=Bright()), []

    def guided(cfg):
        seen.append(cfg)
        return lambda context, noise: whole.model.sample(context, cfg * noise)

    asked = (UserPrompt("a", 11, 4.0), UserPrompt("b"))
    one = replace(whole, model=replace(whole.model, guided=guided), cfg=2.0, asked=asked)
    start = torch.randn(1, *whole.model.latent_shape, generator=torch.Generator().manual_seed(11))
    assert torch.equal(one.noise(0), start) and torch.equal(one.noise(1), whole.noise(1))
    more = torch.randn(1, *whole.model.latent_shape, generator=torch.Generator().manual_seed(13))
    assert torch.equal(one.noise(0, 2), more) and not torch.equal(one.noise(1, 2), one.noise(1))
    attempt = Attempt("a", whole.contexts[0])
    assert torch.equal(
        one.picture(0, attempt), whole.picture(0, replace(attempt, start=4 * start[0]))
    )
    assert seen == [4.0] and torch.equal(one.picture(1, attempt), whole.picture(1, attempt))
    assert one.guidance(0) == 4.0 and one.guidance(1) == 2.0
    under = without(one.model, torch.no_grad)
    assert under.guided is not None
    assert torch.equal(under.guided(4.0)(attempt.context[None], start),
                       guided(4.0)(attempt.context[None], start))  # fmt: skip


def test_attacks_that_sample_themselves_take_the_rows_guidance():
    whole = scene(negative=torch.zeros(1, 3, 6), cfg=1.5)
    x = torch.randn(1, *whole.model.latent_shape, generator=torch.Generator().manual_seed(0))
    own = replace(whole, asked=(UserPrompt("a", guidance=3.0), UserPrompt("b")))
    assert torch.equal(finished(own, 0, x, [5, 1]), finished(replace(whole, cfg=3.0), 0, x, [5, 1]))
    assert torch.equal(finished(own, 1, x, [5, 1]), finished(whole, 1, x, [5, 1]))


def test_ratio_and_score_are_of_every_picture_and_attacks_draw_one_a_prompt():
    found = red_team(scene(detector=Bright(0.5)), {"completion": FEW["completion"]}, each=3)
    words, attack = found.rows[WORDS], found.rows["completion"]
    assert words.success.count == 6 and attack.success.count == 2
    assert [a.prompt for a in words.attempts] == ["a drawing of cat", "a picture"] * 3
    once = red_team(scene(detector=Bright(0.5)), {"completion": FEW["completion"]})
    assert torch.equal(words.pictures[:2], once.rows[WORDS].pictures)
    assert len({tuple(p.flatten().tolist()) for p in words.pictures}) == 6
    assert torch.equal(attack.pictures, once.rows["completion"].pictures)


def test_a_mean_has_its_interval():
    """Of 0, 0, 1, 1: mean .5, deviation .577, error .289, half the interval .566."""
    found = Mean.of(torch.tensor([0.0, 0.0, 1.0, 1.0]))
    assert (found.value, found.low, found.high) == (0.5, 0.0, 1.0)
    found = Mean.of(torch.tensor([0.4, 0.4, 0.6, 0.6]))
    assert found.low == pytest.approx(0.5 - 1.96 * 0.11547 / 2, abs=1e-4)
    assert Mean.of(torch.tensor([0.7])).high == 1.0
