"""A run's plan holds all that it reports, its bar never falls, and its words are a person's."""

from dataclasses import replace

import pytest
import torch
from dark_miner.darkminer.config import EraseConfig
from dark_miner.darkminer.method.chase import ChaseConfig
from dark_miner.darkminer.method.circumvent import CircumventConfig
from dark_miner.darkminer.method.loop import erase
from dark_miner.darkminer.method.mine import MineConfig
from dark_miner.darkminer.method.repair import RepairConfig
from dark_miner.darkminer.method.retain import RetainConfig
from dark_miner.darkminer.method.verify import VerifyConfig
from dark_miner.darkminer.model.adapter import LoraConfig
from dark_miner.darkminer.model.sampling import SamplingConfig, sample_each
from dark_miner.darkminer.progress.course import Course
from dark_miner.darkminer.progress.pace import seconds_per_row
from dark_miner.darkminer.progress.plan import (
    Part,
    Plan,
    erasure_plan,
    one_after_another,
    pool_plan,
)
from dark_miner.darkminer.progress.words import about, duration, loss_text
from dark_miner.darkminer.types import EmbeddingPool, MinedEmbedding, RetainSet, StepReport

from . import toy

TRAIN = CircumventConfig(steps=6, images=1)
SAMPLING = SamplingConfig(steps=3, cfg=1.0)
WHOLE = EraseConfig(
    max_rounds=2,
    text_start=True,
    text_words=1,
    lora=LoraConfig(rank=2, alpha=2.0),
    mine=MineConfig(length=3, k=2, batch=2, steps=5, lr_drop=3),
    verify=VerifyConfig(threshold="auto"),
    circumvent=TRAIN,
    start=replace(TRAIN, steps=4),
    chase=ChaseConfig(steps=6, tokens=0, soft_prompts=(1,), life=3, images=1, anchor_images=1),
    repair=RepairConfig(steps=5, batch=1, replay=1, unrelated=1),
    retain=RetainConfig(weight=1.0, batch=2, keep_weight=1.0, keep_images=2),
)


ROUNDS = replace(WHOLE, text_start=False, chase=ChaseConfig(), repair=RepairConfig())


class Clock:
    """A second passes with every look at it."""

    def __init__(self, step=1.0):
        self.now, self.step = 0.0, step

    def __call__(self):
        self.now += self.step
        return self.now


def start():
    anchor = toy.context(0)[0]
    said = [toy.context(i)[0] for i in (1, 2)]
    entries = (
        MinedEmbedding(said[0], 0, kind="text", prompt="c"),
        MinedEmbedding(said[1], 0, kind="text", prompt="c dog", anchor=anchor),
    )
    return EmbeddingPool(entries, concept="c")


def bank():
    gen = torch.Generator().manual_seed(5)
    contexts = tuple(toy.context(i)[0] for i in (6, 7, 8))
    latents = torch.randn((3, 1, toy.CHANNELS, toy.SIDE, toy.SIDE), generator=gen)
    return RetainSet(contexts, latents, ("x", "y", "z"))


def run(config, report):
    """A run whose verification always finds the concept, so that every round comes."""
    config = replace(config, verify=replace(config.verify, threshold=-1.0))
    return erase(
        toy.model(), toy.encode, toy.pool(), toy.context(0), config, seed=0, start=start(),
        bank=bank(), keep=[toy.context(4)], report=report,
    )  # fmt: skip


def reports(config):
    seen = []
    run(config, seen.append)
    return seen


def planned(config, **given):
    config = replace(config, bank=replace(config.bank, size=3))
    given = {"keep": 1} | given
    return erasure_plan(config, SAMPLING, **given)


def test_every_report_of_a_whole_run_was_planned_and_the_bar_never_falls():
    plan, shares, met = planned(WHOLE), [], []
    course = Course(plan, Clock())
    for report in reports(WHOLE):
        course.take(report)
        assert course.part is not None and course.part.answers(report), report
        shares.append(course.share)
        met += [course.part] if course.part not in met else []
    assert shares == sorted(shares) and 0 < shares[0] < 0.1
    assert shares[-1] == pytest.approx(1.0)
    # prompts and bank are the host's, a number as threshold needs no calibration, and no text
    # encoder is here to mine tokens through
    assert [p for p in plan.parts if p not in met and p.stage not in ("contexts", "bank")] == [
        p for p in plan.parts if p.part == "calibration"
    ]


