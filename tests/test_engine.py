"""The one engine: rows are planned, the teacher is asked ahead, and only adapters take a step."""

from dataclasses import replace

import pytest
import torch
from dark_miner.darkminer.method.circumvent import CircumventConfig, plan_erasing
from dark_miner.darkminer.method.engine import (
    Plan,
    Targets,
    asked_ahead,
    join,
    noised,
)
from dark_miner.darkminer.method.loop import new_adapters
from dark_miner.darkminer.method.losses import squared_error
from dark_miner.darkminer.method.optim import SIZE, TrainingConfig
from dark_miner.darkminer.method.trainer import Trainer, predict_rows
from dark_miner.darkminer.rng import generator
from dark_miner.darkminer.types import EmbeddingPool, MinedEmbedding, StepReport, silent

from . import toy

SHAPE = (toy.CHANNELS, toy.SIDE, toy.SIDE)


def randomised(model, seed=1):
    """Adapters that already say something, so that student and teacher differ."""
    adapters = new_adapters(model, toy.LORA, seed=0)
    for p in adapters.parameters():
        p.data.normal_(generator=torch.Generator().manual_seed(seed))
    return adapters


def numbers(count, seed=0):
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(seed))


def rows(count=3, weight=None, seed=5):
    return Targets(
        numbers(count, seed), torch.arange(count).float(),
        [toy.context(30 + i, 3 + i % 2)[0] for i in range(count)], numbers(count, seed + 1),
        torch.ones(count) if weight is None else torch.tensor(weight),
    )  # fmt: skip


def test_a_row_wants_its_reference_and_as_far_past_it_as_eta_says():
    plan = Plan(torch.tensor([2.0, 3.0]).view(2, 1, 1, 1), torch.tensor([4.0, 5.0]))
    here, there = toy.context(0)[0], toy.context(1)[0]
    anchor, concept = plan.ask(1, here), plan.ask(1, there)
    plan.want(1, there, 0.5, anchor, concept, 2.0)
    plan.want(0, here, 0.25, plan.ask(0, here))
    assert [(i, len(c)) for i, c in plan.questions] == [(1, 3), (1, 3), (0, 3)]
    found = plan.targets(torch.tensor([10.0, 12.0, 7.0]).view(3, 1, 1, 1))
    assert found.answer.flatten().tolist() == [10.0 - 2.0 * (12.0 - 10.0), 7.0]
    assert found.noisy.flatten().tolist() == [3.0, 2.0] and found.timestep.tolist() == [5.0, 4.0]
    assert found.contexts == [there, here] and found.weight.tolist() == [0.5, 0.25]


def test_weights_are_scaled_and_parts_follow_one_another():
    one, two = rows(2, [1.0, 3.0]), rows(3, [2.0, 2.0, 2.0], seed=9)
    both = join([one.scaled(4.0), two])
    assert both.weight.tolist() == [0.25, 0.75, 2.0, 2.0, 2.0] and len(both) == 5
    assert torch.equal(both.noisy, torch.cat([one.noisy, two.noisy]))
    assert torch.equal(both.answer, torch.cat([one.answer, two.answer]))
    assert both.contexts == [*one.contexts, *two.contexts]


def test_noisy_pictures_are_the_schedules_and_remember_their_noise():
    model, pictures = toy.model(), numbers(6)
    made = noised(model, pictures, generator(0, 0, "x"))
    index = made.timestep.long()  # the toy tells its network the level's number
    assert len(index.unique()) > 1
    assert torch.equal(made.noisy, model.schedule.add_noise(pictures, made.truth, index))
    again = noised(model, pictures, generator(0, 0, "x"))
    assert torch.equal(again.noisy, made.noisy)


def test_the_student_is_asked_with_gradients_and_the_teacher_never_changes():
    model, given = toy.model(), rows()
    adapters = randomised(model)
    student = predict_rows(model, given)
    assert student.requires_grad
    with adapters.off():
        teacher = predict_rows(model, given)
    assert torch.equal(teacher, predict_rows(toy.model(), given))
    assert not torch.allclose(student, teacher, atol=1e-3)


