"""CompareErasure draws what the host's own nodes draw, on a page that says what is what."""

import pytest
import torch

from .conftest import pack
from .test_nodes import node

pytestmark = pytest.mark.host

GIVEN = {
    "prompts": "an ink drawing\na noto drawing", "negative_prompt": "", "pictures": 2, "width": 32,
    "height": 32, "seed": 5, "sampling_steps": 2, "cfg": 3.0, "sampler_name": "euler",
    "scheduler": "normal",
}  # fmt: skip


@pytest.fixture(scope="module")
def world(nodes, sockets):
    """MODEL, CLIP, VAE and a LoRA that moves a little."""
    gen = torch.Generator().manual_seed(0)
    lora = {k: v + 0.05 * torch.randn(v.shape, generator=gen) if "weight" in k else v
            for k, v in sockets["LORA_MODEL"].items()}  # fmt: skip
    return {"model": sockets["MODEL"], "clip": sockets["CLIP"], "vae": sockets["VAE"]}, lora


def compared(nodes, world, **changes):
    return nodes["CompareErasure"].execute(**world[0], **{**GIVEN, **changes}).args


def by_core_nodes(world, model, prompt, seed):
    core = __import__("nodes")
    clip, vae = world["clip"], world["vae"]
    (positive,), (negative,) = (core.CLIPTextEncode().encode(clip, t) for t in (prompt, ""))
    latent = {"samples": torch.zeros(1, vae.latent_channels, 8, 8)}
    (made,) = core.KSampler().sample(
        model, seed, 2, 3.0, "euler", "normal", positive, negative, latent
    )
    return core.VAEDecode().decode(vae, made)[0]


def test_each_picture_is_a_ksamplers_bit_for_bit(nodes, world, hosted):
    given, lora = world
    _, before, after = compared(nodes, world, lora=lora)
    erased = pack("nodes.host.lora").apply_lora(given["model"], lora)
    assert before.shape == after.shape == (4, 32, 32, 3)
    for i, (prompt, seed) in enumerate(
        (prompt, seed) for prompt in GIVEN["prompts"].splitlines() for seed in (5, 6)
    ):
        assert torch.equal(before[i : i + 1], by_core_nodes(given, given["model"], prompt, seed))
        assert torch.equal(after[i : i + 1], by_core_nodes(given, erased, prompt, seed))
    assert not torch.equal(before, after)


def test_strengths_are_columns_and_the_last_is_after(nodes, world):
    lora = world[1]
    _, before, after = compared(nodes, world, lora=lora, strengths="2, 0.5, 0.5, 0")
    assert torch.equal(before, after), "strength 0 is the model before"
    wide = compared(nodes, world, lora=lora, strengths="0, 1, 2")[0]
    narrow, _, one = compared(nodes, world, lora=lora)
    assert wide.shape[2] > narrow.shape[2]
    erased = pack("nodes.host.lora").apply_lora(world[0]["model"], lora)
    assert torch.equal(compared(nodes, world, erased=erased)[2], one)


@pytest.mark.parametrize("change, words", [
    ({}, "lora and erased: neither is connected: connect one of them."),
    ({"lora": True, "erased": True}, "lora and erased: both are connected"),
    ({"erased": True, "strengths": "0.5"}, "strengths are of lora and erased is connected instead"),
    ({"lora": True, "strengths": "1, much"}, "strengths holds 'much': write numbers"),
    ({"lora": True, "strengths": "nan"}, "strengths holds 'nan'"),
    ({"lora": True, "strengths": " , "}, "strengths holds 0 numbers: write 1 to 16"),
    ({"lora": True, "prompts": " \n "}, "prompts is empty"),
    ({"lora": True, "width": 34}, "must be multiples of 4"),
    ({"lora": True, "seed": 2**64 - 1}, "has no 2 after it: lower it"),
])  # fmt: skip
def test_what_cannot_be_compared_is_one_sentence(nodes, world, change, words):
    given = {"lora": world[1], "erased": world[0]["model"]}
    change = {k: given[k] if v is True else v for k, v in change.items()}
    with pytest.raises(pack("darkminer.errors").DarkMinerError) as caught:
        compared(nodes, world, **change)
    assert words in str(caught.value) and str(caught.value).startswith("CompareErasure: ")


def test_it_runs_on_a_server(comfy):
    m, c, v = (["m", i] for i in range(3))
    outputs = comfy.run({
        "m": node("DarkMinerDemoModels"),
        "compare": node("CompareErasure", model=m, clip=c, vae=v, erased=m, **GIVEN),
        "sheet": node("PreviewImage", images=["compare", 0]),
        "after": node("PreviewImage", images=["compare", 2]),
    })  # fmt: skip
    assert len(outputs["sheet"]["images"]) == 1 and len(outputs["after"]["images"]) == 4
