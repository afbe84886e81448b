"""Going on with an erasure: the same as never having stopped."""

import importlib
import logging
from dataclasses import replace

import pytest
import torch

from .test_nodes import HELD_OUT, SAMPLING

pytestmark = pytest.mark.host

FEW = {
    "anchor_prompt": "a drawing", "negative_prompt": "", "preset": "fast", "seed": 3, **SAMPLING,
    "threshold": "-1", "exclude_words": HELD_OUT, "mine_steps": 2, "count": 1,
    "circumvent_steps": 2, "chase_steps": 2, "bank_size": 6, "rank": 2, "run_folder": "off",
}  # fmt: skip


def pack(name):
    return importlib.import_module(f"dark_miner.{name}")


@pytest.fixture(scope="module")
def world(hosted):
    """The gallery's models and a pool of a few pictures."""
    model, clip, vae, vision = pack("demo.models").load_demo_models()
    sampling = pack("darkminer.config").SamplingConfig(2, 2.0, "euler", "normal", 16)
    pool = pack("nodes.erase.image_pool").made(
        model, clip, vae, "ink", "a * drawing", "", 6, 32, 32, 0, sampling, lambda report: None
    )
    return {"model": model, "clip": clip, "vae": vae, "clip_vision": vision, "pool": pool}


def loop(world, rounds, **more):
    """lora, embeddings and rounds of a loop node's run."""
    made = pack("nodes.erase.loop").DarkMinerLoop.execute(
        **{**world, **FEW, "max_rounds": rounds, **more}
    )
    return made.args[1], made.args[2], made.args[4]


@pytest.fixture(scope="module")
def first(world):
    lora, embeddings, _ = loop(world, 1)
    return {"lora": lora, "embeddings": embeddings}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_two_runs_of_one_round_are_one_run_of_two(world, first):
    whole, once, rounds = loop(world, 2)
    rest, embeddings, counted = loop(world, 1, rank=0, **first)
    assert (rounds, counted) == (2, 2)
    assert [r.round for r in embeddings.history] == [1, 2, 3]  # the last is a look, no round
    assert embeddings.history == once.history
    assert rest.metadata["darkminer_rounds"] == "2"
    assert same(whole, rest)


def test_text_start_and_chase_come_again_where_asked(world, first):
    def chased(embeddings):
        return len([e for e in embeddings.entries if e.kind != "text"])

    _, short, _ = loop(world, 1, **first)
    _, long, _ = loop(world, 1, opening="always", **first)
    assert chased(long) > chased(short)
    _, never, _ = loop(world, 1, opening="never")
    assert chased(never) < chased(first["embeddings"])
    assert never.text_tokens() is not None, "its contexts are known, though nothing trains on them"


def test_a_lora_alone_begins_anew_and_the_log_says_so(world, first, caplog):
    with caplog.at_level(logging.WARNING):
        _, embeddings, rounds = loop(world, 1, lora=first["lora"])
    assert rounds == 1 and [r.round for r in embeddings.history] == [1, 2]
    assert "embeddings is not connected" in caplog.text


@pytest.mark.parametrize(
    "change, sentence",
    [
        (lambda f: {"embeddings": f["embeddings"]}, "lora is not connected"),
        (
            lambda f: {**f, "embeddings": replace(f["embeddings"], round=0)},
            "lora is of round 1 and embeddings of round 0",
        ),
        (
            lambda f: {**f, "embeddings": replace(f["embeddings"], concept="noto")},
            "embeddings is of 'noto' and pool of 'ink'",
        ),
    ],
)
def test_what_does_not_belong_together_is_one_sentence(world, first, change, sentence):
    with pytest.raises(pack("darkminer.errors").DarkMinerError, match=sentence) as caught:
        loop(world, 1, **change(first))
    assert str(caught.value).startswith("DarkMinerLoop: ")


def mined(round_, count=2):
    """An embedding pool after a mining of ``count`` embeddings, and its CONDITIONING."""
    types = pack("darkminer.types")
    before = types.EmbeddingPool(
        (types.MinedEmbedding(torch.ones(3, 4), round_ - 1),) * 2, round_ - 1, concept="ink"
    )
    fresh = [types.MinedEmbedding(torch.full((3, 4), 5.0), round_, (0, 1))] * count
    after = before.opened(fresh)
    anchor = [[torch.zeros(1, 3, 4), {"pooled_output": torch.zeros(1, 4)}]]
    return before, after, pack("nodes.erase.mined").as_conditioning(after, anchor)


def test_what_was_mined_replaces_its_own_round_only(hosted):
    into = pack("nodes.erase.mined").mined_into
    for round_ in (1, 2):
        before, after, found = mined(round_)
        found[0][0].mul_(2.0)
        entries = into(after, found, "ink", "Node").entries
        assert [float(e.context.mean()) for e in entries] == [1.0, 1.0, 10.0, 10.0]
        assert entries[-1].indices == (0, 1)
        with pytest.raises(pack("darkminer.errors").DarkMinerError, match="embeddings of round"):
            into(before, found, "ink", "Node")
    _, after, _ = mined(2)
    with pytest.raises(pack("darkminer.errors").DarkMinerError, match="mined holds 1 embeddings"):
        into(after, mined(2, count=1)[2], "ink", "Node")


def test_mined_without_embeddings_or_from_elsewhere_opens_a_round(hosted):
    into = pack("nodes.erase.mined").mined_into
    _, after, found = mined(2)
    alone = into(None, found, "ink", "Node")
    assert (alone.round, len(alone.entries), alone.concept) == (1, 2, "ink")
    foreign = into(after, [[found[0][0], {}]], "ink", "Node")
    assert foreign.round == 3 and len(foreign.entries) == len(after.entries) + 2
