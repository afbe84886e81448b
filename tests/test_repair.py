"""Repairing on the toy: what is retained comes back, and guards hold the concept where it is."""

from dataclasses import replace

import pytest
import torch
from dark_miner.darkminer.config import FAST, PAPER
from dark_miner.darkminer.errors import DarkMinerError, SettingError
from dark_miner.darkminer.method.engine import Plan
from dark_miner.darkminer.method.loop import erase
from dark_miner.darkminer.method.losses import squared_error
from dark_miner.darkminer.method.repair import RepairConfig, _guards, repair
from dark_miner.darkminer.method.retain import Retain, RetainConfig
from dark_miner.darkminer.model.adapter import frozen_digest
from dark_miner.darkminer.rng import generator

from . import test_chase as chased
from . import toy
from .test_loop import QUICK

CONFIG = RepairConfig(steps=60, lr=2e-2, lr_late=5e-3, lr_drop=40, batch=2, replay=2, unrelated=1)
RETAIN = RetainConfig(weight=1.0, batch=2)


def erased(model):
    """Adapters and embeddings of a chase that pushed hard and kept nothing."""
    config = replace(chased.QUICK, steps=30, lr=2e-2, lr_late=2e-2)
    return chased.run(model, config, RetainConfig(weight=0.0))


def drift(model, adapters, context, seed=0):
    """How far the student is from the teacher under a context, on noisy pictures."""
    gen = torch.Generator().manual_seed(seed)
    noisy = torch.randn(16, toy.CHANNELS, toy.SIDE, toy.SIDE, generator=gen)
    t, c = torch.arange(16).float() % toy.LEVELS, context[None].expand(16, -1, -1)
    with torch.no_grad():
        made = model.denoise(noisy, t, c)
        with adapters.off():
            return float(squared_error(made, model.denoise(noisy, t, c)).mean())


def repaired(config=CONFIG, retain=RETAIN, seed=0):
    model = toy.model()
    adapters, done = erased(model)
    before = [drift(model, adapters, c) for c in chased.bank().contexts]
    moved = drift(model, adapters, toy.context(1)[0])
    digest = frozen_digest(model.network)
    losses = repair(
        model, adapters, done.embeddings, toy.context(0), config, seed=seed,
        retain=Retain(retain, chased.bank()),
    )  # fmt: skip
    assert frozen_digest(model.network) == digest and len(losses) == config.steps
    after = [drift(model, adapters, c) for c in chased.bank().contexts]
    return sum(before), sum(after), moved, drift(model, adapters, toy.context(1)[0]), adapters


def test_what_is_retained_comes_back():
    before, after, *_ = repaired()
    assert after < 0.5 * before


def test_guards_hold_what_training_on_the_retain_sets_alone_gives_back():
    *_, free, _ = repaired(replace(CONFIG, weight=0.0))
    *_, guarded, _ = repaired(replace(CONFIG, weight=3.0))
    assert guarded > 1.2 * free


def test_the_same_seed_repairs_alike():
    one, same, other = (repaired(seed=s)[-1].state() for s in (0, 0, 1))
    assert all(torch.equal(one.up[n], same.up[n]) for n in one.up)
    assert not all(torch.equal(one.up[n], other.up[n]) for n in one.up)


def test_guards_are_prompts_attackers_and_unrelated_prompts_on_the_concepts_pictures():
    model = toy.model()
    _, done = erased(model)
    gen = generator(0, 0, "repair")
    texts = [e for e in done.embeddings.entries if e.kind == "text"]
    others = [e for e in done.embeddings.entries if e.kind != "text"]
    bank = chased.bank().contexts
    plan = _guards(model, texts, others, toy.context(0), bank, CONFIG, gen)
    assert isinstance(plan, Plan) and len(plan.noisy) == 5
    assert len(plan.questions) == 2 * 5 + 1  # anchor and concept each, and the unrelated prompt
    answers = torch.randn(len(plan.questions), *plan.noisy.shape[1:])
    targets = plan.targets(answers)
    assert torch.allclose(targets.weight, torch.full((5,), CONFIG.weight / 5))
    wanted = answers[10] - CONFIG.eta * (answers[9] - answers[8])
    assert torch.allclose(targets.answer[4], wanted)
    wanted = answers[0] - CONFIG.eta * (answers[1] - answers[0])
    assert torch.allclose(targets.answer[0], wanted)


def test_a_run_repairs_after_its_chase_where_settings_ask_for_it():
    config = replace(
        QUICK, max_rounds=0, text_start=True, chase=chased.QUICK, repair=replace(CONFIG, steps=4)
    )
    seen = []
    done = erase(
        toy.model(), toy.encode, toy.pool(), toy.context(0), config, seed=0,
        start=chased.start(), bank=chased.bank(), text=chased.space(),
        report=lambda r: seen.append(r.stage),
    )  # fmt: skip
    assert len(done.losses["repair"]) == 4
    order = list(dict.fromkeys(seen))
    assert order.index("chase") < order.index("repair") < order.index("mine")


def test_a_repair_without_the_concepts_own_contexts_is_refused():
    model = toy.model()
    adapters, done = erased(model)
    others = tuple(e for e in done.embeddings.entries if e.kind != "text")
    with pytest.raises(DarkMinerError, match="needs the concept's own contexts"):
        repair(
            model, adapters, replace(done.embeddings, entries=others), toy.context(0), CONFIG,
            seed=0,
        )  # fmt: skip


def test_no_preset_repairs_unless_asked_and_a_repair_needs_a_text_start():
    assert FAST.repair.steps == PAPER.repair.steps == 0
    with pytest.raises(SettingError, match="repair.steps above 0"):
        replace(PAPER, repair=CONFIG)
