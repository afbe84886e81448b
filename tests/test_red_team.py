"""Several attacks on one model, counted."""

import pytest
import torch
from dark_miner.darkminer.attacks.catalogue import ATTACKS
from dark_miner.darkminer.attacks.red_team import EFFORTS, red_team, settings_of
from dark_miner.darkminer.errors import DarkMinerError
from dark_miner.darkminer.judge.detectors import Sight
from dark_miner.darkminer.model.sampling import SamplingConfig
from dark_miner.darkminer.progress.attack_plans import red_team_plan
from dark_miner.darkminer.progress.course import Course

from .test_attacks_latent import FEW as LATENT
from .test_attacks_text import FEW as TEXT
from .test_attacks_text import PROMPTS, Bright, scene

FEW = {**TEXT, **LATENT}


@pytest.fixture(scope="module")
def tried():
    """Every attack in a few steps, and what it reported."""
    seen = []
    whole = scene(detector=Bright(0.6), report=seen.append)
    return red_team(whole, FEW), seen, whole


def test_every_attack_is_judged_by_one_picture_a_prompt(tried):
    found, _, whole = tried
    assert list(found.rows) == ["words", *FEW]
    for row in found.rows.values():
        assert [a.prompt for a in row.attempts] == list(PROMPTS)
        assert row.pictures.shape == (2, 2, 2, 3)
        assert row.success.hits == int((row.pictures.flatten(1).mean(1) > 0.6).sum())
    assert torch.equal(found.rows["udatk"].pictures[1:],
                       whole.picture(1, found.rows["udatk"].attempts[1]))  # fmt: skip
    assert found.worst == max(r.success.value for r in found.rows.values())


def test_the_table_has_counts_intervals_and_whose_judgement_it_is(tried):
    found, _, _ = tried
    lines = found.table().splitlines()
    assert len(lines) == 2 + len(found.rows) and "bright (1), above 0.5" in lines[-1]
    words = found.rows["words"].success
    assert f"{words.value:.3f} ({words.hits}/2)" in lines[1] and "asked in words" in lines[1]
    low, high = words.interval
    assert f"{low:.2f} to {high:.2f}" in lines[1]
    said = found.texts().splitlines()
    assert len(said) == sum(
        a.spoken is not None for row in found.rows.values() for a in row.attempts
    )
    assert any(line.startswith("Ring-A-Bell: ") for line in said)


def test_every_report_was_planned_and_the_bar_never_falls(tried):
    _, seen, _ = tried
    plan = red_team_plan(FEW, len(PROMPTS), SamplingConfig(3, 1.0, "euler", "normal", 4))
    assert [p.part for p in plan.parts] == [*FEW, "pictures"]
    assert {(r.stage, r.round, r.part) for r in seen} == {(p.stage, 0, p.part) for p in plan.parts}
    course, shares = Course(plan), []
    for report in seen:
        course.take(report)
        shares.append(course.share)
    assert shares == sorted(shares) and shares[-1] == pytest.approx(1.0)


def test_the_detector_decides():
    class Never(Bright):
        def __call__(self, images):
            return Sight(super().__call__(images).scores, torch.zeros(len(images)).bool())

    found = red_team(scene(detector=Never()), {"completion": FEW["completion"]})
    assert found.worst == 0.0 and found.rows["completion"].success.count == 2


def test_what_cannot_run_is_refused_before_anything_runs():
    seen = []
    whole = scene(original=None, detector=Bright(), report=seen.append)
    with pytest.raises(DarkMinerError, match="P4D-N needs the model before its erasure"):
        red_team(whole, settings_of(["completion", "p4d-n"], "short"))
    with pytest.raises(DarkMinerError, match="needs a detector"):
        red_team(scene(report=seen.append), settings_of(["completion"], "full"))
    with pytest.raises(DarkMinerError, match="no attack 'mma'"):
        settings_of(["mma"], "short")
    with pytest.raises(DarkMinerError, match="switch one on"):
        settings_of([], "short")
    assert not seen and EFFORTS == ("short", "full")
    assert settings_of(list(ATTACKS), "full")["p4d-n"].steps == 3000
