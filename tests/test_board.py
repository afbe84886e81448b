"""What a run shows of itself: bounded, in its own words, and whole after it goes on."""

import json
from dataclasses import replace

import pytest
import torch
from dark_miner.darkminer.method.loop import erase
from dark_miner.darkminer.method.run import Keeping
from dark_miner.darkminer.progress.board import Board, Curve
from dark_miner.darkminer.progress.course import Course
from dark_miner.darkminer.types import StepReport, Verdict

from . import toy
from .test_progress import ROUNDS, bank, planned, start


def watched(config, **given):
    """A run's board after each report, and what it has come to."""
    course = Course(planned(config))
    board, seen = Board(course, lambda picture: picture), []

    def report(step):
        course.take(step)
        board(step)
        seen.append(board.told())

    config = replace(config, verify=replace(config.verify, threshold=-1.0))
    done = erase(
        toy.model(), toy.encode, toy.pool(), toy.context(0), config, seed=0, start=start(),
        bank=bank(), keep=[toy.context(4)], report=report, **given,
    )  # fmt: skip
    return board, seen, done


@pytest.fixture(scope="module")
def whole():
    kept = []
    board, seen, done = watched(ROUNDS, keeping=Keeping(keep=kept.append))
    return board, seen, done, kept


def test_every_verdict_stands_on_it_with_the_pair_of_its_highest_score(whole):
    board, _, done, _ = whole
    verdicts = [*done.verdicts, done.last]
    assert [look.name for look in board.looks] == ["round 1", "round 2", "last look"]
    for look, verdict in zip(board.looks, verdicts, strict=True):
        best = verdict.scores.index(verdict.score)
        assert (look.score, look.threshold, look.there) == (verdict.score, -1.0, True)
        assert torch.equal(look.pair[0], verdict.reference[best])
        assert torch.equal(look.pair[1], verdict.target[best])


def test_it_says_where_the_run_is_and_shows_the_curve_under_way(whole):
    _, seen, done, _ = whole
    trained = [told for told in seen if told["title"] == "round 2 of 2 · circumvent"]
    assert [told["step"] for told in trained] == [1, 2, 3, 4, 5, 6]
    assert {told["steps"] for told in trained} == {6} and trained[-1]["share"] > 0.5
    assert json.loads(json.dumps(seen[-1]))["unit"] == "picture"
    assert seen[-1]["title"] == "last look · verify"
    losses = done.losses["mine 2"]
    assert Curve("mine", 5, losses).told()["points"] == [
        (i, float(f"{loss:.4g}")) for i, loss in enumerate(losses, start=1)
    ]


def test_a_curve_has_few_points_however_long_it_is():
    losses = [float(i) for i in range(1000)]
    for known in (1, 500, 999, 1000):
        points = Curve("mine", 1000, losses[:known]).told()["points"]
        assert len(points) <= 120 and points[-1][0] == known
    assert points[0] == (9, 4.0) and points[-1] == (1000, 999.0)


def test_a_run_that_goes_on_shows_what_it_had_seen_before(whole):
    board, _, done, kept = whole
    halfway = next(k for k in kept if k.finished and k.finished[-1] == "verify 2")
    again, seen, ended = watched(ROUNDS, keeping=Keeping(begun=halfway))
    assert torch.equal(ended.adapters.up["attn1.to_v"], done.adapters.up["attn1.to_v"])
    assert [o.figures for o in again.looks] == [o.figures for o in board.looks]
    assert seen[1]["share"] == 0.0, "what was verified before moves no bar"
    over, _, _ = watched(ROUNDS, keeping=Keeping(begun=done))
    assert [o.figures for o in over.looks] == [o.figures for o in board.looks]


def test_of_many_verdicts_the_first_and_the_newest_keep_their_pictures():
    board = Board(Course(), lambda picture: picture)
    for number in range(1, 251):
        images = torch.rand(2, 4, 4, 3)
        verdict = Verdict((0.1, number / 1000), 0.2, number > 200, images, 1 - images)
        board(StepReport("verify", number, 4, 4, verdict=verdict))
    assert len(board.looks) == 200 and board.looks[-1].name == "round 250"
    pictured = [i for i, look in enumerate(board.looks) if look.pair is not None]
    assert pictured == [*range(189, 200)] and board.looks[-1].there
