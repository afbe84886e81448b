"""A run that was stopped anywhere goes on and ends with the same LoRA, bit for bit."""

from __future__ import annotations

import itertools
import os
import time
from dataclasses import replace

import pytest
import torch
from dark_miner.darkminer.config import PAPER
from dark_miner.darkminer.errors import DarkMinerError, DivergedError
from dark_miner.darkminer.method.circumvent import CircumventConfig
from dark_miner.darkminer.method.loop import erase
from dark_miner.darkminer.method.mine import MineConfig
from dark_miner.darkminer.method.repair import RepairConfig
from dark_miner.darkminer.method.run import Keeping
from dark_miner.darkminer.method.verify import VerifyConfig
from dark_miner.darkminer.runs import KeptRun, read_erasure

from . import test_chase as chased
from . import toy
from .test_converting import bits

TRAIN = CircumventConfig(steps=7, images=1, optimizer="adam", lr=1e-3, lr_late=1e-3, eta=1.0)
ALL = replace(
    PAPER, max_rounds=2, text_start=True, lora=toy.LORA,
    mine=MineConfig(length=3, k=2, batch=1, steps=5, lr_drop=3, tokens=2, token_words=1),
    verify=VerifyConfig(threshold=-1.0, draws=1), circumvent=TRAIN, start=replace(TRAIN, steps=5),
    chase=chased.QUICK, retain=replace(chased.RETAIN, refresh=3),
    repair=RepairConfig(steps=5, batch=2, replay=2, unrelated=1),
)  # fmt: skip
EVERY = bool(os.environ.get("SOAK"))
"""Whether to go on from every step; otherwise from every fourth."""
INPUTS = {"anchor": "a photo", "seed": "0"}


def run(config=ALL, keeping=None, seed=0, report=None):
    more = {"report": report} if report is not None else {}
    return erase(
        toy.model(), toy.encode, toy.pool(), toy.context(0), config, seed=seed,
        start=chased.start(), bank=chased.bank(), keep=[toy.context(9)], text=chased.space(),
        **({"keeping": keeping} if keeping is not None else {}), **more,
    )  # fmt: skip


def result(erasure):
    """All that a run hands on."""
    return bits((
        erasure.adapters.up, erasure.adapters.down, erasure.embeddings, erasure.verdicts,
        erasure.last, erasure.losses, erasure.finished,
    ))  # fmt: skip


@pytest.fixture(scope="module")
def whole():
    """An uninterrupted run, and all that was kept on its way: after every step."""
    kept = []
    done = run(keeping=Keeping(keep=kept.append, every=0.0))
    return done, kept


def test_keeping_changes_nothing(whole):
    assert result(run()) == result(whole[0])


def test_it_goes_on_from_any_step_to_the_same_bits(whole):
    done, kept = whole
    inside = [k.stage.stage + k.stage.part for k in kept if k.stage is not None]
    assert set(inside) == {"circumvent", "chase", "repair", "mine", "minetokens"}
    assert len(kept) > 50
    for begun in kept[:: 1 if EVERY else 4]:
        again = run(keeping=Keeping(begun=begun))
        where = begun.finished[-1:], begun.stage and (begun.stage.stage, begun.stage.step)
        assert result(again) == result(done), where


def test_what_went_through_a_folder_is_the_same_as_what_did_not(whole, tmp_path):
    done, kept = whole
    for i, begun in enumerate(kept[::17]):
        with KeptRun.open(tmp_path, f"runs/{i}", ALL, INPUTS, toy.pool()) as folder:
            assert folder.begun is None
            folder.keep(begun)
        with KeptRun.open(tmp_path, f"runs/{i}", ALL, INPUTS) as folder:
            assert folder.begun is not None
            again = run(keeping=Keeping(begun=folder.begun, keep=folder.keep))
            assert result(again) == result(done)
            folder.end(again)
        with KeptRun.open(tmp_path, f"runs/{i}", ALL, INPUTS) as folder:
            seen = []
            assert result(run(keeping=Keeping(folder.begun), report=seen.append)) == result(done)
            assert not any(r.steps for r in seen), "a run that is over is not run again"


