"""Values as JSON and tensors, and back, bit for bit."""

import json
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from dark_miner.darkminer.config import FAST, PAPER, EraseConfig
from dark_miner.darkminer.errors import DarkMinerError
from dark_miner.darkminer.files.bounds import Damaged, json_bytes, parsed_json
from dark_miner.darkminer.files.converting import put_together, taken_apart
from dark_miner.darkminer.model.adapter import AdapterState
from dark_miner.darkminer.standing import (
    Figures,
    OptimizerState,
    StageState,
    generator_from,
    generator_state,
    optimizer_state,
    restore_optimizer,
)
from dark_miner.darkminer.types import (
    EmbeddingPool,
    ImagePool,
    MinedEmbedding,
    RetainSet,
    RoundRecord,
    Verdict,
)
from torch import Tensor

GEN = torch.Generator().manual_seed(3)


def randn(*shape):
    return torch.randn(*shape, generator=GEN)


POOL = ImagePool(
    randn(3, 4, 2, 5), torch.randint(256, (3, 8, 8, 3), generator=GEN).to(torch.uint8),
    "ink \ud800 梵", "a * drawing\n", 2**63 - 1, "abc+lora", "sd_v1", "SD15", "*",
)  # fmt: skip
TEXT = MinedEmbedding(randn(7, 6), 0, kind="text", prompt="ink", template="*")
TOKEN = MinedEmbedding(
    randn(5, 6), 2, (4, 0, 1), "token", anchor=randn(3, 6), score=-0.1, latents=randn(2, 4, 2, 5)
)
EMBEDDINGS = EmbeddingPool(
    (TEXT, TOKEN, MinedEmbedding(randn(1, 6), 2)), 2,
    (RoundRecord(1, (0.1, 1 / 3), 0.2, True), RoundRecord(2, (), -0.0, False)), "ink",
)  # fmt: skip
RETAIN = RetainSet((randn(7, 6), randn(2, 6)), randn(2, 3, 4, 2, 5), ("a", ""))
ADAPTERS = AdapterState(
    2, 1e-3, {"b.0.to_v": randn(6, 2), "a": torch.zeros(6, 2)},
    {"b.0.to_v": randn(2, 4), "a": -torch.zeros(2, 4)},
)  # fmt: skip
VERDICT = Verdict((0.25, -1.0), 0.1, True, randn(2, 8, 8, 3), torch.zeros(0, 8, 8, 3))
STAGE = StageState(
    "chase", 3, "a", 17, 0.5, ADAPTERS,
    {"chase": generator_state(torch.Generator().manual_seed(1))},
    {"a": OptimizerState("Adam", ({"step": torch.tensor(3.0)}, {})), "b": OptimizerState("SGD")},
    {"token": randn(3, 6), "drawn": torch.tensor([], dtype=torch.int64)}, [0.5],
)  # fmt: skip
FIGURES = Figures(
    {"mine 1": [math.pi * 10.0**-i for i in range(300)], "none": []}, {"mine 1": 0.1}, ("a", "b")
)
VALUES = [
    (POOL, ImagePool), (replace(POOL, latents=POOL.latents[:0], images=POOL.images[:0]), ImagePool),
    (TEXT, MinedEmbedding), (TOKEN, MinedEmbedding), (EMBEDDINGS, EmbeddingPool),
    (EmbeddingPool(), EmbeddingPool), (EMBEDDINGS.history[0], RoundRecord), (RETAIN, RetainSet),
    (RetainSet((), torch.zeros(0, 1, 4, 2, 2), ()), RetainSet), (ADAPTERS, AdapterState),
    (VERDICT, Verdict), ((VERDICT, VERDICT), tuple[Verdict, ...]), ((), tuple[Verdict, ...]),
    (STAGE, StageState), (StageState("mine", 1), StageState), (FIGURES, Figures),
    (PAPER, EraseConfig), (FAST, EraseConfig), (replace(FAST, max_rounds=0), EraseConfig),
    ({"a": [1, None, True, "x", {"b": 0.1}], "c": {}}, Any), (None, Any), (randn(2), Tensor),
]  # fmt: skip


def bits(value):
    """A value to the last bit: kinds, dtypes, shapes, signs of zeros."""
    if isinstance(value, Tensor):
        raw = value.contiguous().flatten().view(torch.uint8).tolist()
        return value.dtype, tuple(value.shape), raw
    if isinstance(value, float):
        return struct.pack("<d", value)
    if isinstance(value, dict):
        return [(k, bits(v)) for k, v in value.items()]
    if isinstance(value, (list, tuple)):
        return type(value), [bits(v) for v in value]
    if hasattr(value, "__dataclass_fields__"):
        return type(value), [bits(getattr(value, name)) for name in value.__dataclass_fields__]
    return type(value), value


