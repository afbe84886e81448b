"""Prompts as long as a checkpoint's and embeddings of another length, through nodes and sampler."""

import importlib
from types import SimpleNamespace

import pytest
import torch

from . import miniature
from .miniature import FAMILIES

pytestmark = pytest.mark.host

PROMPT, LENGTH = 77, 32
FEW = {"sampling_steps": 2, "cfg": 2.0, "sampler_name": "euler", "scheduler": "normal"}


@pytest.fixture(scope="module")
def tools(hosted):
    found = {
        "types": "darkminer.types", "mined": "nodes.erase.mined", "predict": "nodes.host.predict",
        "image_pool": "nodes.erase.image_pool", "text": "nodes.host.text",
        "mine": "nodes.erase.mine",
        "verify": "nodes.erase.verify", "inputs": "nodes.inputs", "demo": "demo.models",
    }  # fmt: skip
    modules = {k: importlib.import_module(f"dark_miner.{v}") for k, v in found.items()}
    return SimpleNamespace(
        **modules, sd=importlib.import_module("comfy.sd"), core=importlib.import_module("nodes")
    )


def loaded(tools, name, folder):
    file = miniature.checkpoint(FAMILIES[name], folder / f"{name}.safetensors")
    return tools.sd.load_diffusion_model(str(file))


@pytest.fixture(scope="module")
def sd15(tools, tmp_path_factory):
    return loaded(tools, "sd15", tmp_path_factory.mktemp("sd15"))


def found(tools, family, lengths):
    """A pool whose newest round holds one embedding of each length."""
    gen = torch.Generator().manual_seed(5)
    contexts = [torch.randn(n, family.width, generator=gen) for n in lengths]
    pool = tools.types.EmbeddingPool(concept="c")
    return pool.opened(tools.types.MinedEmbedding(c, 1) for c in contexts)


def ksampler(tools, model, family, positive, negative, noisy, rows):
    """Pictures ``rows`` of a batch, as KSampler draws them: latents ``[n, C, h, w]``."""
    latent = {"samples": noisy[: len(rows)].clone(), "batch_index": rows}
    with torch.inference_mode():
        made = tools.core.common_ksampler(
            model, 7, 2, 2.0, "euler", "normal", positive, negative, latent
        )[0]["samples"]
    return made.clone()


@pytest.mark.parametrize("name", ["sd15", "sdxl", "flux_dev", "anima"])
def test_each_picture_of_a_ksampler_is_its_own_embeddings(tools, name, tmp_path):
    """Several lengths in one CONDITIONING, for any size of batch."""
    family = FAMILIES[name]
    model = loaded(tools, name, tmp_path)
    lengths = (LENGTH, PROMPT, LENGTH, 5)
    anchor, negative = miniature.prompt(family, 7, PROMPT), miniature.prompt(family, 8, PROMPT)
    pool = found(tools, family, lengths)
    frames = tools.predict.has_frames(model)
    together = tools.mined.as_conditioning(pool, anchor, frames=frames)
    assert len(together) == (4 if frames else 3)
    shape = (7, family.channels, *([1] if frames else []), 8, 8)
    noisy = torch.zeros(shape)
    for size in (2, 7):
        made = ksampler(tools, model, family, together, negative, noisy, list(range(size)))
        for i in range(size):
            alone = [[pool.entries[i % len(lengths)].context[None], dict(anchor[0][1])]]
            own = ksampler(tools, model, family, alone, negative, noisy, [i])[0]
            assert torch.allclose(made[i], own, rtol=1e-3, atol=1e-3), (size, i)


def test_what_a_conditioning_holds_is_read_back_whole_and_in_order(tools):
    family = FAMILIES["sd15"]
    anchor = miniature.prompt(family, 7, PROMPT)
    for lengths in ((LENGTH,) * 3, (PROMPT, LENGTH, PROMPT, LENGTH, 4)):
        pool = found(tools, family, lengths)
        read = tools.mined.contexts_in(tools.mined.as_conditioning(pool, anchor))
        assert [len(c) for c in read] == list(lengths)
        assert all(torch.equal(a, e.context) for a, e in zip(read, pool.entries, strict=True))
    combined = [*miniature.prompt(family, 1, PROMPT), *miniature.prompt(family, 2, LENGTH)]
    assert [len(c) for c in tools.mined.contexts_in(combined)] == [PROMPT, LENGTH]


