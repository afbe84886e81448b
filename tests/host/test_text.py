"""Text encoders of other kinds than one CLIP: what is mined, and the loop's whole way."""

import importlib
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from . import miniature
from .erased import encode, settings
from .miniature import FAMILIES

pytestmark = pytest.mark.host

MODULES = {
    "darkminer": ("config",),
    "darkminer.method": ("loop",),
    "nodes.erase": ("erasing", "image_pool"),
    "nodes.host": ("lora", "text", "training"),
}
KINDS = {"sdxl": "sdxl", "sd3": "sd3", "flux": "flux_dev", "pixart": "pixart_sigma"}


@pytest.fixture(scope="module")
def tools(hosted):
    found = {
        name: importlib.import_module(f"dark_miner.{room}.{name}")
        for room, names in MODULES.items()
        for name in names
    }
    return SimpleNamespace(**found, sd=importlib.import_module("comfy.sd"))


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def clip(tools, kind):
    return miniature.text_encoder(kind)


def test_the_words_are_whole_ones(tools, clip, kind):
    words = tools.text.vocabulary(clip, ["penguin"])
    assert "photo" in words and "penguin" not in words
    assert 5_000 < len(words) == len(set(words))
    assert all(w.isalpha() and w.islower() and w.isascii() for w in words)
    # In the files' own tokenizer each is one token besides the marks around it.
    own = clip.tokenizer.clip_t5xxl if kind == "pixart" else clip.tokenizer.clip_l
    marks = len(own.tokenizer("")["input_ids"])
    assert all(len(own.tokenizer(w)["input_ids"]) == marks + 1 for w in words[::100])


def test_tokens_are_mined_through_clips_only(tools, clip, kind):
    assert tools.text.speaks(clip) is (kind == "sdxl")


def test_a_token_reaches_both_clips_and_says_what_the_host_says(tools):
    clip = miniature.text_encoder("sdxl")
    with tools.training.training_mode():
        text = tools.text.TextEncoder(clip)
        word = text.embedding("penguin")[None].requires_grad_(True)
        assert word.shape == (1, 768 + 1280)
        ours = text(["a photo of a *", "a * photo"], word)
        theirs = tools.text.contexts(clip, ["a photo of a penguin", "a penguin photo"])
        assert torch.allclose(ours, torch.stack(theirs), atol=1e-4)
        ours.square().sum().backward()
        assert word.grad[0, :768].any() and word.grad[0, 768:].any()


def few(tools):
    """The preset's every stage, with hardly any steps."""
    fast, short = tools.config.FAST, settings(tools)
    return replace(
        fast,
        text_words=1,
        lora=short.lora,
        mine=replace(short.mine, tokens=1, token_words=1),
        verify=short.verify,
        circumvent=short.circumvent,
        start=short.circumvent,
        chase=replace(
            fast.chase, steps=2, lr_drop=2, soft_prompts=(2,), tokens=2, replay=1, concept_batch=1
        ),
        retain=replace(fast.retain, batch=1),
        bank=replace(fast.bank, size=2),
    )


def test_the_loop_erases_with_the_familys_text_encoders(tools, clip, kind, tmp_path):
    """Pool, text start, bank, chase, a round of mining; then the LoRA changes the prediction."""
    family = FAMILIES[KINDS[kind]]
    file = miniature.checkpoint(family, tmp_path / "model.safetensors")
    model = tools.sd.load_diffusion_model(str(file))
    vae = miniature.autoencoder(family)
    sampling = tools.config.SamplingConfig(1, 1.0, "euler", "normal", 2)
    pool = tools.image_pool.made(
        model,
        clip,
        vae,
        "van gogh",
        "a * photo",
        "",
        2,
        8 * family.side,
        8 * family.side,
        0,
        sampling,
        lambda r: None,
    )
    done, lora = tools.erasing.run_erasure(
        model, clip, vae, encode, pool, few(tools), anchor="a photo", negative="",
        sampling=sampling, seed=0,
    )  # fmt: skip
    assert len(done.verdicts) == 1
    assert len(done.losses["chase"]) == 2 and "circumvent 1" in done.losses
    widths = {e.context.shape[-1] for e in done.embeddings.entries}
    assert widths == {family.width}
    ups = [v for k, v in lora.items() if k.endswith("lora_up.weight")]
    assert len(ups) == family.adapted and all(up.any() for up in ups)
    assert len(tools.lora.apply_lora(model, lora).patches) == family.adapted