def there_and_back(value, hint):
    plain, tensors = taken_apart(value, hint)
    return put_together(parsed_json(json_bytes(plain)), tensors, hint)


@pytest.mark.parametrize("value, hint", VALUES, ids=lambda v: getattr(v, "__name__", None))
def test_every_value_comes_back_to_the_last_bit(value, hint):
    back, assumed = there_and_back(value, hint)
    assert bits(back) == bits(value) and assumed == ()


@pytest.mark.parametrize("changed", [
    replace(TOKEN, score=0.1), replace(TOKEN, template="x"), replace(TOKEN, anchor=None),
    replace(TOKEN, indices=()), replace(TOKEN, context=-TOKEN.context), replace(TOKEN, round=1),
    replace(TOKEN, latents=None), replace(TOKEN, kind="soft"), replace(TOKEN, prompt="y"),
])  # fmt: skip
def test_no_field_of_an_embedding_is_left_behind(changed):
    assert bits(there_and_back(changed, MinedEmbedding)[0]) == bits(changed) != bits(TOKEN)


def test_a_list_of_contexts_and_views_come_back_as_values_of_their_own():
    joint = randn(2, 7, 6)
    back, _ = there_and_back(RetainSet(joint, RETAIN.latents, RETAIN.prompts), RetainSet)
    assert isinstance(back.contexts, tuple)
    assert all(torch.equal(a, b) for a, b in zip(back.contexts, joint, strict=True))


def test_losses_of_thousands_of_steps_take_no_room_in_the_json():
    plain, tensors = taken_apart(Figures({"mine 1": [0.1] * 100_000}), Figures)
    assert len(json_bytes(plain)) < 200
    assert tensors["losses.mine 1"].dtype == torch.float64


def nan(tensor):
    return torch.full_like(tensor, math.nan)


def inside(value, **fields):
    """A frozen value with other fields, none of its own checks made."""
    made = object.__new__(type(value))
    for name in value.__dataclass_fields__:
        object.__setattr__(made, name, fields.get(name, getattr(value, name)))
    return made


@pytest.mark.parametrize("value, hint, place", [
    (inside(POOL, latents=nan(POOL.latents)), ImagePool, "latents"),
    (inside(TOKEN, anchor=nan(TOKEN.anchor)), MinedEmbedding, "anchor"),
    (replace(TOKEN, score=math.nan), MinedEmbedding, "score"),
    (replace(TOKEN, score=math.inf), MinedEmbedding, "score"),
    (RoundRecord(1, (0.1, -math.inf), 0.1, True), RoundRecord, "scores.1"),
    (Figures({"mine 1": [0.1] * 99 + [math.nan]}), Figures, "losses.mine 1.99"),
    (replace(ADAPTERS, up={"b.0.to_v": nan(randn(6, 2)), "a": randn(6, 2)}), AdapterState, "b.0"),
    (StageState("mine", 1, tensors={"x": torch.tensor(math.inf)}), StageState, "tensors.x"),
    ({"a": [math.nan]}, Any, "a.0"),
])  # fmt: skip
def test_what_is_no_number_is_refused_with_its_place(value, hint, place):
    with pytest.raises(Damaged, match=place):
        taken_apart(value, hint)


@pytest.mark.parametrize("value, hint", [
    (inside(POOL, seed=True), ImagePool), (inside(POOL, seed=1.0), ImagePool),
    (inside(POOL, seed=10**30), ImagePool), (inside(POOL, concept=None), ImagePool),
    (inside(POOL, images=POOL.images.float()), ImagePool),
    (inside(POOL, images=POOL.images[:2]), ImagePool), (replace(TOKEN, kind="x"), MinedEmbedding),
    (replace(TOKEN, round=-1), MinedEmbedding), (replace(TOKEN, context=randn(6)), MinedEmbedding),
    (replace(TOKEN, anchor=randn(3, 5)), MinedEmbedding), (POOL, EmbeddingPool),
    (replace(RETAIN, prompts=("a",)), RetainSet), (replace(ADAPTERS, rank=3), AdapterState),
    (replace(ADAPTERS, down={}), AdapterState), (replace(ADAPTERS, alpha=0.0), AdapterState),
    (replace(EMBEDDINGS, entries="ab"), EmbeddingPool), ({1: 2}, Any), ({"a": {1, 2}}, Any),
    (StageState("x", 1, losses=["a"]), StageState), (np.float32(1), int),
    (StageState("x", 1, tensors={"a": torch.zeros(1, dtype=torch.complex64)}), StageState),
])  # fmt: skip
def test_what_could_not_be_read_back_is_not_written(value, hint):
    with pytest.raises(Damaged):
        taken_apart(value, hint)