def planned(count, size, seen):
    """A plan whose step asks ``size`` questions; notes what was planned and with what draws."""
    gen = torch.Generator().manual_seed(3)

    def plan(step):
        seen.append(step)
        made = Plan(torch.randn(size, *SHAPE, generator=gen), torch.arange(size).float())
        for i in range(size):
            context = toy.context(step, 3 + i % 2)[0]
            made.want(i, context, 1.0, made.ask(i, context))
        return [made]

    return plan


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_the_teacher_answers_every_steps_own_rows_however_many_it_is_asked_at_once(batch):
    model = replace(toy.model(), batch=batch)
    adapters, seen, passes = randomised(model), [], []

    def denoise(x, timestep, context):
        passes.append(len(x))
        assert not torch.is_grad_enabled()
        return model.network(x, timestep, context)

    watched = replace(model, denoise=denoise)
    batches = asked_ahead(watched, adapters, planned(2, 2, seen), 7, 5)
    found = [given for batch in batches for given in batch]
    assert seen == list(range(7)) and len(found) == 7
    assert max(passes) <= 2 * batch and sum(passes) == 14
    gen = torch.Generator().manual_seed(3)
    for step, given in enumerate(found):
        assert torch.equal(given.noisy, torch.randn(2, *SHAPE, generator=gen))
        assert torch.equal(given.contexts[0], toy.context(step)[0])
        with torch.no_grad():
            assert torch.allclose(given.answer, predict_rows(toy.model(), given), atol=1e-5)


def test_no_question_looks_beyond_what_the_student_may_change():
    """Of 64 steps that would fit, only those up to the next block are planned."""
    model, seen, beyond = replace(toy.model(), batch=64), [], []
    batches = asked_ahead(model, randomised(model), planned(2, 2, seen), 7, 3)
    for batch in batches:
        first = len(beyond)
        beyond += [seen[-1]] * len(batch)
        assert seen[-1] // 3 == first // 3
    assert beyond == [2, 2, 2, 5, 5, 5, 6]


def test_what_begins_where_a_batch_ended_is_asked_the_same():
    model = replace(toy.model(), batch=2)
    adapters, plan = randomised(model), planned(2, 2, [])
    batches = list(asked_ahead(model, adapters, plan, 7, 3))
    ends = [sum(map(len, batches[: i + 1])) for i in range(len(batches))]
    assert len(ends) > 3 and ends[-1] == 7
    for i, end in enumerate(ends[:-1]):
        later = planned(2, 2, [])
        for step in range(end):
            later(step)  # what the steps before have drawn
        rest = list(asked_ahead(model, adapters, later, 7, 3, end))
        assert [len(batch) for batch in rest] == [len(batch) for batch in batches[i + 1 :]]
        for ours, theirs in zip(rest, batches[i + 1 :], strict=True):
            for one, other in zip(ours, theirs, strict=True):
                assert torch.equal(one.answer, other.answer)


def trainer(model, adapters, report=silent, **config):
    """Its rates and clips are what is given, whatever the latents' size."""
    given = {"lr": 0.1, "lr_late": 0.1, "clip": 1e9, **config}
    ratio = toy.CHANNELS * toy.SIDE**2 / SIZE
    given |= {"lr": given["lr"] * ratio, "lr_late": given["lr_late"] * ratio}
    config = TrainingConfig(**{**given, "clip": given["clip"] / ratio})
    return Trainer(model, adapters, config, stage="circumvent", round_=2, report=report)


def test_a_step_goes_down_the_weighted_sum_of_squared_errors():
    model, given = toy.model(), rows(3, [0.5, 2.0, 0.0])
    adapters = randomised(model)
    before = [p.detach().clone() for p in adapters.parameters()]
    errors = squared_error(predict_rows(model, given), given.answer)
    loss = 0.5 * errors[0] + 2.0 * errors[1]
    wanted = torch.autograd.grad(loss, adapters.parameters())
    training = trainer(model, adapters)
    assert training.step(lambda: given) == ()
    for p, old, gradient in zip(adapters.parameters(), before, wanted, strict=True):
        assert torch.allclose(p.detach(), old - 0.1 * gradient, atol=1e-6)
    assert training.losses() == [pytest.approx(float(loss.detach()), rel=1e-5)]


def test_the_gradient_is_clipped_over_all_adapters_together():
    model, given = toy.model(), rows(3)
    adapters = randomised(model)
    before = [p.detach().clone() for p in adapters.parameters()]
    trainer(model, adapters, clip=0.25, lr=1.0, lr_late=1.0).step(lambda: given)
    moved = [p.detach() - old for p, old in zip(adapters.parameters(), before, strict=True)]
    norm = torch.cat([m.flatten() for m in moved]).norm()
    assert float(norm) == pytest.approx(0.25, rel=1e-3)


def test_the_late_rate_counts_from_its_step_on_and_every_step_is_reported():
    model, given, seen = toy.model(), rows(1), []
    adapters = randomised(model)
    training = trainer(
        model, adapters, seen.append, steps=3, lr=1e-3, lr_late=1e-30, lr_drop=2, optimizer="adam"
    )
    moved = []
    for _ in range(3):
        before = [p.detach().clone() for p in adapters.parameters()]
        training.step(lambda: given)
        pairs = zip(adapters.parameters(), before, strict=True)
        moved.append(any(not torch.equal(p.detach(), old) for p, old in pairs))
    assert moved == [True, True, False]
    assert all(isinstance(r, StepReport) for r in seen)
    assert [(r.stage, r.round, r.step, r.steps) for r in seen] == [
        ("circumvent", 2, i, 3) for i in (1, 2, 3)
    ]