def test_the_bar_fills_though_parts_do_not_come():
    """What does not come is left out of what is left: the next part begins where the bar stands."""
    course, shares = Course(planned(WHOLE), Clock()), []
    for report in reports(WHOLE):
        if (report.stage, report.round) not in (("circumvent", 1), ("mine", 2), ("verify", 2)):
            course.take(report)
            shares.append(course.share)
    assert shares == sorted(shares) and shares[-1] == pytest.approx(1.0)


def test_rounds_without_end_leave_room_on_the_bar_for_the_next():
    config = replace(
        WHOLE, max_rounds=None, text_start=False, chase=ChaseConfig(), repair=RepairConfig()
    )
    course, said = Course(planned(config), Clock()), []
    shares = []
    for round_ in range(1, 8):
        for stage, steps in (("mine", 5), ("verify", 2), ("circumvent", 6)):
            for step in range(1, steps + 1):
                report = StepReport(stage, round_, step, steps)
                course.take(report)
                shares.append(course.share)
                said.append(course.words(report))
    assert shares == sorted(shares) and shares[-1] < 1 and len(set(shares)) == len(shares)
    assert said[0].startswith("round 1 · mine · step 1 of 5")
    assert said[-3].startswith("round 7 · circumvent · step 4 of 6 · ")
    assert said[-3].endswith("to the end of round 7")


def test_a_run_that_goes_on_counts_its_rounds_on():
    config = ROUNDS
    plan = planned(config, done=3)
    assert {p.round for p in plan.parts if p.stage == "mine"} == {4, 5, 6}
    assert any(p.title == "round 4 of 5 · mine" for p in plan.parts)
    assert plan.parts[-1].title == "last look · verify"