def test_numpys_whole_numbers_and_whole_floats_become_what_the_field_says():
    said = RoundRecord(np.int64(3), (1,), 0, True)  # type: ignore[arg-type]
    back, _ = there_and_back(said, RoundRecord)
    assert bits(back) == bits(RoundRecord(3, (1.0,), 0.0, True))


def forged(change, value=EMBEDDINGS, hint=EmbeddingPool):
    plain, tensors = taken_apart(value, hint)
    plain, tensors = json.loads(json_bytes(plain)), dict(tensors)
    change(plain, tensors)
    return put_together(plain, tensors, hint)


@pytest.mark.parametrize("change, reason", [
    (lambda p, t: p.update(round="2"), "at round there is '2' where int belongs"),
    (lambda p, t: p.update(round=None), "at round"), (lambda p, t: p.update(more=1), "its top"),
    (lambda p, t: p["entries"][0].pop("context"), "at entries.0 MinedEmbedding lacks context"),
    (lambda p, t: p["entries"].append(3), "at entries.3 there is 3"),
    (lambda p, t: p.update(entries={}), "at entries there is dict"),
    (lambda p, t: p["entries"][1].update(kind="x" * 99), "'text' or 'soft' or 'token'"),
    (lambda p, t: p["entries"][1].update(context={"tensor": "entries.0.context"}), "entries.1"),
    (lambda p, t: p["entries"][1].update(context="entries.1.context"), "where Tensor belongs"),
    (lambda p, t: p["entries"][1].update(indices=[1, -1]), "is negative"),
    (lambda p, t: p["history"][0].update(verified=1), "at history.0.verified there is 1"),
    (lambda p, t: p["history"][0].update(threshold=10**22 + 1), "at history.0.threshold"),
    (lambda p, t: t.pop("entries.0.context"), "where Tensor belongs"),
    (lambda p, t: t.update({"x": torch.zeros(1)}), "a tensor 'x' that belongs nowhere"),
    (lambda p, t: t.update({"entries.0.context": nan(TEXT.context)}), "not finite"),
    (lambda p, t: t.update({"entries.0.context": torch.zeros(3)}), "context are"),
    (lambda p, t: t.update({"entries.0.context": TEXT.context.double()}), "context are"),
    (lambda p, t: t.update({"entries.1.anchor": torch.zeros(3, 5)}), "anchor are"),
])  # fmt: skip
def test_what_a_stranger_has_changed_is_one_reason(change, reason):
    with pytest.raises(Damaged, match=reason) as caught:
        forged(change)
    assert len(str(caught.value)) < 200


def test_settings_are_checked_by_their_own_rules_when_read():
    with pytest.raises(Damaged, match="at mine: MineConfig.lr is -1.0: it must be above 0"):
        forged(lambda p, t: p["mine"].update(lr=-1.0), FAST, EraseConfig)
    with pytest.raises(Damaged, match="at circumvent.optimizer there is 'muon'"):
        forged(lambda p, t: p["circumvent"].update(optimizer="muon"), FAST, EraseConfig)


def test_a_setting_that_is_newer_than_the_folder_has_its_default_and_is_named():
    back, assumed = forged(lambda p, t: p["mine"].pop("tokens"), FAST, EraseConfig)
    assert back == replace(FAST, mine=replace(FAST.mine, tokens=PAPER.mine.tokens))
    assert assumed == ("mine.tokens",)


@dataclass(frozen=True)
class Odd:
    x: Sequence[int]
    y: Literal[1, "a"] = 1
    z: "dict[str, dict[str, Tensor]] | None" = None


def test_any_dataclass_of_such_kinds_is_converted():
    assert there_and_back(Odd([1, 2], "a", {"a": {"b.c": randn(1)}}), Odd)[0].x == (1, 2)
    with pytest.raises(Damaged, match="two tensors have the place z.a.b.c"):
        taken_apart(Odd((), z={"a": {"b.c": randn(1)}, "a.b": {"c": randn(1)}}), Odd)
    with pytest.raises(Damaged, match="at y there is True"):
        taken_apart(Odd((), y=True), Odd)  # type: ignore[arg-type]


