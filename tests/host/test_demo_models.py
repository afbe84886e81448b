"""The gallery's models in the real host: core nodes take them as they take any checkpoint."""

import copy
import os

import pytest
import torch
from dark_miner.demo import gallery
from dark_miner.demo.host import use_host

pytestmark = [
    pytest.mark.host,
    pytest.mark.skipif("COMFYUI_PATH" not in os.environ, reason="COMFYUI_PATH names no ComfyUI"),
]


@pytest.fixture(scope="module")
def core():
    """The host's module of core nodes."""
    use_host()
    import nodes

    return nodes


@pytest.fixture(scope="module")
def loaded(core):
    from dark_miner.demo.models import load_demo_models

    return load_demo_models()


@pytest.fixture(autouse=True)
def _inference():
    with torch.inference_mode():
        yield


def sampled(core, model, clip, text="a ink drawing of a crab", seed=1, steps=2):
    positive = core.CLIPTextEncode().encode(clip, text)[0]
    negative = core.CLIPTextEncode().encode(clip, "")[0]
    latent = core.EmptyLatentImage().generate(gallery.SIZE, gallery.SIZE, 2)[0]
    settings = {**gallery.SAMPLING, "steps": steps}
    return core.KSampler().sample(
        model, seed=seed, positive=positive, negative=negative, latent_image=latent, **settings
    )[0]


def test_from_text_to_picture_by_core_nodes(core, loaded):
    model, clip, vae, _ = loaded
    conditioning = core.CLIPTextEncode().encode(clip, "a noto drawing of a crab")[0]
    assert conditioning[0][0].shape == (1, 32, 128)
    latent = sampled(core, model, clip)
    assert latent["samples"].shape == (2, 8, 8, 8)
    images = core.VAEDecode().decode(vae, latent)[0]
    assert images.shape == (2, 32, 32, 3)
    assert torch.isfinite(images).all() and images.std() > 0.01


def test_a_text_longer_than_the_model_takes_is_several_pieces(core, loaded):
    text = " ".join(["a nice noto drawing"] * 12)
    conditioning = core.CLIPTextEncode().encode(loaded[1], text)[0]
    assert conditioning[0][0].shape == (1, 64, 128)


def test_drawings_survive_the_autoencoder(core, loaded):
    images, _, _ = gallery.drawings("noto", 48, seed=8)
    latent = core.VAEEncode().encode(loaded[2], images)[0]
    assert latent["samples"].shape == (48, 8, 8, 8)
    back = core.VAEDecode().decode(loaded[2], latent)[0]
    assert (back - images).abs().mean() < 0.04


def test_latents_have_unit_size_for_the_model(core, loaded):
    images = torch.cat([gallery.drawings(style, 24, seed=2)[0] for style in gallery.STYLES])
    latent = loaded[2].encode(images)
    scaled = loaded[0].model.process_latent_in(latent)
    assert 0.8 < scaled.std() < 1.2
    assert torch.allclose(loaded[0].model.process_latent_out(scaled), latent, atol=1e-5)


def test_image_embeddings_match_their_captions(core, loaded):
    _, clip, _, vision = loaded
    images, captions, _ = gallery.drawings("flat", 48, seed=6)
    output = core.CLIPVisionEncode().encode(vision, images, "none")[0]
    assert output["image_embeds"].shape == (48, 128)
    ends = [core.CLIPTextEncode().encode(clip, text)[0][0][1]["pooled_output"] for text in captions]
    project = clip.cond_stage_model.clip_l.transformer.text_projection
    words = torch.nn.functional.normalize(project(torch.cat(ends)), dim=-1)
    seen = torch.nn.functional.normalize(output["image_embeds"], dim=-1)
    assert ((seen @ words.T).argmax(1) == torch.arange(48)).float().mean() > 0.9


def test_schedule_is_the_one_the_unet_was_trained_with(loaded):
    from dark_miner.demo.train_unet import signal

    kept = signal()
    sigmas = ((1 - kept) / kept).sqrt()
    assert torch.allclose(loaded[0].model.model_sampling.sigmas.cpu(), sigmas, rtol=1e-4)


def test_clones_and_copies_give_the_same_pictures(core, loaded):
    model, clip, _, _ = loaded
    before = sampled(core, model, clip)["samples"]
    assert torch.equal(before, sampled(core, model.clone(), clip.clone())["samples"])
    copied = copy.deepcopy(model.model.diffusion_model)
    assert copied.state_dict().keys() == model.model.diffusion_model.state_dict().keys()
    assert torch.equal(before, sampled(core, model, clip)["samples"])


def test_lora_loader_patches_every_value_projection(core, loaded, tmp_path):
    import comfy.utils
    import folder_paths
    import safetensors.torch

    model, clip, _, _ = loaded
    names = comfy.utils.unet_to_diffusers(model.model.model_config.unet_config)
    weights = model.model.diffusion_model.state_dict()
    stems = {d: w for d, w in names.items() if w.endswith("to_v.weight")}
    assert len(stems) == len([w for w in weights if w.endswith("to_v.weight")]) == 22
    lora = {}
    for diffusers, ours in stems.items():
        stem = "lora_unet_" + diffusers.removesuffix(".weight").replace(".", "_")
        rows, columns = weights[ours].shape
        lora[f"{stem}.lora_up.weight"] = torch.full((rows, 1), 0.3)
        lora[f"{stem}.lora_down.weight"] = torch.full((1, columns), 0.3)
        lora[f"{stem}.alpha"] = torch.tensor(1.0)
    safetensors.torch.save_file(lora, tmp_path / "demo.safetensors")
    folder_paths.add_model_folder_path("loras", str(tmp_path))
    patched = core.LoraLoader().load_lora(model, clip, "demo.safetensors", 1.0, 0.0)[0]
    assert len(patched.patches) == 22
    before, after = sampled(core, model, clip), sampled(core, patched, clip)
    assert not torch.equal(before["samples"], after["samples"])
    assert torch.equal(before["samples"], sampled(core, model, clip)["samples"])


def test_previews_have_colours(loaded):
    latent_format = loaded[0].model.latent_format
    factors = torch.tensor(latent_format.latent_rgb_factors)
    bias = torch.tensor(latent_format.latent_rgb_factors_bias)
    images, _, _ = gallery.drawings("flat", 48, seed=3)
    latent = loaded[0].model.process_latent_in(loaded[2].encode(images))
    colours = latent.movedim(1, -1) @ factors + bias
    pixels = torch.nn.functional.avg_pool2d(images.movedim(-1, 1), 4).movedim(1, -1) * 2 - 1
    assert (colours - pixels).abs().mean() < 0.2


def test_missing_weights_are_named_in_one_sentence(core, tmp_path):
    from dark_miner.demo.models import load_demo_models

    with pytest.raises(FileNotFoundError, match=r"unet\.safetensors, clip_text\.safetensors"):
        load_demo_models(tmp_path)


def test_pictures_for_the_judge_hold_no_graph(loaded):
    # With gradients on, as in a benchmark: each would hold what every layer has computed for it.
    from dark_miner.demo.limits import through
    from dark_miner.demo.measure import sample

    model, clip, vae, _ = loaded
    with torch.inference_mode(False), torch.enable_grad():
        images = sample(model, clip, vae, ["a drawing"], 0, {**gallery.SAMPLING, "steps": 2})
        assert not images.requires_grad
        assert not through(vae, images).requires_grad