def test_concepts_one_after_the_other_have_one_bar():
    one = [StepReport("pool", 0, i, 4) for i in (2, 4)] + reports(WHOLE)
    each = Plan((*pool_plan(4, SAMPLING).parts, *planned(WHOLE).parts))
    names = ["ink (1 of 3)", "flat (2 of 3)", "noto (3 of 3)"]
    course = Course(one_after_another(each.of(name) for name in names), Clock())
    shares, abouts = [], []
    for report in (*one, *one[: len(one) // 2], *one):  # the second ends early
        course.take(report)
        shares.append(course.share)
        abouts.append(course.part.about)
        assert course.words(report).startswith(course.part.about)
    assert shares == sorted(shares) and shares[-1] == pytest.approx(1.0)
    assert list(dict.fromkeys(abouts)) == names and abouts == sorted(abouts, key=names.index)
    assert shares[len(one) - 1] == pytest.approx(1 / 3, abs=0.05)


def test_concepts_whose_rounds_have_no_end_follow_each_other_on_one_bar():
    config = replace(
        WHOLE, max_rounds=None, text_start=False, chase=ChaseConfig(), repair=RepairConfig()
    )
    each = Plan((*pool_plan(4, SAMPLING).parts, *planned(config).parts), planned(config).further)
    names = ["ink (1 of 2)", "flat (2 of 2)"]
    course, shares, said = Course(one_after_another(each.of(n) for n in names), Clock()), [], []
    for _ in names:
        rounds = [(s, r) for r in (1, 2, 3) for s in ("mine", "verify", "circumvent")]
        for stage, round_ in [("pool", 0), *rounds]:
            for step in (1, 2, 3):
                report = StepReport(stage, round_, step, 3)
                course.take(report)
                assert course.part.answers(report)
                shares.append(course.share)
                said.append(course.words(report))
    assert shares == sorted(shares) and shares[-1] < 1
    half = len(said) // 2
    assert all(s.startswith("ink (1 of 2) · ") for s in said[:half])
    assert all(s.startswith("flat (2 of 2) · ") for s in said[half:])
    assert said[half - 2].endswith("to the end of round 3")
    assert said[-2].endswith("to the end of round 3")


def test_what_is_left_comes_from_what_was_measured():
    """Two stages of equal cost; the clock says that the first took 100 s, whatever it was taken
    for."""
    parts = (Part("a", 1, "", "a", 50.0), Part("b", 1, "", "b", 50.0), Part("a", 2, "", "a", 50.0))
    course = Course(Plan(parts), Clock())
    for step in range(1, 101):
        course.take(StepReport("a", 1, step, 100))
    assert course.left() == pytest.approx(200, rel=0.02)
    for step in range(1, 301):  # the other kind is three times as slow
        course.take(StepReport("b", 1, step, 300))
        if step == 150:
            assert course.left() == pytest.approx(150 + 100, rel=0.02)
    assert course.left() == pytest.approx(100, rel=0.02)
    assert course.words(StepReport("b", 1, 300, 300, loss=0.3141)) == (
        "b · step 300 of 300 · loss 0.314 · about 2 min left"
    )


def test_nothing_is_said_of_the_time_before_anything_is_known():
    course = Course(planned(WHOLE), Clock())
    report = StepReport("contexts", 0, 3, 4)
    course.take(report)
    assert course.left() is None
    assert course.words(report) == "the concept's prompts · prompt 3 of 4"


def test_a_verdict_that_may_end_the_run_makes_the_time_an_upper_bound():
    config = ROUNDS
    course = Course(planned(config), Clock())
    said = []
    for report in reports(config):
        course.take(report)
        said.append(course.words(report))
    assert any(" · at most about " in s or " · at most a few " in s for s in said)
    assert "at most" not in said[-1]


def test_what_no_plan_has_foreseen_is_said_and_moves_nothing():
    course = Course(Plan((Part("mine", 1, "", "round 1 · mine", 9.0),)), Clock())
    course.take(StepReport("mine", 1, 1, 4))
    share = course.share
    other = StepReport("dance", 1, 3, 4, loss=float("inf"), part="slow")
    assert course.take(other) is False and course.share == share
    assert course.words(other) == "round 1 · dance · slow · step 3 of 4 · loss inf"
    empty = Course()
    assert empty.take(other) is False and empty.share == 0 and empty.left() is None


def test_a_stage_that_begins_again_is_the_next_of_its_name():
    parts = (Part("a", 0, "", "one", 1.0), Part("a", 0, "", "two", 1.0))
    course = Course(Plan(parts), Clock())
    titles = []
    for step in (1, 2, 1, 2):
        course.take(StepReport("a", 0, step, 2))
        titles.append(course.part.title)
    assert titles == ["one", "one", "two", "two"] and course.share == pytest.approx(1.0)


@pytest.mark.parametrize(
    "seconds, text",
    [
        (3, "a few seconds"), (38, "about 40 s"), (59, "about 1 min"), (250, "about 4 min"),
        (1500, "about 25 min"), (3500, "about 1 h"), (4900, "about 1 h 20 min"),
        (40_000, "about 11 h 10 min"),
    ],
)  # fmt: skip
def test_times_ahead_are_as_rough_as_they_are_known(seconds, text):
    assert about(seconds) == text


@pytest.mark.parametrize(
    "seconds, text",
    [(0.04, "0.0 s"), (9.97, "10 s"), (59.6, "1 min"), (190, "3 min 10 s"), (7500, "2 h 5 min")],
)
def test_times_behind_are_exact_to_the_second(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    "value, text",
    [(0.3141, "0.314"), (12.44, "12.4"), (1250.4, "1250"), (0.00123, "0.00123"), (1e-9, "1e-09"),
     (float("nan"), "nan"), (0.0, "0")],
)  # fmt: skip
def test_losses_are_short(value, text):
    assert loss_text(value) == text


def test_pictures_are_counted_batch_by_batch_and_drawn_as_before():
    model = replace(toy.model(), batch=2)
    noise = torch.randn((5, *model.latent_shape), generator=torch.Generator().manual_seed(0))
    contexts, seen = [toy.context(i)[0] for i in range(5)], []
    watched = sample_each(model, contexts, noise, seen.append)
    assert seen == [2, 2, 1] and torch.equal(watched, sample_each(model, contexts, noise))


def test_a_pace_that_is_asked_for_says_how_long_it_takes_before_it_begins():
    plan = planned(WHOLE)
    total = sum(p.cost for p in plan.parts)
    course = Course(plan, Clock(step=0.5))
    assert course.ahead() == ""
    course.expect(600.0 / total)
    assert course.ahead() == "at most about 10 min"
    first, *rest = reports(WHOLE)
    course.take(first)
    left = course.left()
    assert left is not None and left == pytest.approx(600, rel=0.1)
    for report in rest:  # what is measured takes the guess's place
        course.take(report)
    assert course.left() == pytest.approx(0, abs=1)


def test_rounds_without_an_end_are_told_by_the_round():
    course = Course(planned(replace(ROUNDS, max_rounds=None)), Clock())
    course.expect(1.0)
    assert course.ahead().endswith(" a round") and not course.ahead().startswith("at most")


def test_asking_for_the_pace_changes_nothing():
    model, state = toy.model(), torch.get_rng_state()
    assert 0.0 < seconds_per_row(model, toy.context(0)) < 5.0
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in model.network.parameters())