def test_a_run_that_is_stopped_again_and_again_gets_there(whole, tmp_path):
    class Stopped(Exception):
        pass

    done, _ = whole
    stops = 0
    while True:
        seen = itertools.count()

        # What comes before a chase's first step is made anew each time: it needs its reports.
        def stop(_, seen=seen, at=23 + 5 * stops):
            if next(seen) == at:
                raise Stopped

        with KeptRun.open(tmp_path, "ink", ALL, INPUTS) as folder:
            lost = []
            keeping = Keeping(folder.begun, folder.keep, lost.append, every=0.0)
            try:
                last = run(keeping=keeping, report=stop)
                break
            except Stopped:
                assert len(lost) == 1 and lost[0].adapters.rank == 2
                stops += 1
    assert stops >= 3 and result(last) == result(done)


def test_a_run_whose_time_is_up_ends_with_what_it_has_and_goes_on_later(whole):
    done, _ = whole
    kept = []
    deadline = time.monotonic() - 1
    none = run(keeping=Keeping(keep=kept.append, deadline=deadline))
    assert none.timed_out and none.outcome.empty and "time was up" in none.outcome.words
    counted = itertools.count()
    clock = time.monotonic

    def report(_):
        # The clock jumps past the deadline within the chase.
        if next(counted) == 60:
            time.monotonic = lambda: clock() + 1e6

    try:
        some = run(keeping=Keeping(keep=kept.append, deadline=clock() + 1e5), report=report)
    finally:
        time.monotonic = clock
    assert some.timed_out and not some.outcome.empty and some.outcome.verdict == "out of time"
    stage = kept[-1].stage
    assert stage is not None and stage.adapters is not None
    assert bits(stage.adapters.up) == bits(some.adapters.up)
    assert result(run(keeping=Keeping(begun=kept[-1]))) == result(done)


def test_more_rounds_and_another_threshold_go_on_as_if_they_had_been_asked_for_at_once(tmp_path):
    one = replace(ALL, max_rounds=1)
    with KeptRun.open(tmp_path, "ink", one, INPUTS) as folder:
        run(one, Keeping(folder.begun, folder.keep))
    with KeptRun.open(tmp_path, "ink", ALL, INPUTS) as folder:
        assert folder.begun is not None and not folder.begun.over
        more = run(ALL, Keeping(folder.begun, folder.keep))
        assert result(more) == result(run())
    # No score lies between the two: the rounds would have been the same.
    alike = replace(ALL, verify=replace(ALL.verify, threshold=-0.99))
    with KeptRun.open(tmp_path, "ink", alike, INPUTS) as folder:
        assert folder.begun is not None and not folder.begun.over
    with KeptRun.open(tmp_path, "ink", alike, INPUTS) as folder:
        assert folder.begun is not None and not folder.begun.over, "nothing was judged meanwhile"
        judged = run(alike, Keeping(folder.begun, folder.keep))
    assert judged.last.threshold == -0.99 and bits(judged.adapters.up) == bits(more.adapters.up)
    never = replace(ALL, verify=replace(ALL.verify, threshold=1.0))
    with pytest.raises(DarkMinerError, match="would have been others with the threshold 1.0"):
        KeptRun.open(tmp_path, "ink", never, INPUTS)
    with pytest.raises(DarkMinerError, match="max_rounds is 1 and the run in 'ink' is in round 2"):
        KeptRun.open(tmp_path, "ink", replace(alike, max_rounds=1), INPUTS)
    with KeptRun.open(tmp_path, "other", never, INPUTS) as folder:
        first = run(never, Keeping(folder.begun, folder.keep))
        assert len(first.verdicts) == 1 and not first.verdicts[0].verified
    with KeptRun.open(tmp_path, "other", ALL, INPUTS) as folder:
        assert result(run(ALL, Keeping(folder.begun, folder.keep))) == result(run())


