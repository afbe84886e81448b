"""What a server refuses before anything runs, also from clients that are no browser."""

import math

import pytest

from .conftest import script
from .test_nodes import SAMPLING, loop, models_and_pool, node

pytestmark = pytest.mark.host


def pool(**changes):
    prompt = models_and_pool(**changes)
    prompt["look"] = node("PreviewImage", images=["pool", 1])
    return prompt


def concepts(**changes):
    prompt = models_and_pool()
    inputs = {
        "concepts": "ink", "template": "a * drawing", "size": 5, "width": 32, "height": 32,
        "anchor_prompt": "a drawing", "negative_prompt": "", "preset": "fast", "max_rounds": 1,
        "seed": 0, **SAMPLING, **changes,
    }  # fmt: skip
    prompt["list"] = node("EraseConcepts", model=["m", 0], clip=["m", 1], vae=["m", 2], **inputs)
    prompt["save"] = node("SaveErasureLoRA", lora=["list", 1], filename_prefix="loras/never")
    return prompt


REFUSED = [
    (pool(concept=None), "ImagePoolBuilder: concept is 'None'"),
    (pool(concept={"__value__": ["ink"]}), "concept is \"\\['ink'\\]\""),
    (pool(concept=["ink"]), "ImagePoolBuilder: concept is a list: write a text"),
    (pool(cfg=math.nan), "ImagePoolBuilder: cfg is nan: it must be a number from 0.0 to 30.0"),
    (pool(cfg=math.inf), "ImagePoolBuilder: cfg is inf: it must be a number from 0.0 to 30.0"),
    (pool(cfg="seven"), "ImagePoolBuilder: cfg is 'seven': it must be a number"),
    (pool(seed=math.nan), "ImagePoolBuilder: seed is nan: it must be a whole number"),
    (loop(mine_learning_rate=math.nan), "DarkMinerLoop: mine_learning_rate is nan: it must be"),
    (loop(r=1.5), "DarkMinerLoop: r is 1.5: it must be a number from 0.0 to 1.0"),
    (loop(threshold="hot"), "DarkMinerLoop: threshold is 'hot': write a number"),
    (loop(threshold="7"), "DarkMinerLoop: threshold is 7.0: it must be between -1 and 1"),
    (loop(threshold=None), "DarkMinerLoop: threshold is 'None'"),
    (loop(preset="slow"), "DarkMinerLoop: preset is 'slow': choose one of fast, paper"),
    (loop(preset="paper", bank_size=0), "DarkMinerLoop: chase_steps asks for a chase"),
    (loop(preset="paper", chase_steps=0), "DarkMinerLoop: bank_size asks for a vocabulary bank"),
    (loop(chase_steps=-1), "DarkMinerLoop: chase_steps is -1: it must be a whole number from 0"),
    (concepts(concepts=None), "EraseConcepts: concepts is 'None'"),
    (concepts(threshold="hot"), "EraseConcepts: threshold is 'hot'"),
    (concepts(anchor_prompt="an Ink photo"), "EraseConcepts: anchor_prompt is 'an Ink photo'"),
    (concepts(template=None), "EraseConcepts: template is 'None'"),
]


@pytest.mark.parametrize("prompt, sentence", REFUSED, ids=[words for _, words in REFUSED])
def test_what_can_be_known_when_queued_is_refused_then(comfy, prompt, sentence):
    with pytest.raises(script("comfy_server").ServerError, match=sentence) as caught:
        comfy.run(prompt)
    assert "refused the workflow" in str(caught.value)


def test_null_in_a_socket_is_one_sentence(comfy):
    prompt = pool()
    prompt["pool"]["inputs"]["clip"] = None
    with pytest.raises(script("comfy_server").ServerError) as caught:
        comfy.run(prompt)
    assert "ImagePoolBuilder: clip got nothing (None): connect a text encoder" in str(caught.value)
