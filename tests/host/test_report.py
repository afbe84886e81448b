"""The report picture is readable whatever a run has come to."""

import importlib
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

pytestmark = pytest.mark.host

WIDTH = 1600
THRESHOLD = 0.2


@pytest.fixture(scope="module")
def tools(hosted):
    names = {
        "types": "darkminer.types", "loop": "darkminer.method.loop", "page": "nodes.erase.page",
        "adapter": "darkminer.model.adapter", "report": "nodes.erase.report",
    }  # fmt: skip
    found = {k: importlib.import_module(f"dark_miner.{v}") for k, v in names.items()}
    return SimpleNamespace(**found)


def verdict(tools, *scores, side=8):
    made = torch.rand(len(scores), side, side, 3)
    there = max(scores) > THRESHOLD
    return tools.types.Verdict(scores, THRESHOLD, there, made, 1 - made)


def done(tools, rounds=(), last=None, concept="ink", before=(), side=8, trained=1.0, **given):
    state = tools.adapter.AdapterState(
        1, 1.0, {"a": torch.full((2, 1), trained)}, {"a": torch.ones(1, 2)}
    )
    history = tuple(
        tools.types.RoundRecord(i, scores, THRESHOLD, max(scores) > THRESHOLD)
        for i, scores in enumerate(before, start=1)
    )
    pool = tools.types.EmbeddingPool((), len(before) + len(rounds), history, concept)
    verdicts = tuple(verdict(tools, *scores, side=side) for scores in rounds)
    look = verdict(tools, *last, side=side) if last else None
    return tools.loop.Erasure(state, pool, verdicts, last=look, **given)


def picture(tools, *args, **given):
    made = tools.report.report_picture(done(tools, *args, **given))
    assert made.ndim == 4 and made.shape[0] == 1 and made.shape[3] == 3
    assert made.shape[2] == WIDTH and 0 <= float(made.min()) and float(made.max()) == 1
    for edge in (made[0, :4], made[0, -4:], made[0, :, :4], made[0, :, -4:]):
        assert bool((edge == 1).all()), "nothing reaches the page's edge"
    return made[0]


@pytest.mark.parametrize(
    "rounds, last, given",
    [
        ([(0.1,)], None, {}),
        ([(0.4, 0.1)], (0.1, 0.0), {}),
        ([(0.5,) * 17] * 4, (0.1,) * 17, {}),
        ([(0.5, 0.3)] * 60, (0.4, 0.1), {}),
        ([], (0.5,), {}),
        ([], None, {}),
        ([(-0.5,)], None, {}),
        ([(0.1,)], None, {"trained": 0.0}),
        ([(0.4,)], (0.1,), {"before": ((0.9, 0.1), (0.6,))}),
        ([(0.4, 0.2)], (0.1, 0.1), {"side": 1}),
        ([(0.4, 0.2)], (0.1, 0.1), {"side": 1024}),
        ([(0.4,)], (0.1,), {"concept": "x" * 500}),
        ([(0.4,)], (0.1,), {"concept": "a painting of many words " * 30}),
        ([(0.4,)], (0.1,), {"concept": "梵高 🎨 Dalí \ud800"}),
        ([(0.4,)], (0.1,), {"concept": ""}),
        ([(0.4,)], (0.1,), {"seconds": {"opening": 4000.0, "round 1": 0.01, "last look": 70.0}}),
    ],
)
def test_every_run_has_a_page_of_one_width(tools, rounds, last, given):
    page = picture(tools, rounds, last, **given)
    assert 400 < page.shape[0] <= 3600


def test_many_rounds_leave_out_the_middle_and_say_so(tools):
    """Ten rounds have a row each; of more the first three and the newest six do."""
    heights = [picture(tools, [(0.5,)] * (n - 1) + [(0.1,)]).shape[0] for n in (8, 9, 10, 11, 60)]
    row = heights[1] - heights[0]
    assert 200 < row < 300 and heights[2] == heights[1] + row
    assert heights[1] < heights[3] == heights[4] < heights[2]