@pytest.mark.parametrize("drawn", [0, 1, 3, 623, 624, 1000])
def test_a_generator_goes_on_where_it_stood(drawn):
    gen = torch.Generator().manual_seed(5)
    torch.rand(drawn, generator=gen)
    torch.randn(1 + drawn % 2, generator=gen, dtype=torch.float64)
    back, _ = there_and_back({"a": generator_state(gen)}, dict[str, Tensor])
    other = generator_from(back["a"])
    for draw in (torch.rand, torch.randn):
        assert torch.equal(draw(700, generator=gen), draw(700, generator=other))
    assert torch.equal(gen.get_state(), other.get_state())


def spoilt(form, at, *values):
    state = bytearray(generator_state(torch.Generator().manual_seed(1)).numpy().tobytes())
    struct.pack_into(form, state, at, *values)
    return torch.frombuffer(state, dtype=torch.uint8)


@pytest.mark.parametrize("state", [
    torch.zeros(5056, dtype=torch.uint8), torch.full((5056,), 255, dtype=torch.uint8),
    torch.zeros(100, dtype=torch.uint8), torch.zeros(0, dtype=torch.uint8), torch.zeros(5056),
    torch.zeros(1, 5056, dtype=torch.uint8), spoilt("=i", 8, 0), spoilt("=i", 8, 700),
    spoilt("=iiQ", 8, 300, 1, 624), spoilt("=Q", 16, 1), spoilt("=Q", 16, 2**63),
    spoilt("=i", 12, 0),
    spoilt("=d", 5024, math.nan), spoilt("=f", 5048, math.inf),
])  # fmt: skip
def test_a_state_that_would_lead_torch_astray_is_refused(state):
    with pytest.raises(DarkMinerError, match="is none of this torch's"):
        generator_from(state)


def trained(kind, steps, restored=None):
    """Parameters after some steps of descent, the optimiser swapped half-way."""
    gen = torch.Generator().manual_seed(0)
    parameters = [torch.randn(3, 2, generator=gen, requires_grad=True),
                  torch.randn(4, generator=gen, requires_grad=True),
                  torch.zeros(1, requires_grad=True)]  # fmt: skip
    optimizer = kind(parameters, lr=0.1)
    for step in range(steps):
        if step == restored:
            kept, _ = there_and_back(optimizer_state(optimizer), OptimizerState)
            optimizer = kind(parameters, lr=0.1)
            restore_optimizer(optimizer, kept)
        for group in optimizer.param_groups:
            group["lr"] = 0.1 / (step + 1)
        for p in parameters[:2]:
            p.grad = torch.randn(p.shape, generator=gen)
        optimizer.step()
    return parameters, optimizer


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.SGD])
def test_an_optimiser_goes_on_as_if_it_had_never_stopped(kind):
    whole, interrupted = trained(kind, 9)[0], trained(kind, 9, restored=4)[0]
    assert all(torch.equal(a, b) for a, b in zip(whole, interrupted, strict=True))


def test_all_of_adams_state_is_kept():
    kept = optimizer_state(trained(torch.optim.Adam, 2)[1])
    assert kept.kind == "Adam" and [sorted(s) for s in kept.slots] == [
        ["exp_avg", "exp_avg_sq", "step"]
    ] * 2 + [[]]
    assert kept.slots[0]["step"] == 2 and kept.slots[1]["exp_avg"].shape == (4,)


@pytest.mark.parametrize("change, reason", [
    (lambda s: replace(s, kind="SGD"), "keeps SGD over 3 .* ask for Adam over 3"),
    (lambda s: replace(s, slots=s.slots[:2]), "over 2 tensors"),
    (lambda s: replace(s, slots=(s.slots[1], *s.slots[1:])), "tensor 1 does not fit"),
    (lambda s: replace(s, slots=({"step": torch.tensor(1.0)}, *s.slots[1:])), "does not fit"),
    (lambda s: replace(s, slots=({**s.slots[0], "x": torch.ones(1)}, *s.slots[1:])), "not fit"),
    (lambda s: replace(s, slots=({**s.slots[0], "step": torch.ones(2)}, *s.slots[1:])), "not fit"),
])  # fmt: skip
def test_another_optimisers_state_is_refused_in_one_sentence(change, reason):
    optimizer = trained(torch.optim.Adam, 2)[1]
    with pytest.raises(DarkMinerError, match=reason):
        restore_optimizer(optimizer, change(optimizer_state(optimizer)))


def test_an_optimiser_that_nobody_knows_is_not_kept():
    parameter = torch.zeros(2, requires_grad=True)
    parameter.grad = torch.ones(2)
    for optimizer in (torch.optim.RMSprop([parameter]), torch.optim.SGD([parameter], momentum=0.9)):
        optimizer.step()
        with pytest.raises(DarkMinerError, match="use adam, or sgd without momentum"):
            optimizer_state(optimizer)
