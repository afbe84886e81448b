"""Against self-deception: the teacher is the original in every step, and only adapters move.

A trial once trained the weights themselves together with the adapters: the teacher moved with the
student, and every figure looked splendid.
"""

import hashlib
from dataclasses import replace

import torch
from dark_miner.darkminer.config import PAPER
from dark_miner.darkminer.method.chase import ChaseConfig
from dark_miner.darkminer.method.loop import erase
from dark_miner.darkminer.method.mine import MineConfig
from dark_miner.darkminer.method.retain import RetainConfig
from dark_miner.darkminer.model.adapter import frozen_digest
from torch import Tensor

from . import toy
from .test_chase import bank, space, start

QUICK = MineConfig(length=2, k=2, batch=2, steps=4, lr_drop=2, count=2, tokens=1)


SMALL = replace(
    PAPER.circumvent, steps=4, lr_drop=3, lr=0.05, optimizer="adam", eta=2.0, images=2,
)  # fmt: skip
SETTINGS = replace(
    PAPER, max_rounds=2, text_start=True, lora=toy.LORA, mine=QUICK, circumvent=SMALL, start=SMALL,
    verify=replace(PAPER.verify, threshold=-1.0),
    chase=ChaseConfig(steps=4, tokens=1, soft_prompts=(1,), life=4, anchor_batch=2, unrelated=2),
    retain=RetainConfig(weight=1.0, batch=2),
)  # fmt: skip


def bytes_of(tensors):
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


def run(report, model):
    return erase(
        model, toy.encode, toy.pool(), toy.context(9), SETTINGS, seed=0, start=start(),
        bank=bank(), text=space(), report=report,
    )  # fmt: skip


def test_no_weight_moves_in_any_step_of_any_stage():
    model = toy.model()
    original = frozen_digest(model.network)
    stages: set[str] = set()

    def report(r):
        # Mining merges the adapters for a while: then the sum stands in the weights' place.
        if r.stage != "mine":
            assert frozen_digest(model.network) == original, (r.stage, r.step)
        stages.add(r.stage)

    done = run(report, model)
    assert {"circumvent", "chase", "mine", "verify"} <= stages
    assert any(bool(up.any()) for up in done.adapters.up.values())
    assert bytes_of(model.network.state_dict()) == bytes_of(toy.Denoiser().state_dict())
    assert not any(p.requires_grad for p in model.network.parameters())


def test_the_teacher_answers_as_the_original_in_every_step():
    """Whenever adapters are off, the network is the original, bit for bit."""
    model, original = toy.model(), toy.Denoiser()
    asked = {"teacher": 0, "student": 0}

    def listening(x: Tensor, timestep: Tensor, context: Tensor) -> Tensor:
        answer = model.network(x, timestep, context)
        expected = original(x, timestep, context)
        layers = [m for m in model.network.modules() if hasattr(m, "disable_adapters")]
        if layers and all(m.disable_adapters for m in layers):  # type: ignore[union-attr]
            assert torch.equal(answer, expected)
            asked["teacher"] += 1
        elif not torch.equal(answer, expected):
            asked["student"] += 1
        return answer

    run(lambda r: None, replace(model, denoise=listening))
    assert asked["teacher"] > 10 and asked["student"] > 10


def test_optimisers_hold_the_adapters_and_nothing_else(monkeypatch):
    """Whatever a stage optimises is an adapter, an embedding or a token: no weight."""
    model = toy.model()
    weights = {id(p) for p in model.network.parameters()}
    held = []
    before = torch.optim.Optimizer.__init__

    def watch(self, params, defaults):
        params = list(params)
        held.extend(params)
        before(self, params, defaults)

    monkeypatch.setattr(torch.optim.Optimizer, "__init__", watch)
    run(lambda r: None, model)
    assert held and not [p for p in held if id(p) in weights]
