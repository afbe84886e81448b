"""The strength curve and the drift of unrelated prompts, on the world to check by hand."""

import json
import re
from dataclasses import replace

import pytest
import torch
from dark_miner.darkminer.attacks.effects import DRAWS, STRENGTHS, Drift, Effects, Point, effects
from dark_miner.darkminer.attacks.red_team import red_team
from dark_miner.darkminer.attacks.scene import Attempt
from dark_miner.darkminer.card.card import card_of, sentences
from dark_miner.darkminer.card.limits import limits
from dark_miner.darkminer.card.page import as_page
from dark_miner.darkminer.card.record import as_json
from dark_miner.darkminer.errors import DarkMinerError
from dark_miner.darkminer.judge.evaluate import Mean, Proportion
from dark_miner.darkminer.method.loop import new_adapters
from dark_miner.darkminer.progress.attack_plans import red_team_plan
from dark_miner.darkminer.progress.course import Course

from . import toy
from .test_attacks_latent import FEW
from .test_attacks_text import PROMPTS, Bright, scene
from .test_card import NO, SAMPLING, YES, Read, examined
from .test_guard import moved

UNRELATED = [(f"prompt {i}", toy.context(i)[0]) for i in range(3)]


def erased(by=0.4, **changes):
    """A scene whose model carries an erasure that moves every value by the same amount."""
    model = toy.model(1)
    adapters = new_adapters(model, toy.LORA, seed=0)
    moved(adapters, by)
    return scene(model=model, adapters=adapters, detector=Bright(0.5), **changes)


def test_a_strength_multiplies_what_the_adapters_add_and_is_undone():
    whole = erased()
    x, t, c = torch.ones(1, 2, 2, 2), torch.ones(1), toy.context(0)
    full = whole.model.denoise(x, t, c)
    state = whole.adapters.state()
    with whole.adapters.at(0.0):
        none = whole.model.denoise(x, t, c)
    with whole.adapters.off():
        assert torch.equal(whole.model.denoise(x, t, c), none)
    with whole.adapters.at(0.5):
        half = whole.model.denoise(x, t, c)
    moved(whole.adapters, 0.2)
    assert torch.allclose(half, whole.model.denoise(x, t, c), atol=1e-6)
    whole.adapters.load(state)
    with pytest.raises(KeyError), whole.adapters.at(0.3):
        raise KeyError
    assert torch.equal(whole.model.denoise(x, t, c), full) and not torch.equal(full, none)


def test_each_point_is_the_prompts_at_that_strength():
    whole, seen = erased(), []
    found = effects(replace(whole, report=seen.append), UNRELATED)
    assert [p.strength for p in found.strengths] == list(STRENGTHS) == [0.25, 0.5, 0.75, 1.0]
    for point in found.strengths:
        with whole.adapters.at(point.strength):
            pictures = [whole.picture(i, Attempt(p, whole.contexts[i]))
                        for i, p in enumerate(PROMPTS)]  # fmt: skip
        sight = whole.detector(torch.cat(pictures))
        assert point.ratio == Proportion(int(sight.hits.sum()), len(PROMPTS))
        assert point.score == Mean.of(sight.scores)
    assert len({p.score.value for p in found.strengths}) == 4
    words = red_team(whole, {"completion": FEW["completion"]}).rows["words"]
    assert torch.equal(words.sight.scores.mean(), torch.tensor(found.strengths[-1].score.value))


def test_drift_grows_with_the_erasure_and_is_none_without():
    values = [effects(erased(by), UNRELATED).drift.value for by in (0.0, 0.2, 0.4)]
    assert values[0] == 0.0 < values[1] < values[2]
    drift = effects(erased(), UNRELATED).drift
    assert drift.prompts == ("prompt 0", "prompt 1", "prompt 2") and drift.value == values[2]


def test_what_is_reported_was_planned():
    seen = []
    whole = erased(report=seen.append)
    plan = red_team_plan({"completion": FEW["completion"]}, len(PROMPTS), SAMPLING, 1, 3)
    red_team(whole, {"completion": FEW["completion"]})
    effects(whole, UNRELATED)
    assert {(r.stage, r.part) for r in seen} == {(p.stage, p.part) for p in plan.parts}
    course, shares = Course(plan), []
    for report in seen:
        course.take(report)
        shares.append(course.share)
    assert shares == sorted(shares) and shares[-1] == pytest.approx(1.0)
    assert max(r.steps for r in seen if r.part == "drift") == 3 * DRAWS


def test_a_scene_without_an_erasure_is_refused():
    with pytest.raises(DarkMinerError, match="the erasure as a LoRA: connect it to lora"):
        effects(scene(detector=Bright()), UNRELATED)


def made():
    """Effects that a card shows."""
    points = tuple(
        Point(s, Mean(0.9 - s / 2, 0.1, 0.95), Proportion(h, 4))
        for s, h in zip(STRENGTHS, (4, 3, 1, 0), strict=True)
    )
    return Effects(points, Drift(0.0321, ("a <b>cat</b>", "a drawing")))


def test_the_card_shows_strength_and_drift_and_says_where_they_are_missing():
    plain = card_of(examined(NO, NO, NO))
    card = card_of(replace(examined(NO, NO, NO), effects=made()), examined(YES, YES, YES))
    said = " ".join(sentences(card))
    assert "at strength 0.25 the same words get 1.00 (4/4), at strength 1 0.00 (0/4)." in said
    assert "2 prompts that have nothing to do with it have drifted by 0.032," in said
    assert "connect it to lora of Red Team" in " ".join(limits(plain))
    assert "connect it to lora of Red Team" not in " ".join(limits(card))
    page = as_page(card)
    read = Read(page)
    assert read.open == [] and "Strength and drift" in page and "0.0321" in page
    assert "<b>cat" not in page and "a <b>cat</b>" in "".join(read.texts)
    rows = re.findall(r'<td class="name">([\d.]+)</td>', page)
    assert rows == ["0.25", "0.5", "0.75", "1"] and "Strength and drift" not in as_page(plain)
    told = json.loads(as_json(card))["effects"]
    assert [(p["strength"], p["success"]["hits"]) for p in told["strengths"]] == [
        (0.25, 4), (0.5, 3), (0.75, 1), (1.0, 0),
    ]  # fmt: skip
    assert told["drift"] == {"value": 0.0321, "prompts": ["a <b>cat</b>", "a drawing"]}
    assert json.loads(as_json(plain))["effects"] is None
