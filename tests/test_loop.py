from dataclasses import replace

import pytest
import torch
from dark_miner.darkminer.config import PAPER, EraseConfig
from dark_miner.darkminer.method.circumvent import CircumventConfig, circumvent
from dark_miner.darkminer.method.loop import erase, new_adapters
from dark_miner.darkminer.method.mine import MineConfig, mine
from dark_miner.darkminer.method.verify import VerifyConfig, verify
from dark_miner.darkminer.types import EmbeddingPool, MinedEmbedding

from . import toy
from .test_attack_verdict import _draws as draws

TRAIN = CircumventConfig(steps=6, images=1)
QUICK = EraseConfig(
    max_rounds=2,
    text_start=True,
    lora=toy.LORA,
    mine=MineConfig(length=3, k=2, batch=2, steps=5, lr_drop=3),
    verify=VerifyConfig(threshold=-1.0),
    circumvent=TRAIN,
    start=replace(TRAIN, steps=4),
)


def start():
    return EmbeddingPool((MinedEmbedding(toy.context(1)[0], 0, kind="text"),))


def run(config=QUICK, seed=0, model=None, **kwargs):
    return erase(
        model or toy.model(), toy.encode, toy.pool(), toy.context(0), config, seed=seed,
        start=start(), **kwargs,
    )  # fmt: skip


def equal(one, other):
    return all(torch.equal(one.up[n], other.up[n]) for n in one.up) and all(
        torch.equal(one.down[n], other.down[n]) for n in one.down
    )


def test_stages_come_in_order():
    seen = []

    def report(r):
        step = (r.part or r.stage, r.round)
        if not seen or seen[-1] != step:
            seen.append(step)

    done = run(report=report)
    assert seen == [
        ("pictures", 0), ("circumvent", 0),
        ("mine", 1), ("verify", 1), ("pictures", 1), ("circumvent", 1),
        ("mine", 2), ("verify", 2), ("pictures", 2), ("circumvent", 2),
        ("mine", 3), ("verify", 3),
    ]  # fmt: skip
    assert [h.round for h in done.embeddings.history] == [1, 2, 3]
    assert len(done.embeddings.entries) == 3 and done.embeddings.round == 2


def test_it_stops_when_verification_says_no():
    done = run(replace(QUICK, verify=VerifyConfig(threshold=1.0)))
    assert len(done.verdicts) == 1
    assert not done.embeddings.history[0].verified
    assert len(done.embeddings.entries) == 1, "what failed is dropped"


def test_same_seed_same_adapters():
    one, same, other = run(), run(), run(seed=1)
    assert equal(one.adapters, same.adapters)
    assert not equal(one.adapters, other.adapters)


def test_stages_one_by_one_in_sessions_of_their_own_give_the_same_adapters():
    """What a graph does: every stage starts from values and ends with values."""
    pool, anchor = toy.pool(), toy.context(0)
    embeddings, state = start(), None
    for round_ in (0, 1, 2):
        config = QUICK.circumvent if round_ else QUICK.start
        if round_:
            model = toy.model()
            adapters = new_adapters(model, QUICK.lora, seed=0, state=state)
            found = mine(
                model, pool, anchor, QUICK.mine, seed=0, round_=round_,
                concept_contexts=embeddings.text_tokens(),
            )  # fmt: skip
            embeddings = embeddings.opened(found.embeddings)
            model = toy.model()
            adapters = new_adapters(model, QUICK.lora, seed=0, state=state)
            verdict = verify(
                model, toy.encode, embeddings.current(), anchor, pool, QUICK.verify, seed=0,
                round_=round_, adapters=adapters,
            )  # fmt: skip
            embeddings = embeddings.judged(verdict)
        model = toy.model()
        adapters = new_adapters(model, QUICK.lora, seed=0, state=state)
        done = circumvent(model, adapters, embeddings, anchor, config, seed=0)
        embeddings, state = done.embeddings, adapters.state()
    assert equal(run().adapters, state)


def test_an_erasure_can_be_continued():
    first = run(replace(QUICK, max_rounds=1))
    rest = erase(
        toy.model(), toy.encode, toy.pool(), toy.context(0),
        replace(QUICK, max_rounds=1, text_start=False), seed=0, start=first.embeddings,
        state=first.adapters,
    )  # fmt: skip
    assert equal(rest.adapters, run().adapters)


@pytest.mark.parametrize("stage", ["mine", "verify", "circumvent"])
def test_an_error_leaves_the_network_as_it_was(stage):
    model = toy.model()
    before = {k: v.clone() for k, v in model.network.state_dict().items()}

    def stop(report):
        if report.stage == stage:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        erase(
            model, toy.encode, toy.pool(), toy.context(0), QUICK, seed=0, start=start(),
            report=stop,
        )  # fmt: skip
    after = model.network.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[k], before[k]) for k in before)


def test_without_a_limit_rounds_go_on_until_nothing_is_found():
    """Embeddings draw the concept until five rounds have trained, and something else from then."""
    shown, hidden = draws(toy.pool().latents), draws(-6.0 * torch.ones_like(toy.pool().latents))
    finished = []

    def sample(context, noise):
        return (shown if len(finished) < 5 else hidden)(context, noise)

    done = run(
        replace(QUICK, max_rounds=None, verify=VerifyConfig()),
        model=replace(toy.model(), sample=sample), on_round=finished.append,
    )  # fmt: skip
    assert [v.verified for v in done.verdicts] == [True] * 5 + [False]
    assert done.last is None and not done.outcome.there and not done.outcome.empty
    assert [h.round for h in done.embeddings.history] == [1, 2, 3, 4, 5, 6]
    assert EraseConfig().max_rounds is None is PAPER.max_rounds


def test_a_limit_is_never_passed_and_the_same_rounds_give_the_same_adapters():
    finished = []
    for rounds in (0, 1, 2):
        finished.clear()
        run(replace(QUICK, max_rounds=rounds), on_round=finished.append)
        assert len(finished) == rounds
    whole = run(replace(QUICK, max_rounds=3), on_round=finished.append)
    assert equal(finished[1].adapters, run().adapters)
    assert not equal(whole.adapters, run().adapters)


def test_a_reference_of_its_own_judges_and_trains_nothing():
    other = toy.context(70)
    plain, apart, anchored = run(), run(reference=other), run(reference=toy.context(0))
    assert equal(plain.adapters, apart.adapters)
    assert plain.score == anchored.score != apart.score
    for one, two in zip(plain.verdicts, apart.verdicts, strict=True):
        assert torch.equal(one.target, two.target)
        assert not torch.equal(one.reference, two.reference)