def test_a_change_between_the_nodes_reaches_the_verification(tools):
    """Every context of every length, as a node between has left it, in its own entry."""
    family = FAMILIES["sd15"]
    pool = found(tools, family, (PROMPT, LENGTH, PROMPT))
    cond = tools.mined.as_conditioning(pool, miniature.prompt(family, 7, PROMPT))
    changed = tools.mined.mined_into(pool, [[c * 2.0, e] for c, e in cond], "c", "V")
    assert len(changed.current()) == 3
    for before, after in zip(pool.entries, changed.entries, strict=True):
        assert torch.equal(after.context, before.context * 2.0)


def test_a_mask_of_the_anchor_hides_nothing_of_another_context(tools):
    """A T5's mask leaves out what fills a prompt up; a mined context as long has no filling."""
    gen = torch.Generator().manual_seed(2)
    anchor = torch.randn(1, 4, 6, generator=gen)
    extra = {"attention_mask": torch.tensor([[1, 1, 0, 0]]), "guidance": 3.5}
    mined = torch.randn(2, 4, 6, generator=gen)
    masked = tools.predict.masked
    assert masked(extra, anchor, anchor)["attention_mask"].tolist() == [[1, 1, 0, 0]]
    both = masked(extra, anchor, torch.cat([mined[:1], anchor]))["attention_mask"]
    assert both.tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert masked(extra, anchor, mined[:, :3])["attention_mask"].tolist() == [[1, 1, 1]]
    assert masked(extra, anchor, mined)["guidance"] == 3.5
    assert extra["attention_mask"].tolist() == [[1, 1, 0, 0]]
    pool = tools.types.EmbeddingPool().opened([tools.types.MinedEmbedding(mined[0], 1)])
    entry = tools.mined.as_conditioning(pool, [[anchor, extra]])[0]
    assert entry[1]["attention_mask"].tolist() == [[1, 1, 1, 1]]


def test_mining_with_tokens_and_verifying_go_through_the_nodes(tools, sd15):
    """Free contexts of 32 tokens and spoken ones of 77, from MineEmbedding to VerifyDeltaCLIP."""
    family = FAMILIES["sd15"]
    clip = miniature.text_encoder("sd15")
    vae = miniature.autoencoder(family)
    sampling = tools.inputs.sampling_config(*FEW.values(), 4)
    pool = tools.image_pool.made(
        sd15, clip, vae, "van gogh", "a * photo", "", 4, 64, 64, 0, sampling, lambda r: None
    )
    anchor = tools.text.conditioning(clip, "a photo")
    mined, embeddings, _ = tools.mine.MineEmbedding.execute(
        model=sd15,
        pool=pool,
        anchor=anchor,
        preset="fast",
        seed=0,
        clip=clip,
        steps=1,
        count=1,
        length=LENGTH,
    ).args
    lengths = [len(e.context) for e in embeddings.current()]
    assert set(lengths) == {LENGTH, PROMPT}
    assert [len(c) for c in tools.mined.contexts_in(mined)] == lengths
    _, score, target, _, judged = tools.verify.VerifyDeltaCLIP.execute(
        model=sd15, vae=vae, mined=mined, reference=anchor, pool=pool, preset="fast", seed=0, **FEW,
        batch_size=4, negative=tools.text.conditioning(clip, ""), threshold="-1", draws=1,
        clip_vision=tools.demo.load_demo_models()[3], embeddings=embeddings,
    ).args  # fmt: skip
    assert len(target) == len(lengths) == len(judged.current())
    assert -1.0 <= score <= 1.0
    for before, after in zip(embeddings.current(), judged.current(), strict=True):
        assert torch.equal(before.context, after.context)
