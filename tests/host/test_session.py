"""The training session on the host's real objects: the MODEL that went in stays as it was."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.host

SHORT = 4  # sampling steps


@pytest.fixture(scope="module")
def gallery(hosted):
    from dark_miner.demo.models import load_demo_models

    return load_demo_models()


@pytest.fixture(scope="module")
def tools(hosted):
    from dark_miner.darkminer import adapter, config, loop, rng
    from dark_miner.darkminer import circumvent as circumvention
    from dark_miner.nodes import erasing, host, host_lora, host_text, host_vision, image_pool

    class Tools:
        pass

    for module in (
        adapter, config, loop, rng, circumvention, erasing, host, host_lora, host_text,
        host_vision, image_pool,
    ):  # fmt: skip
        setattr(Tools, module.__name__.rpartition(".")[2], module)
    Tools.sampling = config.SamplingConfig(SHORT, 2.0, "euler", "normal", 16)
    return Tools


def picture(model, clip, text="a noto drawing of a penguin", seed=5):
    """Latents of the host's own sampler."""
    from dark_miner.demo.measure import sample as draw

    class Raw:
        @staticmethod
        def decode(latents):
            return latents

    return draw(
        model, clip, Raw, [text], seed,
        {"steps": SHORT, "cfg": 2.0, "sampler_name": "euler", "scheduler": "normal"},
    )  # fmt: skip


def pool(tools, gallery, size=6):
    model, clip, vae, _ = gallery
    return tools.image_pool.made(
        model, clip, vae, "ink", "a ink drawing", "", size, 32, 32, 0, tools.sampling,
        lambda report: None,
    )  # fmt: skip


def short(tools):
    config = tools.config
    few = {"steps": 4, "lr_drop": 3, "bank_batch": 2, "batch": 2}
    return replace(
        config.FAST,
        text_words=2,
        mine=replace(config.FAST.mine, steps=3, count=1, tokens=1, token_words=1),
        verify=replace(config.FAST.verify, threshold=-1.0, draws=1),
        circumvent=replace(config.FAST.circumvent, **few),
        start=replace(config.FAST.start, **few),
        chase=replace(config.FAST.chase, steps=3, lr_drop=2),
        bank=replace(config.FAST.bank, size=6),
    )


def erase(tools, gallery, report=lambda r: None, seed=0):
    model, clip, vae, vision = gallery
    return tools.erasing.run_erasure(
        model, clip, vae, tools.host_vision.vision_encoder(vision, "test"), pool(tools, gallery),
        short(tools), anchor="a drawing", negative="", sampling=tools.sampling, seed=seed,
        report=report,
    )  # fmt: skip


def test_the_model_is_bit_identical_after_success_and_the_saved_file_is_the_erasure(
    tools, gallery, tmp_path: Path
):
    from dark_miner.darkminer.lora_file import save_lora
    from dark_miner.demo.models import load_demo_models
    from safetensors.torch import load_file

    model, clip, _, _ = gallery
    before = picture(model, clip)
    _, lora = erase(tools, gallery)
    assert torch.equal(picture(model, clip), before)
    save_lora(tmp_path / "erase.safetensors", lora, lora.metadata)
    fresh = load_demo_models()[0]
    loaded = tools.host_lora.apply_lora(fresh, load_file(tmp_path / "erase.safetensors"))
    assert len(loaded.patches) == len(tools.host_lora.names_of(fresh)) == len(lora) // 3 == 66
    own = tools.host_lora.apply_lora(model, lora)
    assert torch.equal(picture(loaded, clip), picture(own, clip))
    assert not torch.allclose(picture(own, clip), before)


def test_same_seed_same_lora_bit_for_bit(tools, gallery):
    one, same, other = (erase(tools, gallery, seed=s)[1] for s in (0, 0, 1))
    assert all(torch.equal(one[k], same[k]) for k in one)
    assert any(not torch.equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize("stage", ["bank", "mine", "verify", "circumvent"])
def test_the_model_is_bit_identical_after_an_error_or_a_cancel_in_any_stage(tools, gallery, stage):
    import comfy.model_management as management

    model, clip, _, _ = gallery
    before = picture(model, clip)
    for kind in (RuntimeError, management.InterruptProcessingException):

        def stop(report, kind=kind):
            if report.stage == stage:
                raise kind

        with pytest.raises(kind):
            erase(tools, gallery, report=stop)
        assert management.in_training is False
        assert torch.equal(picture(model, clip), before)


def test_frozen_weights_of_the_training_copy_do_not_move(tools, gallery):
    model, clip, _, _ = gallery
    images = pool(tools, gallery)
    anchor = tools.host_text.conditioning(clip, "a drawing")
    with tools.host.training_session(
        model, anchor=anchor, sampling=tools.sampling, latent_size=images.latent_size
    ) as session:
        digest = tools.adapter.frozen_digest(session.network)
        config = short(tools).circumvent
        adapters = tools.loop.new_adapters(session, config, seed=0)
        start = tools.erasing.concept_contexts(clip, images, short(tools), exclude=(), seed=0)
        context = tools.host.context_of(anchor, "test", "anchor")
        tools.circumvent.circumvent(session, adapters, start, context, config, seed=0)
        assert any(float(up.abs().max()) > 0 for up in adapters.state().up.values())
        assert tools.adapter.frozen_digest(session.network) == digest


def test_upstream_loras_are_in_the_training_copy_once(tools, gallery):
    """Erase what the user sees: the MODEL's own LoRA counts, loaded or not."""
    model, clip, _, _ = gallery
    _, lora = erase(tools, gallery)
    patched = tools.host_lora.apply_lora(model, {k: v * 3 for k, v in lora.items()})
    anchor = tools.host_text.conditioning(clip, "a drawing")
    name = "input_blocks.1.1.transformer_blocks.0.attn2.to_v"
    original = model.model.diffusion_model.get_submodule(name).weight.detach().clone()

    def copied():
        with tools.host.training_session(
            patched, anchor=anchor, sampling=tools.sampling, latent_size=(8, 8)
        ) as session:
            return session.network.get_submodule(name).weight.detach().clone()

    cold = copied()
    picture(patched, clip)  # loads the MODEL with its patches in place
    assert torch.equal(copied(), cold)
    assert not torch.equal(cold, original.float())


def test_the_text_encoder_copy_is_the_hosts_and_gradients_reach_the_token(tools, gallery):
    clip = gallery[1]
    with tools.host.training_mode():
        text = tools.host_text.TextEncoder(clip)
        word = text.word("penguin")[None].requires_grad_(True)
        ours = text(["a drawing of a *"], word)
        theirs = tools.host_text.contexts(clip, ["a drawing of a penguin"])[0]
        assert torch.allclose(ours[0], theirs, atol=1e-5)
        ours.square().sum().backward()
        assert float(word.grad.abs().max()) > 0


def test_a_mask_of_the_anchors_length_does_not_hide_tokens_of_another(hosted):
    """An embedding may be longer or shorter than the prompt whose mask came with the anchor."""
    from dark_miner.nodes.host_predict import fitted

    extra = {"attention_mask": torch.tensor([[1, 1, 0]]), "guidance": 3.5}
    assert fitted(extra, 3)["attention_mask"] is extra["attention_mask"]
    for length in (1, 5):
        mask = fitted(extra, length)["attention_mask"]
        assert mask.shape == (1, length) and mask.all() and mask.dtype == torch.int64
    assert extra["attention_mask"].tolist() == [[1, 1, 0]] and fitted(extra, 5)["guidance"] == 3.5
    assert "attention_mask" not in fitted({}, 4)
