"""What a run says it has come to is true of the model it hands on."""

import json
from dataclasses import replace

import pytest
import torch
from dark_miner.darkminer.errors import DarkMinerError
from dark_miner.darkminer.files.lora_file import LoraDict, to_state_dict
from dark_miner.darkminer.files.lora_outcome import is_empty, require_work, with_outcome
from dark_miner.darkminer.method.loop import new_adapters
from dark_miner.darkminer.method.mine import mine
from dark_miner.darkminer.method.outcome import (
    Outcome,
    nothing_found,
    outcome_of,
)
from dark_miner.darkminer.method.verify import VerifyConfig, verify
from dark_miner.darkminer.types import EmbeddingPool, RoundRecord

from . import toy
from .test_attack_verdict import _draws as draws
from .test_loop import QUICK, equal, run

NEVER = VerifyConfig(threshold=1.0)


def saved(done):
    lora = to_state_dict(done.adapters, toy.model().names)
    return with_outcome(
        LoraDict(lora, {"darkminer_seed": "0"}), done.embeddings, empty=done.outcome.empty,
        words=done.outcome.words,
    )  # fmt: skip


def test_the_score_is_that_of_the_model_handed_on():
    """Not of the one before its last training: mined and verified once more, on what came out."""
    done = run()
    model = toy.model()
    adapters = new_adapters(model, QUICK.lora, seed=0, state=done.adapters)
    anchor, round_ = toy.context(0), done.embeddings.round + 1
    found = mine(
        model, toy.pool(), anchor, QUICK.mine, seed=0, round_=round_,
        concept_contexts=done.embeddings.text_tokens(),
    )  # fmt: skip
    again = verify(
        model, toy.encode, found.embeddings, anchor, toy.pool(), QUICK.verify, seed=0,
        round_=round_, adapters=adapters,
    )  # fmt: skip
    assert done.score == again.score != done.verdicts[-1].score
    assert done.embeddings.history[-1].scores == again.scores
    assert len(done.verdicts) == 2 and done.last is not None


def test_the_last_verification_adds_no_embedding_and_moves_no_adapter():
    """After the rounds the next round's start is looked at, and nothing is kept of it."""
    seen = []
    done = run(on_round=seen.append)
    assert equal(done.adapters, seen[-1].adapters)
    assert len(done.embeddings.entries) == len(seen[-1].embeddings.entries)
    assert done.embeddings.round == seen[-1].embeddings.round == 2


def test_a_no_after_the_text_start_is_a_success():
    done = run(replace(QUICK, verify=NEVER))
    assert not done.outcome.empty and not done.outcome.there and done.last is None
    assert "gone: nothing is found any more that produces it" in done.outcome.words
    assert not is_empty(saved(done))
    require_work(saved(done))


def test_a_no_before_any_training_is_no_erasure():
    done = run(replace(QUICK, verify=NEVER, text_start=False))
    lora = saved(done)
    assert done.outcome.empty and is_empty(lora)
    assert lora.metadata["darkminer_empty"] == "true"
    said = lora.metadata["darkminer_outcome"]
    assert f"score {done.score:.2f}, threshold 1.00" in said and "check that the pool" in said
    with pytest.raises(DarkMinerError, match="lora is empty and is not saved: nothing was found"):
        require_work(lora)


def test_a_run_whose_rounds_are_spent_says_that_the_concept_is_still_there():
    done = run()
    assert done.outcome.there and not done.outcome.empty
    assert "still there after 2 rounds" in done.outcome.words
    assert "threshold -1.00" in done.outcome.words
    assert saved(done).metadata["darkminer_empty"] == "false"


def test_no_round_at_all_is_verified_too():
    done = run(replace(QUICK, max_rounds=0))
    assert done.verdicts == () and done.last is not None and done.score == done.last.score
    assert [h.round for h in done.embeddings.history] == [1] and done.embeddings.round == 0


def test_the_file_holds_every_verification():
    done = run()
    history = json.loads(saved(done).metadata["darkminer_history"])
    assert [h["round"] for h in history] == [1, 2, 3]
    assert max(history[-1]["scores"]) == done.score
    assert saved(done).metadata["darkminer_seed"] == "0"


