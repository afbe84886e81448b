"""Pictures before and after: the same noise, the model as it was, and where they stand."""

from dataclasses import replace

import pytest
import torch
from dark_miner.darkminer.method.loop import new_adapters
from dark_miner.darkminer.method.shown import EACH, STAGE, before_and_after
from dark_miner.darkminer.model.adapter import frozen_digest
from dark_miner.darkminer.model.sampling import draw_images, seeded_noise
from dark_miner.darkminer.progress.plan import shown_part
from dark_miner.darkminer.report.page import as_page
from dark_miner.darkminer.report.told import told_of
from dark_miner.darkminer.rng import generator

from . import toy
from .test_guard import moved
from .test_progress import SAMPLING
from .test_report_page import CONCEPT, Read, run  # noqa: F401  (a fixture)

PROMPTS = [("a <b>cat</b>", toy.context(1)[0]), ("a photo", toy.context(2, length=5)[0])]


@pytest.fixture
def state():
    adapters = new_adapters(toy.model(), toy.LORA, seed=0)
    moved(adapters, 0.4)
    return adapters.state()


def test_both_start_from_one_noise_and_the_network_stays_as_it_is(state):
    model, seen = toy.model(), []
    digest = frozen_digest(model.network)
    names = [name for name, _ in model.network.named_modules()]
    found = before_and_after(model, state, toy.LORA, PROMPTS, seed=4, report=seen.append)
    assert frozen_digest(model.network) == digest
    assert [name for name, _ in model.network.named_modules()] == names
    noise = seeded_noise(model, EACH, generator(4, 0, "report"))
    for shown, (prompt, context) in zip(found, PROMPTS, strict=True):
        assert shown.prompt == prompt and shown.before.shape == (EACH, 2, 2, 3)
        assert torch.equal(shown.before, draw_images(toy.model(), [context] * EACH, noise))
        erased = toy.model()
        new_adapters(erased, toy.LORA, seed=9, state=state)
        assert torch.equal(shown.after, draw_images(erased, [context] * EACH, noise))
        assert not torch.equal(shown.before, shown.after)
    part = shown_part(len(PROMPTS), SAMPLING)
    assert all(part.answers(r) for r in seen) and part.stage == STAGE and part.cost > 0
    assert (seen[-1].step, seen[-1].steps) == (2 * EACH * 2,) * 2


def test_an_error_on_the_way_leaves_the_network_as_it_was(state):
    model = toy.model()

    def stopped(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        before_and_after(model, state, toy.LORA, PROMPTS, seed=4, report=stopped)
    assert not [n for n, _ in model.network.named_parameters() if "lora" in n]


def test_the_page_shows_them_side_by_side_and_is_the_same_without(run, state):  # noqa: F811
    done, about, told = run
    shown = before_and_after(toy.model(), state, toy.LORA, PROMPTS, seed=4)
    with_them = told_of(done, toy.pool(), shown)
    assert replace(with_them, shown=()) == told
    page = as_page(about, with_them, "erase.safetensors")
    read = Read(page)
    assert read.open == [] and "a <b>cat</b>" in read.words and CONCEPT in read.words
    assert page.index("Before and after") < page.index(">Rounds<")
    for prompt, pairs in with_them.shown:
        assert len(pairs) == EACH and prompt in ("a <b>cat</b>", "a photo")
        assert all(page.index(before) < page.index(after) for before, after in pairs)
    assert "Before and after" not in as_page(about, told, "erase.safetensors")
