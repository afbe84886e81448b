"""Not a number, from the host's own parts: refused by every node, with the part's name."""

import copy
import importlib
from types import SimpleNamespace

import pytest
import torch

from .test_nodes import HELD_OUT, SAMPLING, failing, graph, loop, models_and_pool, node

pytestmark = pytest.mark.host

BROKEN = {"sampling_steps": 1, "scheduler": "kl_optimal"}
LEVELS = (
    "scheduler 'kl_optimal' gives noise levels that are not finite (NaN or infinity) in "
    "sampling_steps 1: take more steps or another scheduler"
)


def attacked(**changes):
    prompt = models_and_pool() | {
        "anchor": node("CLIPTextEncode", clip=["m", 1], text="a drawing"),
        "no": node("CLIPTextEncode", clip=["m", 1], text=""),
        "attack": node(
            "AttackErasure", model=["m", 0], vae=["m", 2], pool=["pool", 0], anchor=["anchor", 0],
            negative=["no", 0], seed=0, **{**SAMPLING, **changes}, clip_vision=["m", 3],
            exclude_words=HELD_OUT, steps=1, pictures=2,
        ),
    }  # fmt: skip
    return prompt | {"look": node("PreviewImage", images=["attack", 2])}


def stage_of(name):
    prompt = graph()
    prompt[name]["inputs"] |= BROKEN
    return prompt


CASES = {
    "ImagePoolBuilder": lambda: (
        models_and_pool(**BROKEN) | {"look": node("PreviewImage", images=["pool", 1])}
    ),
    "DarkMinerLoop": lambda: loop(**BROKEN),
    "AttackErasure": lambda: attacked(**BROKEN),
    "DarkMinerVocabularyBank": lambda: stage_of("bank"),
    "CircumventLoRA": lambda: stage_of("start"),
    "DarkMinerChase": lambda: stage_of("chase"),
    "VerifyDeltaCLIP": lambda: stage_of("verify"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_scheduler_without_noise_levels_is_refused_before_anything_is_made(comfy, name):
    said = failing(comfy, CASES[name]())
    assert f"{name}: {LEVELS}" in said


@pytest.fixture(scope="module")
def tools(hosted):
    names = (
        "darkminer.errors", "darkminer.config", "nodes.erase.erasing", "nodes.host.session",
        "nodes.host.text", "nodes.host.vision", "nodes.erase.image_pool", "demo.models",
    )  # fmt: skip
    found = {n.rpartition(".")[2]: importlib.import_module(f"dark_miner.{n}") for n in names}
    return SimpleNamespace(**found)


@pytest.fixture(scope="module")
def gallery(tools):
    return tools.models.load_demo_models()


def bare(vae, value):
    """The gallery's VAE with an inner model whose pictures are all ``value``."""
    spoilt, inner = copy.copy(vae), vae.first_stage_model

    class Spoilt(torch.nn.Module):
        def decode(self, latents, **options):
            return inner.decode(latents, **options) * 0.0 + value

        def encode(self, pixels, **options):
            return inner.encode(pixels, **options) * 0.0 + value

    spoilt.first_stage_model = Spoilt()
    return spoilt


def sampling(tools):
    return tools.config.SamplingConfig(2, 2.0, "euler", "normal", 4)


def pool(tools, gallery, vae=None):
    model, clip, own, _ = gallery
    return tools.image_pool.made(
        model, clip, vae or own, "ink", "a * drawing", "", 3, 32, 32, 0, sampling(tools),
        lambda report: None,
    )  # fmt: skip


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_vae_that_gives_no_numbers_makes_no_pool(tools, gallery, value):
    """The host clamps pictures to 0..1, so that infinity would be a white picture."""
    vae = bare(gallery[2], value)
    own = vae.process_output
    with pytest.raises(tools.errors.NotFiniteError, match="The VAE gave pictures .* pool stage"):
        pool(tools, gallery, vae)
    assert vae.process_output is own
    images = torch.rand(2, 32, 32, 3)
    with pytest.raises(tools.errors.NotFiniteError, match="The VAE gave latents"):
        tools.image_pool.collected(gallery[0], vae, images, "ink", 0)


def test_an_image_encoder_of_the_host_that_gives_no_numbers_is_named(tools, gallery):
    model, clip, vae, vision = gallery
    spoilt = copy.copy(vision)
    spoilt.encode_image = lambda *a, **k: {
        "image_embeds": vision.encode_image(*a, **k)["image_embeds"] * float("nan")
    }
    with pytest.raises(tools.errors.NotFiniteError, match="image encoder gave features"):
        tools.erasing.run_erasure(
            model, clip, vae, tools.vision.vision_encoder(spoilt, "test"),
            pool(tools, gallery), tools.config.FAST, anchor="a drawing", negative="",
            sampling=sampling(tools), seed=0,
        )  # fmt: skip


def test_a_text_encoder_that_gives_no_numbers_is_named(tools, gallery):
    clip = gallery[1]
    weight = next(
        p for n, p in clip.cond_stage_model.named_parameters() if "final_layer_norm.bias" in n
    )
    before = weight.detach().clone()
    try:
        with torch.inference_mode():
            weight.fill_(float("nan"))
        with pytest.raises(tools.errors.NotFiniteError, match="text encoder gave contexts"):
            tools.text.contexts(clip, ["a drawing"])
        with pytest.raises(tools.errors.NotFiniteError, match="gave contexts for anchor"):
            tools.session.context_of(tools.text.conditioning(clip, "a"), "Node", "anchor")
    finally:
        with torch.inference_mode():
            weight.copy_(before)


def test_a_network_that_gives_no_numbers_is_named(tools, gallery):
    weight = gallery[0].model.diffusion_model.out[-1].bias
    before = weight.detach().clone()
    try:
        with torch.inference_mode():
            weight.fill_(float("nan"))
        with pytest.raises(tools.errors.NotFiniteError, match="diffusion network gave latents"):
            pool(tools, gallery)
    finally:
        with torch.inference_mode():
            weight.copy_(before)
