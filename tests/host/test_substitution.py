"""A token in a concept's place: found in every template, with the host's own CLIPs."""

import importlib
from types import SimpleNamespace

import pytest
import torch

from . import miniature

pytestmark = pytest.mark.host

SAMPLING = {"sampling_steps": 4, "cfg": 2.0, "sampler_name": "euler", "scheduler": "normal"}
LONG = " ".join(["very"] * 90)


@pytest.fixture(scope="module")
def tools(hosted):
    found = {
        "errors": "darkminer.errors", "text": "nodes.host.text", "erasing": "nodes.erase.erasing",
        "training": "nodes.host.training", "image_pool": "nodes.erase.image_pool",
        "attack": "nodes.attack.verdict", "mine": "nodes.erase.mine",
        "contexts": "nodes.erase.contexts", "bank": "nodes.erase.bank",
        "chase": "nodes.erase.chase", "loop": "nodes.erase.loop", "inputs": "nodes.inputs",
        "types": "darkminer.types", "config": "darkminer.config", "models": "demo.models",
    }  # fmt: skip
    modules = {k: importlib.import_module(f"dark_miner.{v}") for k, v in found.items()}
    return SimpleNamespace(**modules, core=importlib.import_module("nodes"))


@pytest.fixture(scope="module")
def gallery(tools):
    return tools.models.load_demo_models()


@pytest.fixture(scope="module")
def clips(gallery):
    kinds = {kind: miniature.text_encoder(kind) for kind in ("sd15", "sdxl")}
    return {**kinds, "gallery": gallery[1]}


def close(ours, theirs):
    return torch.allclose(ours.float().cpu(), theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["sd15", "sdxl", "gallery"])
@pytest.mark.parametrize(
    "template",
    [
        "a drawing of *, pale", "a drawing of *.", "(a * drawing:1.3), pale", "the *'s drawing",
        "*", "a * by a *", "a drawing of (*)", "*-drawing", f"a * drawing, {LONG}",
    ],
)  # fmt: skip
def test_every_template_says_what_the_host_says_with_the_word(tools, clips, kind, template):
    clip = clips[kind]
    with tools.training.training_mode(), torch.no_grad():
        text = tools.text.TextEncoder(clip)
        ours = text([template], text.embedding("penguin")[None])[0]
        theirs = tools.text.contexts(clip, [template.replace("*", "penguin")])[0]
    assert close(ours, theirs)


def test_gradients_pass_weights_and_chunks(tools, clips):
    with tools.training.training_mode():
        text = tools.text.TextEncoder(clips["sd15"])
        for template in ("(a * drawing:1.3), pale", f"{LONG} of a *"):
            word = text.embedding("penguin")[None].requires_grad_(True)
            text([template], word).square().sum().backward()
            assert bool(word.grad.any())


@pytest.mark.parametrize("kind", ["sd15", "sdxl", "gallery"])
def test_a_prompt_without_a_place_for_the_token_is_refused(tools, clips, kind):
    with tools.training.training_mode(), torch.no_grad():
        text = tools.text.TextEncoder(clips[kind])
        word = text.embedding("penguin")[None]
        with pytest.raises(tools.errors.DarkMinerError, match="'a drawing'.* where 1 should be"):
            text(["a * drawing", "a drawing"], word)
        plain = text.encode(["a drawing"])[0]
        assert close(plain, tools.text.contexts(clips[kind], ["a drawing"])[0])


def made(tools, gallery, template, size=16):
    model, clip, vae, _ = gallery
    sampling = tools.inputs.sampling_config(*SAMPLING.values(), 16)
    return tools.image_pool.made(
        model, clip, vae, "ink", template, "", size, 32, 32, 0, sampling, lambda r: None
    )