def test_contexts_may_take_gradients_of_their_own_from_the_same_answers():
    """What attackers are made of: the pass is shared, the loss is not."""
    model = toy.model()
    adapters = randomised(model)
    free = toy.context(50)[0].clone().requires_grad_(True)
    given = rows(1)
    given = replace(given, contexts=[free])
    truth = numbers(1, 77)

    def mining(answers):
        return torch.autograd.grad(squared_error(answers, truth).sum(), [free], retain_graph=True)

    (expected,) = torch.autograd.grad(
        squared_error(predict_rows(model, given), truth).sum(), [free]
    )
    (found,) = trainer(model, adapters).step(lambda: given, mining)
    assert torch.allclose(found, expected, atol=1e-6)
    assert free.grad is None, "the erasing loss leaves nothing in the attackers"
    assert not any(p.requires_grad for n, p in model.network.named_parameters() if "lora" not in n)


def test_directions_that_are_closed_stay_closed_in_every_step():
    model = toy.model()
    adapters = randomised(model)
    direction = torch.eye(toy.WIDTH)[:1]
    adapters.close({"attn2.to_v": direction})
    training = trainer(model, adapters, optimizer="adam")
    for _ in range(5):
        training.step(lambda: rows(3))
        down = adapters.state().down["attn2.to_v"]
        assert float((down @ direction.mT).abs().max()) < 1e-6 < float(down.abs().max())


def erasing(**changes):
    """Equations 7 and 8 on two embeddings of the newest round, one with an anchor of its own."""
    model = toy.model()
    shown = toy.pool().latents[:2]
    entries = (
        MinedEmbedding(toy.context(1)[0], 1, latents=shown),
        MinedEmbedding(toy.context(2, 5)[0], 1, anchor=toy.context(3, 4)[0], latents=shown),
    )
    config = CircumventConfig(batch=6, r=1.0, alpha_c=3.0, alpha_p=0.6, **changes)
    adapters = new_adapters(model, toy.LORA, seed=0)
    pool = EmbeddingPool(entries, round=1)
    plan = plan_erasing(model, adapters, pool, toy.context(0), config, generator(0, 1, "x"))
    return plan, plan.targets(numbers(len(plan.questions)))


def test_equations_7_and_8_are_rows_whose_weights_are_means_over_the_batch():
    plan, found = erasing()
    assert len(plan.questions) == 6 * 3 and len(found) == 6 * 4  # c0, 0c, -c, and c once more
    assert found.weight[:6].tolist() == pytest.approx([3.0 / 6] * 6)
    assert found.weight[6:].tolist() == pytest.approx([0.6 / 6] * 18)
    anchors = {3: toy.context(0)[0], 5: toy.context(3, 4)[0]}
    assert {len(c) for c in found.contexts[:6]} == {3, 5}, "both embeddings were drawn"
    answers = numbers(18)
    for i, context in enumerate(found.contexts[:6]):
        at, asked = plan.questions[i]
        assert at == i and torch.equal(asked, anchors[len(context)])
        assert torch.equal(found.answer[i], answers[i])  # equation 7: e(c) -> e0(c0)
        assert torch.equal(found.contexts[6 + i], asked)  # equation 8: e(c0) -> e0(c0)
        assert torch.equal(found.answer[6 + i], answers[i])
        zero, negative = found.contexts[12 + 2 * i : 14 + 2 * i]
        assert not zero.any() and torch.equal(negative, -context)
        assert torch.equal(found.noisy[12 + 2 * i], plan.noisy[i])


def test_past_the_anchor_the_teacher_is_asked_about_the_concept_as_well():
    plan, found = erasing(eta=2.0, preserved=())
    assert len(plan.questions) == 12 and len(found) == 6
    answers = numbers(12)
    assert torch.allclose(found.answer, answers[:6] - 2.0 * (answers[6:] - answers[:6]))
    for (at, asked), context in zip(plan.questions[6:], found.contexts, strict=True):
        assert torch.equal(asked, context) and 0 <= at < 6


def test_a_concept_may_be_held_against_another_anchor_than_the_reference():
    plan = Plan(torch.ones(1, 1, 1, 1), torch.ones(1))
    anchor, concept, unrelated = (plan.ask(0, toy.context(i)[0]) for i in range(3))
    plan.want(0, toy.context(2)[0], 1.0, unrelated, concept, 2.0, anchor=anchor)
    found = plan.targets(torch.tensor([10.0, 13.0, 50.0]).view(3, 1, 1, 1))
    assert found.answer.flatten().tolist() == [50.0 - 2.0 * (13.0 - 10.0)]