def test_rounds_are_numbered_on_after_earlier_runs(tools):
    looks = tools.report.looks_of(done(tools, [(0.4,)], (0.1,), before=((0.9,), (0.6,))))
    assert [(look.name, look.title) for look in looks] == [
        ("1", ""), ("2", ""), ("3", "Round 3"), ("last", "Last look"),
    ]  # fmt: skip


def test_the_highest_scores_are_shown(tools):
    """The pictures of the best are on the page, whatever their place among what was mined."""
    run = done(tools, [(0.1, 0.2, 0.9, 0.3, 0.8)])
    shown = run.verdicts[0]
    colours = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 1, 1]]).float()
    target = colours[:, None, None].expand(-1, 8, 8, -1)
    run = replace(run, verdicts=(replace(shown, target=target, reference=target),))
    page = tools.report.report_picture(run)[0]

    def there(i):
        return int((page == colours[i]).all(-1).sum())

    assert there(2) and there(3) and there(4) and not there(0) and not there(1)
    assert there(2) == 2 * 172 * 172


def test_small_pictures_keep_hard_pixels_and_large_ones_fit(tools):
    checked = torch.zeros(2, 2, 3)
    checked[0, 0] = checked[1, 1] = 1
    for side in (170, 173):
        image = tools.page.fitted(checked, side)
        assert image.size == (side, side)
        assert len(image.getcolors()) <= 4, "two colours, and the edge where they meet in a pixel"
    assert tools.page.fitted(torch.rand(1024, 512, 3), 172).size == (86, 172)
    assert tools.page.fitted(torch.rand(8, 16, 3), 172).size == (172, 86)


@pytest.mark.parametrize(
    "text", ["x" * 500, "several words and some more of them " * 20, "one", ""]
)
def test_text_keeps_within_its_lines(tools, text):
    lines = tools.page.wrapped(text, 15, 300, 3)
    assert len(lines) <= 3 and all(tools.page.measured(line, 15) <= 300 for line in lines)
    cut = " ".join(lines) != " ".join(text.split())
    assert lines == [] or lines[-1].endswith("…") == cut


def test_letters_that_no_font_has_are_spelled(tools):
    text, font = tools.page.lettered("\U000ffffe", 15)
    assert font is not None and text == "\\U000ffffe"
    assert tools.page.lettered("plain", 15)[0] == "plain"


def test_a_page_without_any_font_costs_the_words_and_not_the_run(tools, monkeypatch, caplog):
    monkeypatch.setattr(tools.page, "_font", lambda name, pixels: None)
    tools.page._has.cache_clear()
    assert picture(tools, [(0.4,)], (0.1,)).shape[1] == WIDTH
    assert "Pillow 10.1" in caplog.text
    tools.page._has.cache_clear()


def test_losses_are_a_map_that_the_hosts_graph_plots_and_a_picture(hosted):
    curves = importlib.import_module("dark_miner.nodes.erase.curves")
    losses = {
        "circumvent 0": [4.0, 2.0], "chase 0": [3.0, 1.0, 0.5], "mine 1": [9.0],
        "mine 1 tokens": [8.0, 7.0], "circumvent 1": [0.25],
    }  # fmt: skip
    found = curves.loss_map(losses)
    assert [float(v) for v in found["loss"]] == [4.0, 2.0, 3.0, 1.0, 0.5, 0.25]
    assert {name: [float(v) for v in found[name]] for name in losses} == losses
    page = curves.curves_picture(losses, "ink")
    assert page.shape[0] == 1 and page.shape[2] == WIDTH and float(page.max()) == 1
    more = {**losses, "mine 2": [5.0, 4.0], "mine 3": [float(i) for i in range(9999)]}
    taller = curves.curves_picture(more, "x" * 500)
    assert taller.shape[1] - page.shape[1] == 2 * curves._HEIGHT
    assert curves.curves_picture({}, "").shape[2] == WIDTH
    assert curves.thinned([1.0] * 10_000) == [1.0] * 239