def test_another_run_is_refused_with_what_differs(tmp_path):
    with KeptRun.open(tmp_path, "ink", ALL, INPUTS) as folder:
        run(replace(ALL, max_rounds=0), Keeping(folder.begun, folder.keep))
    other = replace(ALL, mine=replace(ALL.mine, steps=9))
    with pytest.raises(DarkMinerError, match=r"mine\.steps was 5 and is 9.*name a new folder"):
        KeptRun.open(tmp_path, "ink", other, INPUTS)
    with pytest.raises(DarkMinerError, match="anchor was a photo and is a cat; seed was 0 and is"):
        KeptRun.open(tmp_path, "ink", ALL, {"anchor": "a cat"})
    with KeptRun.open(tmp_path, "ink", ALL, INPUTS) as folder:
        assert folder.begun is not None, "a refusal gives the folder back"
    found, state = read_erasure(tmp_path, "ink")
    assert found.embeddings.concept == "concept" and state.notes == []


def test_another_torch_or_version_goes_on_and_is_said(tmp_path, whole):
    _, kept = whole
    made = {"torch": "2.1", "code": "abc"}
    with KeptRun.open(tmp_path, "ink", ALL, {**INPUTS, **made}) as folder:
        folder.keep(kept[20])
    with KeptRun.open(tmp_path, "ink", ALL, {**INPUTS, **made}) as folder:
        assert folder.begun is not None and not folder.begun.notes
    with KeptRun.open(tmp_path, "ink", ALL, {**INPUTS, **made, "torch": "2.2"}) as folder:
        (note,) = folder.begun.notes
        folder.keep(folder.begun)
    with KeptRun.open(tmp_path, "ink", ALL, {**INPUTS, **made, "torch": "2.2"}) as folder:
        assert folder.begun.notes == (note,), "said once, however often the run goes on"
    assert note.startswith("The run began with another torch (2.1, now 2.2): it ends with another")


def test_fewer_rounds_than_were_run_are_refused(tmp_path):
    kept = []
    run(keeping=Keeping(keep=kept.append))
    inside = next(k for k in kept if "verify 2" in k.finished)
    with KeptRun.open(tmp_path, "ink", ALL, INPUTS) as folder:
        folder.keep(inside)
    with pytest.raises(DarkMinerError, match="max_rounds is 1 and the run in 'ink' is in round 2"):
        KeptRun.open(tmp_path, "ink", replace(ALL, max_rounds=1), INPUTS)


def test_a_last_look_that_was_stopped_is_no_round_too_many(tmp_path):
    kept = []
    one = replace(ALL, max_rounds=1)
    done = run(one, Keeping(keep=kept.append))
    inside = next(k for k in kept if "mine 2" in k.finished)
    with KeptRun.open(tmp_path, "ink", one, INPUTS) as folder:
        folder.keep(inside)
    for config, whole in ((one, done), (ALL, run())):
        with KeptRun.open(tmp_path, "ink", config, INPUTS) as folder:
            assert result(run(config, Keeping(folder.begun))) == result(whole)


def test_every_save_holds_what_was_handed_over(tmp_path, whole):
    """Values that are made anew and forgotten each time stand where others stood in memory."""
    _, kept = whole
    with KeptRun.open(tmp_path, "ink", ALL, INPUTS) as folder:
        for k in kept[::3]:
            stage = None if k.stage is None else replace(k.stage)
            folder.keep(replace(k, stage=stage, losses=dict(k.losses)))
            del stage
            found, _ = read_erasure(tmp_path, "ink")
            assert result(found) == result(k)
            assert (found.stage and found.stage.step) == (k.stage and k.stage.step)


