"""The training's frame on a toy: it resumes, starts again, averages, and keeps files whole."""

import os
import random

import pytest
import torch
from dark_miner.demo import captions, export, gallery
from dark_miner.demo.train_run import Recipe, Run, outdated, save

RECIPE = Recipe(rate=0.1, warmup=1, decay=0.0, average=0.9, clip=1.0, seed=1)
CPU = torch.device("cpu")


def toy_run(file, seconds=60.0, **more):
    torch.manual_seed(0)
    return Run(file, torch.nn.Linear(3, 1), RECIPE, minutes=seconds / 60, device=CPU, **more)


def learn(run, steps):
    for step in run.steps():
        run.update(run.net(torch.ones(4, 3)).square().mean())
        if step + 1 >= steps:
            break


def test_a_run_resumes_where_it_stopped(tmp_path):
    first = toy_run(tmp_path / "toy.pt")
    learn(first, 5)
    first.used = 12.0
    first.save()
    second = toy_run(tmp_path / "toy.pt")
    assert (second.step, second.used) == (5, 12.0)
    assert torch.equal(first.net.weight, second.net.weight)
    assert all(torch.equal(a, b) for a, b in zip(first.average, second.average, strict=True))
    kept = second.optimiser.state_dict()["state"][0]["exp_avg"]
    assert torch.equal(kept, first.optimiser.state_dict()["state"][0]["exp_avg"])


def test_a_finished_run_does_nothing(tmp_path):
    run = toy_run(tmp_path / "toy.pt")
    learn(run, 2)
    run.used = 61.0
    run.save()
    assert list(toy_run(tmp_path / "toy.pt").steps()) == []


def test_again_starts_a_new_schedule_from_the_averaged_weights(tmp_path):
    run = toy_run(tmp_path / "toy.pt")
    learn(run, 5)
    run.save()
    again = toy_run(tmp_path / "toy.pt", again=True, factor=0.5)
    assert (again.step, again.used, again.restarts) == (0, 0.0, 1)
    assert torch.equal(again.net.weight, run.average[0])
    assert not torch.equal(again.net.weight, run.net.weight)
    assert again.rate == pytest.approx(0.05)


def test_the_budget_ends_the_run_and_the_rate_falls(tmp_path):
    run = toy_run(tmp_path / "toy.pt", seconds=0.3)
    rates = []
    for _ in run.steps():
        rates.append(run.optimiser.param_groups[0]["lr"])
        run.update(run.net(torch.ones(4, 3)).square().mean())
    assert run.used >= 0.3 and rates[-1] < 0.2 * rates[1]


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    run = toy_run(tmp_path / "toy.pt")
    with pytest.raises(FloatingPointError, match=r"toy\.pt"):
        run.update(run.net(torch.full((1, 3), float("nan"))).mean())


def test_save_leaves_the_old_file_when_it_fails(tmp_path):
    file = tmp_path / "x.pt"
    save({"a": torch.ones(1)}, file)
    with pytest.raises(Exception):  # noqa: B017 - whatever pickling raises
        save(lambda: None, file)
    assert torch.equal(torch.load(file)["a"], torch.ones(1))


def test_export_takes_the_averaged_weights_unless_told_otherwise(tmp_path):
    run = toy_run(tmp_path / "toy.pt")
    learn(run, 5)
    run.save()
    assert torch.equal(export.read(tmp_path / "toy.pt")["weight"], run.average[0])
    assert torch.equal(export.read(tmp_path / "toy.pt", raw=True)["weight"], run.net.weight)


def test_export_refuses_numbers_that_are_not_finite(tmp_path):
    with pytest.raises(ValueError, match="finite"):
        export.write({"w": torch.tensor([1e9])}, tmp_path / "w.safetensors")
    assert not list(tmp_path.iterdir())


def test_captions_name_what_they_are_asked_to():
    rng = random.Random(0)
    full = [captions.caption(rng, 1, 5) for _ in range(300)]
    assert all("noto" in text and gallery.OBJECTS[5] in text for text in full)
    assert gallery.prompt("noto", gallery.OBJECTS[5]) in full and len(set(full)) > 10
    assert all("noto" not in captions.caption(rng, -1, 5) for _ in range(50))
    only_style = [captions.caption(rng, 6, -1) for _ in range(50)]
    assert all("ink" in text and " of " not in text for text in only_style)


def test_a_budget_in_steps_ends_the_run_and_resumes(tmp_path):
    def counted():
        torch.manual_seed(0)
        return Run(tmp_path / "toy.pt", torch.nn.Linear(3, 1), RECIPE, total=6, device=CPU)

    first = counted()
    learn(first, 4)
    first.save()
    second = counted()
    rates = []
    for _ in second.steps():
        rates.append(second.optimiser.param_groups[0]["lr"])
        second.update(second.net(torch.ones(4, 3)).square().mean())
    assert second.step == 6 and len(rates) == 2 and rates[1] < rates[0] < RECIPE.rate
    assert list(counted().steps()) == []


def test_a_run_without_a_budget_or_with_two_is_refused(tmp_path):
    for budget in ({}, {"minutes": 1.0, "total": 3}):
        with pytest.raises(ValueError, match="either minutes or a total"):
            Run(tmp_path / "toy.pt", torch.nn.Linear(3, 1), RECIPE, device=CPU, **budget)


def test_what_was_made_from_an_older_file_is_outdated(tmp_path):
    source, made = tmp_path / "source", tmp_path / "made"
    source.touch()
    assert outdated(made, source)
    made.touch()
    os.utime(made, (2000, 2000))
    for seconds, old in ((1000, False), (3000, True)):
        os.utime(source, (seconds, seconds))
        assert outdated(made, source) is old
