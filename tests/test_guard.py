"""The guard: drift is what its formula says, and a round that moves too much is left out."""

from dataclasses import replace

import pytest
import torch
from dark_miner.darkminer.errors import DarkMinerError
from dark_miner.darkminer.method.erasure import LAST_LOOK
from dark_miner.darkminer.method.guard import DriftedError, Guard, GuardConfig
from dark_miner.darkminer.method.loop import new_adapters
from dark_miner.darkminer.method.retain import Retain
from dark_miner.darkminer.method.run import Keeping
from dark_miner.darkminer.model.sampling import predict_each
from dark_miner.darkminer.progress.plan import erasure_plan
from dark_miner.darkminer.rng import generator
from dark_miner.darkminer.runs import KeptRun, report
from dark_miner.darkminer.types import RetainSet

from . import toy
from .test_loop import QUICK, equal, run

INPUTS = {"seed": "0"}


def guarded(limit, config=QUICK):
    return replace(config, guard=GuardConfig(max_drift=limit, prompts=2, draws=3))


def entries(count):
    gen = generator(0, 0, "test")
    pictures = torch.randn(count, 1, toy.CHANNELS, toy.SIDE, toy.SIDE, generator=gen)
    names = tuple(f"p{i}" for i in range(count))
    return RetainSet(tuple(toy.context(i)[0] for i in range(count)), pictures, names)


def moved(adapters, by):
    state = adapters.state()
    up = {name: torch.full_like(part, by) for name, part in state.up.items()}
    adapters.load(replace(state, up=up))


def measured(by, *, bank=None, keep=(), prompts=3, draws=2):
    model = toy.model()
    adapters = new_adapters(model, toy.LORA, seed=0)
    retain = Retain(bank=bank, keep=keep, made={})
    config = GuardConfig(prompts=prompts, draws=draws)
    guard = Guard(model, adapters, retain, toy.context(9), config, seed=0)
    moved(adapters, by)
    return model, adapters, guard


def test_drift_is_what_the_formula_says():
    model, adapters, guard = measured(0.2, bank=entries(5))
    now = predict_each(model, guard._noisy, guard._timestep, guard._contexts)
    with adapters.off():
        before = predict_each(model, guard._noisy, guard._timestep, guard._contexts)
    # epsilon: the true answer is the noise, which the guard's own generator draws last but one.
    gen = generator(0, 0, "guard")
    chosen = torch.randperm(5, generator=gen)[:3]
    for _ in range(3):
        torch.randint(1, (2,), generator=gen)
    noise = torch.randn(6, toy.CHANNELS, toy.SIDE, toy.SIDE, generator=gen)
    by_hand = ((now - before).square().sum() / (before - noise).square().sum()).sqrt()
    assert guard.drift(1) == pytest.approx(float(by_hand), rel=1e-5) and by_hand > 0.01
    same = entries(5).contexts[int(chosen[0])]
    assert torch.equal(guard._contexts[0], same) and len(guard) == 6


def test_a_lora_that_does_nothing_has_not_drifted_and_more_of_it_drifts_further():
    assert measured(0.0, bank=entries(3))[2].drift(1) == 0.0
    few, more = (measured(by, bank=entries(3))[2].drift(1) for by in (0.1, 0.3))
    assert 0.0 < few < more


def test_keep_prompts_come_before_the_bank_and_without_either_the_anchor_is_measured():
    keep = tuple(toy.context(i) for i in (20, 21))
    _, _, guard = measured(0.1, bank=entries(5), keep=keep, prompts=3, draws=1)
    kept = [any(torch.equal(c, k[0]) for k in keep) for c in guard._contexts]
    assert kept == [True, True, False]
    _, _, guard = measured(0.1, draws=2)
    assert len(guard) == 2 and all(torch.equal(c, toy.context(9)[0]) for c in guard._contexts)


def test_measuring_changes_nothing():
    plain, seen = run(), run(guarded(1e9))
    assert equal(plain.adapters, seen.adapters)
    assert plain.embeddings.history == seen.embeddings.history
    assert list(seen.drifts) == ["opening", "round 1", "round 2"] and not plain.drifts
    assert seen.too_far is None and report(seen)["drift"].keys() == seen.drifts.keys()


def between():
    """A limit that the opening and round 1 stay within, and round 2 does not."""
    drifts = run(guarded(1e9)).drifts
    within = max(drifts["opening"], drifts["round 1"])
    assert drifts["round 2"] > within, drifts
    return (within + drifts["round 2"]) / 2


def test_a_round_that_moves_too_much_is_left_out_as_if_it_had_never_been():
    limit = between()
    left, one = run(guarded(limit)), run(guarded(limit, replace(QUICK, max_rounds=1)))
    assert equal(left.adapters, one.adapters)
    assert left.embeddings.history == one.embeddings.history
    assert len(left.embeddings.entries) == len(one.embeddings.entries)
    assert left.last is not None and left.last.scores == one.last.scores
    assert len(left.verdicts) == 1 and left.over and left.finished[-1] == LAST_LOOK
    assert left.finished == one.finished
    assert left.too_far == left.drifts["round 2"] > limit and one.too_far is None
    assert "was left out" in left.outcome.words and "guard_max_drift" in left.outcome.words
    assert len(left.notes) == 1 and left.notes[0].startswith("The round 2 has moved")


def test_an_opening_that_moves_too_much_is_an_error_and_its_lora_is_handed_over():
    broken = []
    with pytest.raises(DriftedError, match="^The opening has moved what is retained by") as caught:
        run(guarded(1e-9), keeping=Keeping(broken=broken.append))
    assert caught.value.drift > caught.value.limit == 1e-9
    assert any(up.any() for up in broken[0].adapters.up.values())


def in_folder(root, config):
    with KeptRun.open(root, "run", config, INPUTS, toy.pool()) as kept:
        return run(config, keeping=Keeping(kept.begun, kept.keep, every=0.0))


def test_a_higher_limit_goes_on_with_the_round_that_was_left_out(tmp_path):
    limit = between()
    left = in_folder(tmp_path, guarded(limit))
    assert in_folder(tmp_path, guarded(limit)).too_far == left.too_far
    went_on, at_once = in_folder(tmp_path, guarded(1e9)), run(guarded(1e9))
    assert equal(went_on.adapters, at_once.adapters)
    assert went_on.too_far is None and went_on.drifts == at_once.drifts
    assert went_on.embeddings.history == at_once.embeddings.history


@pytest.mark.parametrize("first, second, said", [
    (1e9, 1e-9, "drift of the opening in 'run' is"),
    (None, 0.5, "drift of the opening in 'run' was not measured"),
])  # fmt: skip
def test_a_limit_that_would_have_ended_the_run_before_is_refused(tmp_path, first, second, said):
    in_folder(tmp_path, guarded(first))
    with pytest.raises(DarkMinerError, match=said):
        in_folder(tmp_path, guarded(second))
    assert equal(in_folder(tmp_path, guarded(first)).adapters, run(guarded(first)).adapters)


def test_the_plan_knows_of_it():
    def of(limit):
        plan = erasure_plan(guarded(limit), QUICK.sampling)
        return [(p.round, p.cost) for p in plan.parts if p.stage == "guard"]

    assert of(0.5) == [(0, 3), (1, 3), (2, 3)] and not of(None)