def test_directions_that_are_closed_stay_closed_where_a_repair_goes_on():
    config = replace(ALL, max_rounds=0, retain=replace(ALL.retain, keep_exact=0.9))
    kept = []
    done = run(config, Keeping(keep=kept.append, every=0.0))
    for begun in [k for k in kept if "chase" in k.finished][::2]:
        assert result(run(config, Keeping(begun=begun))) == result(done)


def test_a_run_that_goes_on_with_another_is_stopped_and_goes_on(whole):
    first = run(replace(ALL, max_rounds=1))
    config = replace(
        ALL, max_rounds=1, text_start=False, chase=replace(ALL.chase, steps=0),
        repair=replace(ALL.repair, steps=0),
    )  # fmt: skip

    def rest(keeping):
        return erase(
            toy.model(), toy.encode, toy.pool(), toy.context(0), config, seed=0,
            start=first.embeddings, state=first.adapters, bank=chased.bank(),
            keep=[toy.context(9)], text=chased.space(), keeping=keeping,
        )  # fmt: skip

    kept = []
    done = rest(Keeping(keep=kept.append, every=0.0))
    assert done.before == 1 and done.rounds == 1
    for begun in kept[::3]:
        assert result(rest(Keeping(begun=begun))) == result(done)


def test_a_lora_that_is_no_number_is_never_handed_over_when_the_time_is_up():
    kept = []
    with_nan = diverging(range(2, 10**6))
    clock, counted = time.monotonic, itertools.count()

    def report(r):
        if r.stage == "circumvent" and not r.part and next(counted) == 3:
            time.monotonic = lambda: clock() + 1e6

    try:
        done = erase(
            with_nan, toy.encode, toy.pool(), toy.context(0), ALL, seed=0, start=chased.start(),
            report=report, keeping=Keeping(keep=kept.append, deadline=clock() + 1e5),
        )  # fmt: skip
    finally:
        time.monotonic = clock
    assert done.timed_out
    assert all(bool(torch.isfinite(up).all()) for up in done.adapters.up.values())


def diverging(steps):
    """A model whose predictions are not finite in these training steps, counted from 0."""
    model = toy.model()
    passes = itertools.count()

    def denoise(x, timestep, context):
        made = model.network(x, timestep, context)
        training = torch.is_grad_enabled()
        return made * float("nan") if training and next(passes) in steps else made

    return replace(model, denoise=denoise)


def test_a_stage_that_diverges_begins_again_at_half_its_rates(caplog):
    plain = run(replace(ALL, start=replace(ALL.start, lr=5e-4, lr_late=5e-4), max_rounds=0))

    def diverging_in(*attempts):
        model = diverging([ALL.start.steps * i + 2 for i in attempts])
        return erase(
            model, toy.encode, toy.pool(), toy.context(0),
            replace(ALL, max_rounds=0), seed=0, start=chased.start(), bank=chased.bank(),
            keep=[toy.context(9)], text=chased.space(),
        )  # fmt: skip

    mended = diverging_in(0)
    assert bits(mended.adapters.up) == bits(plain.adapters.up)
    assert len(mended.notes) == 1 and "tried again at 0.5 of its learning rates" in caplog.text
    assert len(diverging_in(0, 1).notes) == 2
    with pytest.raises(DivergedError, match="circumvent stage"):
        diverging_in(0, 1, 2)


def test_what_is_handed_over_where_it_diverges_for_good_is_the_last_good_lora():
    good, lost = [], []
    with pytest.raises(DivergedError):
        erase(
            diverging(range(9, 10**6)), toy.encode, toy.pool(), toy.context(0), ALL, seed=0,
            start=chased.start(), bank=chased.bank(), keep=[toy.context(9)], text=chased.space(),
            keeping=Keeping(keep=good.append, broken=lost.append),
        )  # fmt: skip
    assert good[-1].finished[-1] == "circumvent 0"
    assert bits(lost[0].adapters.up) == bits(good[-1].adapters.up)
    assert all(bool(torch.isfinite(up).all()) for up in lost[0].adapters.up.values())