def test_the_pool_keeps_concept_and_template(tools, gallery):
    model, clip, vae, _ = gallery
    template = "a * drawing of a drinking pink fox"
    pool = made(tools, gallery, template, size=1)
    assert (pool.concept, pool.template) == ("ink", template)
    assert pool.prompt == "a ink drawing of a drinking pink fox"
    assert tools.erasing.pool_template(pool) == template
    given = {
        "concept": "ink", "template": template, "size": 1, "width": 32, "height": 32, "seed": 0,
        **SAMPLING, "batch_size": 1,
    }  # fmt: skip
    own, _ = tools.image_pool.pool_of(model, clip, vae, **given, images=pool.floats([0]))
    assert (own.prompt, tools.erasing.pool_template(own)) == ("", template)
    start = tools.erasing.concept_contexts(clip, pool, tools.config.FAST, exclude=(), seed=0)
    for entry in start.entries:
        assert entry.template.replace("*", "ink") == entry.prompt
        assert "drinking pink" in entry.template or entry.template in ("*", "a *")


@pytest.mark.parametrize("concept", ["(penguin:1.3)", "penguin.", "penguin/house", "Penguins"])
def test_neither_bank_nor_start_words_hold_the_concept_or_its_inflections(tools, clips, concept):
    pool = SimpleNamespace(concept=concept)
    words = tools.erasing.words_left(clips["sd15"], pool, ())
    assert not {w for w in words if w.startswith("penguin")}
    assert ("house" in words) is ("house" not in concept) and "photo" in words


def test_an_attack_through_punctuation_finds_what_was_never_erased(tools, gallery):
    model, clip, vae, vision = gallery
    template = "a drawing of *, pale"
    pool = made(tools, gallery, template)
    anchor = tools.text.conditioning(clip, "a drawing")
    _, success, _, words = tools.attack.AttackErasure.execute(
        model=model, vae=vae, pool=pool, anchor=anchor, seed=0, **SAMPLING, batch_size=16,
        clip_vision=vision, clip=clip, negative=tools.text.conditioning(clip, ""), steps=60,
        pictures=16,
    ).args  # fmt: skip
    share = float(words.partition("token ")[2].split()[0])
    assert share > 0.5, words


@pytest.mark.parametrize("node", ["mine", "contexts", "bank", "chase", "attack", "loop"])
def test_a_vocabulary_without_a_word_left_is_one_sentence(tools, gallery, node):
    """Everything excluded: said when the node starts, before any draw."""
    model, clip, vae, vision = gallery
    pool = tools.types.ImagePool(
        torch.zeros(4, 8, 8, 8), torch.zeros(4, 32, 32, 3, dtype=torch.uint8), "ink", "", 0, "",
        template="a * drawing",
    )  # fmt: skip
    anchor = tools.text.conditioning(clip, "a drawing")
    all_words = ", ".join(tools.text.vocabulary(clip))
    start = tools.erasing.concept_contexts(clip, pool, tools.config.FAST, exclude=(), seed=0)
    few = {"seed": 0, "exclude_words": all_words, "clip": clip, "pool": pool}
    more = {**few, **SAMPLING, "batch_size": 4, "model": model}
    more["negative"] = tools.text.conditioning(clip, "")
    texts = {name: value for name, value in more.items() if name != "negative"}
    prompts = {"anchor_prompt": "a drawing", "negative_prompt": "", "vae": vae}
    kind, given = {
        "mine": ("MineEmbedding", {**few, "model": model, "anchor": anchor, "preset": "fast"}),
        "contexts": ("DarkMinerConceptContexts", few),
        "bank": ("DarkMinerVocabularyBank", {**texts, **prompts, "clip_vision": vision}),
        "chase": ("DarkMinerChase", {**more, "embeddings": start, "anchor": anchor}),
        "attack": (
            "AttackErasure", {**more, "vae": vae, "anchor": anchor, "clip_vision": vision}
        ),
        "loop": (
            "DarkMinerLoop",
            {**texts, **prompts, "preset": "fast", "max_rounds": 1, "clip_vision": vision},
        ),
    }[node]  # fmt: skip
    with pytest.raises(tools.errors.DarkMinerError, match="leave no word of this CLIP's"):
        getattr(getattr(tools, node), kind).execute(**given)
