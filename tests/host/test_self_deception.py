"""Against self-deception: what judges an erasure and what it learnt from have nothing in common.

Figures come from the saved file on a model loaded afresh.
"""

import importlib
from types import SimpleNamespace

import pytest
import torch
from dark_miner.darkminer.config import PRESETS
from dark_miner.darkminer.rng import generator
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def tools(hosted):
    names = (
        "benchmarks.erasure", "benchmarks.figures", "benchmarks.quality", "benchmarks.targets",
        "darkminer.model.layers", "demo.gallery", "demo.models", "nodes.erase.erasing",
        "nodes.host.session", "nodes.host.lora", "nodes.host.text", "nodes.erase.image_pool",
    )  # fmt: skip
    found = {n.rpartition(".")[2]: importlib.import_module(f"dark_miner.{n}") for n in names}
    return SimpleNamespace(**found)


@pytest.fixture(scope="module")
def gallery(tools):
    return tools.models.load_demo_models()


def trained_on(tools, clip, target, seed):
    """Every prompt that an erasure of a target is told, or joins by itself."""
    size, exclude = PRESETS["fast"].bank.size, [*tools.gallery.HELD_OUT, target.name]
    words = tools.text.vocabulary(clip, exclude)
    told = {tools.erasure.ANCHOR, tools.erasure.NEGATIVE}
    told |= {target.template.replace("*", target.name)}
    templates = tools.erasing.text_templates(target.template)
    told |= set(tools.erasing.concept_prompts(target.name, templates))
    for prompt, anchor in tools.erasing.subject_prompts(target.name, target.template, words):
        told |= {prompt, anchor}
    patterns = tools.erasing.bank_templates(target.template)
    told |= set(tools.erasing.vocabulary_prompts(words, patterns, size, seed=seed))
    return told


@pytest.mark.parametrize("name, kind", [("ink", "style"), ("noto", "style"), ("rocket", "object")])
def test_no_prompt_that_judges_was_trained_on(tools, gallery, name, kind):
    target = tools.targets.Target(name, kind)
    asked = set(target.prompts(3, 1)[0])
    asked |= {text for style in target.other_styles() for text in target.others(style)}
    for seed in (0, 1):
        told = trained_on(tools, gallery[1], target, seed)
        assert len(told) > 150
        assert not asked & told
        assert not [t for t in told for held in tools.gallery.HELD_OUT if held in t.split()]


def test_no_noise_that_judges_was_trained_on(tools, gallery, monkeypatch):
    """Of the pool's, the bank's and the evaluation's noise no two pictures start alike."""
    from comfy.sample import prepare_noise

    shape = (8, tools.models.LATENT_CHANNELS, 8, 8)
    judged = [
        prepare_noise(torch.zeros(shape), tools.figures.PICTURE_SEED + 48 * i) for i in range(12)
    ]
    judged.append(torch.randn(shape, generator=torch.Generator().manual_seed(
        tools.figures.ATTACK_SEED
    )))  # fmt: skip
    trained = [
        torch.randn(shape, generator=generator(seed, 0, role))
        for seed in (0, 1)
        for role in ("pool", "bank.noise", "pictures", "chase", "keep")
    ]
    seen = {tuple(x.flatten()[:8].tolist()) for x in torch.cat(trained)}
    assert not [x for x in torch.cat(judged) if tuple(x.flatten()[:8].tolist()) in seen]


def test_the_attackers_drawings_are_no_placements_that_the_models_learnt_from(tools):
    """The method sees pictures that the model made; the models saw the same things elsewhere."""
    gallery, count = tools.gallery, len(tools.gallery.STYLES) * len(tools.gallery.OBJECTS)
    number = torch.arange(3 * count) % count
    learnt = gallery.place(
        gallery.load_atlas(), number // len(gallery.OBJECTS), number % len(gallery.OBJECTS),
        torch.Generator().manual_seed(1),
    )  # fmt: skip
    for target in (tools.targets.Target("ink"), tools.targets.Target("rocket", "object")):
        held, _ = target.drawings(32, tools.figures.ATTACK_SEED)
        assert len(held) == 32
        assert not [x for x in learnt.permute(0, 2, 3, 1) if (held == x).flatten(1).all(1).any()]


def a_file(tools, model, path, scale):
    """A LoRA on every layer that an erasure adapts, random or of zeros."""
    tensors, gen = {}, torch.Generator().manual_seed(1)
    for name, stem in tools.lora.names_of(model).items():
        out, inner = model.model.diffusion_model.get_submodule(name).weight.shape
        tensors[f"{stem}.lora_up.weight"] = scale * torch.randn(out, 2, generator=gen)
        tensors[f"{stem}.lora_down.weight"] = torch.randn(2, inner, generator=gen)
        tensors[f"{stem}.alpha"] = torch.tensor(2.0)
    save_file(tensors, path)
    return path


PROMPTS = ["a ink picture of a apple", "a noto picture of a tree"]


def test_a_lora_of_zeros_changes_nothing(tools, gallery, tmp_path):
    file = a_file(tools, gallery[0], tmp_path / "zeros.safetensors", 0.0)
    plain, zeros = tools.figures.Studio(None), tools.figures.Studio(file)
    assert torch.equal(zeros.draw(PROMPTS, 5), plain.draw(PROMPTS, 5))


def test_what_is_judged_is_the_saved_file_on_a_fresh_model(tools, gallery, tmp_path):
    """Not what is left in memory: a changed file gives other figures, a removed one none."""
    fresh = tools.models.load_demo_models()[0]
    file = a_file(tools, fresh, tmp_path / "lora.safetensors", 0.3)
    studio = tools.figures.Studio(file)
    assert studio.model.model is not fresh.model
    state = fresh.model.diffusion_model.state_dict()
    judged = studio.model.model.diffusion_model.state_dict()
    assert all(torch.equal(judged[k], v) for k, v in state.items())
    expected = tools.lora.apply_lora(fresh, load_file(file))
    assert len(expected.patches) == len(studio.model.patches)
    one = studio.draw(PROMPTS, 5)
    a_file(tools, fresh, file, 0.0)
    assert not torch.allclose(one, tools.figures.Studio(file).draw(PROMPTS, 5), atol=1e-3)
    file.unlink()
    with pytest.raises(FileNotFoundError):
        tools.figures.Studio(file)


def test_half_strength_lies_between_and_another_lora_comes_on_top(tools, gallery, tmp_path):
    file = a_file(tools, gallery[0], tmp_path / "lora.safetensors", 0.1)
    plain, whole, half, both = (
        studio.draw(PROMPTS, 5)
        for studio in (
            tools.figures.Studio(None), tools.figures.Studio(file),
            tools.figures.Studio(file, 0.5), tools.figures.Studio(file, 0.5, beside=file),
        )
    )  # fmt: skip
    near, far = ((x - plain).detach().norm() for x in (half, whole))
    assert 0.0 < float(near) < float(far)
    assert not torch.allclose(both, half, atol=1e-3)