def test_an_erasure_that_went_on_and_found_nothing_stays_what_it_was():
    first = run()
    config = replace(QUICK, verify=NEVER, text_start=False)
    done = run(config, state=first.adapters)
    assert equal(done.adapters, first.adapters) and not done.outcome.empty


def test_what_counts_as_empty():
    one = {"a.lora_up.weight": torch.zeros(3, 2), "a.lora_down.weight": torch.ones(2, 3)}
    assert is_empty(one) and is_empty({}) and is_empty({**one, "a.alpha": torch.tensor(2.0)})
    assert not is_empty({**one, "b.lora_up.weight": torch.ones(3, 2)})
    assert not is_empty({"a.diff": torch.zeros(3)})
    with pytest.raises(DarkMinerError, match="save_empty"):
        require_work(one)


def test_where_no_threshold_is_known_none_is_named():
    record = RoundRecord(1, (0.5,), 0.25, True)
    pool = EmbeddingPool((), 1, (record,), "c")
    assert outcome_of(pool, True, 0.5, False, 1).threshold == 0.25
    other = outcome_of(pool, True, 0.5, False, 2)
    assert other.threshold is None and "threshold" not in other.words
    assert Outcome(False, 0.1, None, False, 3).words.endswith("(score 0.10).")


def test_nothing_found_needs_a_verification_of_the_newest_round():
    record = RoundRecord(1, (0.1,), 0.2, False)
    assert nothing_found(EmbeddingPool((), 1, (record,)))
    assert not nothing_found(EmbeddingPool((), 1)) and not nothing_found(EmbeddingPool())


def test_what_no_round_changes_is_made_once():
    """The threshold, the pool's mean features and the pictures of keep prompts."""
    # Embeddings always draw the concept here, so that no verdict ends the rounds.
    shown, seen = draws(toy.pool().latents), []

    def sample(context, noise):
        seen.append(len(noise))
        return shown(context, noise)

    def count(rounds):
        seen.clear()
        verdict = VerifyConfig("auto", against="means")
        run(
            replace(QUICK, max_rounds=rounds, verify=verdict),
            model=replace(toy.model(), sample=sample), keep=[toy.context(4)],
        )  # fmt: skip
        return sum(seen)

    one, two, three = (count(n) for n in (1, 2, 3))
    assert three - two == two - one
    # a round's references, its target, and the picture of what was mined
    assert two - one == 16 + 1 + 1


@pytest.mark.parametrize(
    "outcome, verdict, words",
    [
        (Outcome(False, 0.08, 0.2, False, 1, "ink"), "gone",
         '"ink" is gone: nothing is found any more that produces it (score 0.08, threshold 0.20).'),
        (Outcome(True, 0.5, 0.2, False, 1, "ink"), "still there",
         '"ink" is still there after 1 round (score 0.50, threshold 0.20): raise max_rounds, or go '
         "on from this erasure."),
        (Outcome(True, 0.5, 0.2, False, 0), "still there",
         "The concept is still there and no round was run (score 0.50, threshold 0.20): raise "
         "max_rounds, or go on from this erasure."),
        (Outcome(False, 0.1, 0.2, True, 1, "ink"), "nothing erased", None),
    ],
)  # fmt: skip
def test_a_verdict_is_one_line_that_names_the_concept(outcome, verdict, words):
    assert outcome.verdict == verdict
    assert words is None or outcome.words == words


def test_a_long_name_leaves_room_for_the_verdict():
    words = Outcome(False, 0.1, 0.2, False, 1, "x" * 500).words
    assert words.startswith('"' + "x" * 60 + '…" is gone') and len(words) < 160


def test_every_stretch_of_a_run_is_timed():
    done = run()
    assert list(done.seconds) == ["opening", "round 1", "round 2", "last look"]
    assert all(s > 0 for s in done.seconds.values())
    assert list(run(replace(QUICK, verify=NEVER)).seconds) == ["opening", "round 1"]
