"""STEREO's last erasing steps by its formula, and its stages come as the paper has them."""

import pytest
import torch
from dark_miner.darkminer.compare.drawing import half_drawn
from dark_miner.darkminer.compare.esd import esd
from dark_miner.darkminer.compare.layers import adapters_on, layers_of_part
from dark_miner.darkminer.compare.stereo import (
    Spoken,
    StereoConfig,
    erase_once,
    search,
    stereo,
)
from dark_miner.darkminer.errors import DivergedError
from dark_miner.darkminer.rng import generator

from . import toy
from .test_attacks import Text
from .test_compare import close, plainly, stepped

TEMPLATES = ("a *", "a * drawing")


def spoken(text=None):
    return Spoken(
        text or Text(), TEMPLATES, [toy.context(0)[0], toy.context(1)[0]],
        [toy.context(20 + i)[0] for i in range(3)], toy.context(30)[0],
    )  # fmt: skip


def pictures():
    return torch.ones(2, toy.CHANNELS, 2, 2)


def short(**changes):
    return StereoConfig(**{
        "steps": 3, "lr": 0.05, "lr_late": 0.05, "draw_steps": 4, "rounds": 2, "search_steps": 5,
        "search_lr": 0.1, "search_batch": 2, **changes,
    })  # fmt: skip


def test_the_last_erasing_steps_by_the_compositional_objective():
    model, seed, said = toy.model(), 3, spoken()
    found = [list(said.concept), *([toy.context(i)[0], toy.context(i + 1)[0]] for i in (40, 50))]
    config = StereoConfig(**plainly(draw_steps=4, batch=2, toward=1.3, away=0.7))
    gen = generator(seed, 0, "compare.stereo")
    who, how, which = (int(torch.randint(n, (), generator=gen)) for n in (3, 2, 3))
    student = found[who][how]
    noisy, index = half_drawn(model, student, said.empty, 2, gen, steps=4, guidance=3.0)

    def loss(answer):
        def original(context):
            return model.network(noisy, index.float(), context.expand(2, -1, -1))

        empty, anchor = original(said.empty), original(said.anchors[which])
        one, two, three = (original(wordings[how]) - empty for wordings in found)
        wanted = empty + 1.3 * (anchor - empty) - 0.7 * (one + two + three) / 3
        own = answer(noisy, index.float(), student.expand(2, -1, -1))
        return (own - wanted).square().flatten(1).sum(1).mean()

    up, down = stepped(model.network, layers_of_part(model, "x"), toy.LORA, seed, loss)
    adapters = adapters_on(model, "x", toy.LORA, seed)
    losses = erase_once(model, adapters, said, found, config, seed=seed)
    close(adapters.state(), up, down)
    adapters.remove()
    assert losses == pytest.approx([float(loss(model.network))], rel=1e-5)


def test_each_token_is_searched_on_what_was_erased_so_far_and_the_end_begins_anew():
    model, said, config, seed = toy.model(), spoken(), short(), 1
    adapters = adapters_on(model, "all", toy.LORA, seed)
    searched, losses = stereo(model, adapters, said, pictures(), config, seed=seed)
    made = adapters.state()
    adapters.remove()
    assert len(searched) == 6 and len(losses) == 3

    found, adapters = [list(said.concept)], adapters_on(model, "all", toy.LORA, seed)
    for round_ in (1, 2):
        esd(model, adapters, found[-1], said.empty, config, seed=seed, stage="stereo",
            round_=round_)  # fmt: skip
        token = said.text.embedding("picture")[None]
        token = search(model, said, pictures(), token, config, seed=seed, round_=round_)
        found.append([said.text([t], token)[0] for t in TEMPLATES])
    adapters.remove()
    assert not torch.allclose(found[1][0], found[2][0], atol=1e-2)
    adapters = adapters_on(model, "all", toy.LORA, seed)
    assert erase_once(model, adapters, said, found, config, seed=seed) == losses
    again = adapters.state()
    assert all(torch.equal(made.up[n], again.up[n]) for n in again.up)
    assert all(torch.equal(made.down[n], again.down[n]) for n in again.down)


def test_reports_tell_the_turns_apart():
    model, told = toy.model(), []
    adapters = adapters_on(model, "x", toy.LORA, 0)
    stereo(model, adapters, spoken(), pictures(), short(), seed=0, report=told.append)
    turns = dict.fromkeys((r.round, r.part) for r in told)
    assert list(turns) == [(1, ""), (1, "search"), (2, ""), (2, "search"), (0, "")]
    assert {r.stage for r in told} == {"stereo"}


def test_contexts_of_a_token_that_are_no_numbers_are_not_erased():
    class Broken(Text):
        def forward(self, prompts, vectors):
            return super().forward(prompts, vectors) * float("nan")

    model = toy.model()
    adapters = adapters_on(model, "x", toy.LORA, 0)
    with pytest.raises(DivergedError):
        stereo(model, adapters, spoken(Broken()), pictures(), short(), seed=0)
