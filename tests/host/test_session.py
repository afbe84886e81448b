"""The training session on the host's real objects: the MODEL that went in stays as it was."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from .conftest import pack

pytestmark = pytest.mark.host

SHORT = 4  # sampling steps


@pytest.fixture(scope="module")
def gallery(hosted):
    from dark_miner.demo.models import load_demo_models

    return load_demo_models()


@pytest.fixture(scope="module")
def tools(hosted):
    from dark_miner.darkminer import config, rng
    from dark_miner.darkminer.method import circumvent as circumvention
    from dark_miner.darkminer.method import loop
    from dark_miner.darkminer.model import adapter
    from dark_miner.nodes.erase import erasing, image_pool
    from dark_miner.nodes.host import copy, lora, session, text, vision

    class Tools:
        pass

    for module in (
        adapter, config, loop, rng, circumvention, erasing, session, copy, lora,
        text, vision, image_pool,
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
        model, clip, vae, "ink", "a * drawing", "", size, 32, 32, 0, tools.sampling,
        lambda report: None,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["sampler", "scheduler"])
def test_what_the_host_would_replace_without_a_word_is_refused(tools, gallery, name):
    model, clip, vae, _ = gallery
    other = replace(tools.sampling, **{name: "magic"})
    words = f"{name} 'magic' is none of this ComfyUI's: choose of .*(euler|karras)"
    with pytest.raises(pack("darkminer.errors").DarkMinerError, match=words):
        tools.image_pool.made(model, clip, vae, "ink", "a * drawing", "", 1, 32, 32, 0, other, None)


def short(tools):
    config = tools.config
    few = {"steps": 4, "lr_drop": 3, "batch": 2}
    return replace(
        config.FAST,
        text_words=2,
        mine=replace(config.FAST.mine, steps=3, length=20, count=1, tokens=1, token_words=1),
        verify=replace(config.FAST.verify, threshold=-1.0, draws=1),
        circumvent=replace(config.FAST.circumvent, **few),
        start=replace(config.FAST.start, **few),
        chase=replace(config.FAST.chase, steps=3, lr_drop=2),
        bank=replace(config.FAST.bank, size=6),
        retain=replace(config.FAST.retain, batch=2),
    )


def erase(tools, gallery, report=lambda r: None, seed=0):
    model, clip, vae, vision = gallery
    return tools.erasing.run_erasure(
        model, clip, vae, tools.vision.vision_encoder(vision, "test"), pool(tools, gallery),
        short(tools), anchor="a drawing", negative="", sampling=tools.sampling, seed=seed,
        report=report,
    )  # fmt: skip


def test_the_model_is_bit_identical_after_success_and_the_saved_file_is_the_erasure(
    tools, gallery, tmp_path: Path
):
    from dark_miner.darkminer.files.lora_file import save_lora
    from dark_miner.demo.models import load_demo_models
    from safetensors.torch import load_file

    model, clip, _, _ = gallery
    before = picture(model, clip)
    _, lora = erase(tools, gallery)
    assert torch.equal(picture(model, clip), before)
    save_lora(tmp_path / "erase.safetensors", lora, lora.metadata)
    fresh = load_demo_models()[0]
    loaded = tools.lora.apply_lora(fresh, load_file(tmp_path / "erase.safetensors"))
    assert len(loaded.patches) == len(tools.lora.names_of(fresh)) == len(lora) // 3 == 66
    own = tools.lora.apply_lora(model, lora)
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
    anchor = tools.text.conditioning(clip, "a drawing")
    with tools.session.training_session(
        model, anchor=anchor, sampling=tools.sampling, latent_size=images.latent_size
    ) as session:
        digest = tools.adapter.frozen_digest(session.network)
        config = short(tools)
        adapters = tools.loop.new_adapters(session, config.lora, seed=0)
        start = tools.erasing.concept_contexts(clip, images, config, exclude=(), seed=0)
        context = tools.session.context_of(anchor, "test", "anchor")
        tools.circumvent.circumvent(session, adapters, start, context, config.circumvent, seed=0)
        assert any(float(up.abs().max()) > 0 for up in adapters.state().up.values())
        assert tools.adapter.frozen_digest(session.network) == digest


def test_upstream_loras_are_in_the_training_copy_once(tools, gallery):
    """Erase what the user sees: the MODEL's own LoRA counts, loaded or not."""
    model, clip, _, _ = gallery
    _, lora = erase(tools, gallery)
    patched = tools.lora.apply_lora(model, {k: v * 3 for k, v in lora.items()})
    anchor = tools.text.conditioning(clip, "a drawing")
    name = "input_blocks.1.1.transformer_blocks.0.attn2.to_v"
    original = model.model.diffusion_model.get_submodule(name).weight.detach().clone()

    def copied():
        with tools.session.training_session(
            patched, anchor=anchor, sampling=tools.sampling, latent_size=(8, 8)
        ) as session:
            return session.network.get_submodule(name).weight.detach().clone()

    cold = copied()
    picture(patched, clip)  # loads the MODEL with its patches in place
    assert torch.equal(copied(), cold)
    assert not torch.equal(cold, original.float())


def test_the_text_encoder_copy_is_the_hosts_and_gradients_reach_the_token(tools, gallery):
    clip = gallery[1]
    with tools.session.training_mode():
        text = tools.text.TextEncoder(clip)
        word = text.embedding("penguin")[None].requires_grad_(True)
        ours = text(["a drawing of a *"], word)
        theirs = tools.text.contexts(clip, ["a drawing of a penguin"])[0]
        assert torch.allclose(ours[0].cpu(), theirs, atol=1e-5)
        ours.square().sum().backward()
        assert float(word.grad.abs().max()) > 0


class Loaned:
    """Memory of the host's loader: freed with its owner, so a copy would free it again."""

    def __deepcopy__(self, memo):
        raise AssertionError("what the loader keeps on a layer was copied")


def test_what_the_hosts_loader_keeps_on_layers_stays_with_the_original(tools, gallery):
    """With the host's dynamic loading, layers hold handles of the memory they are fetched to."""
    model, clip, _, _ = gallery
    copied = model.model.diffusion_model, clip.cond_stage_model
    layers = [
        m for network in copied for m in network.modules() if hasattr(m, "comfy_cast_weights")
    ]
    loaned = {"_v": (Loaned(), 0, 1), "_pin_state": {"weights": Loaned()}, "_pins": Loaned()}
    loaned |= {"weight_lowvram_function": Loaned(), "_v_weight": Loaned(), "_v_bias": Loaned()}
    loaned |= {"dynamic_vbars": {"cuda:0": Loaned()}, "dynamic_pins": {"cuda:0": Loaned()}}
    assert len(layers) > 100
    before = [{name: vars(m)[name] for name in loaned if name in vars(m)} for m in layers]
    try:
        for layer in layers:
            vars(layer).update(loaned)
        copies = [
            *tools.copy.training_copy(model).diffusion_model.modules(),
            *tools.copy.plain_copy(clip.patcher, clip.cond_stage_model).modules(),
        ]
        assert not [m for m in copies if vars(m).keys() & loaned.keys()]
        assert all(vars(layer)["_v"] is loaned["_v"] for layer in layers)
    finally:
        for layer, own in zip(layers, before, strict=True):
            for name in loaned:
                vars(layer).pop(name, None)
            vars(layer).update(own)


def test_a_session_goes_on_after_other_models_have_taken_its_networks_place(tools, gallery, caplog):
    import comfy.model_management as management

    model, clip, _, _ = gallery
    anchor, negative = (tools.text.conditioning(clip, p) for p in ("a drawing", ""))
    with tools.session.training_session(
        model, anchor=anchor, negative=negative, sampling=tools.sampling, latent_size=(8, 8)
    ) as session:
        adapters = tools.loop.new_adapters(session, short(tools).lora, seed=0)
        context = anchor[0][0].float().to(session.device)
        x, t = torch.ones(1, 8, 8, 8, device=session.device), torch.full((1,), 500.0).to(context)
        before = session.denoise(x, t, context).detach()
        loaded = [m.model for m in management.current_loaded_models]
        (patcher,) = [
            p for p in loaded if getattr(p.model, "diffusion_model", None) is session.network
        ]
        management.unload_all_models()
        assert patcher not in [m.model for m in management.current_loaded_models]
        patcher.model.device = torch.device("meta")  # where no weights are, as on the CPU for a GPU
        after = session.denoise(x, t, context)
        assert patcher in [m.model for m in management.current_loaded_models]
        assert patcher.model.device == session.device and torch.equal(after.detach(), before)
        gradients = torch.autograd.grad(after.sum(), adapters.parameters())
        assert all(
            g.device == p.device for g, p in zip(gradients, adapters.parameters(), strict=True)
        )
        session.sample(context, x)
    assert "not on same device" not in caplog.text


def test_a_training_copy_is_loaded_whole_or_not_at_all(tools, gallery):
    model = gallery[0]
    patcher = tools.copy.WholePatcher(
        tools.copy.training_copy(model), model.load_device, model.offload_device
    )
    patcher.partially_load(model.load_device, extra_memory=1.0)
    assert not patcher.model.model_lowvram
    assert patcher.loaded_size() == patcher.model_size()
    assert patcher.partially_unload(model.offload_device, 10**6) == 0
    assert patcher.loaded_size() == patcher.model_size() and not patcher.model.model_lowvram


def test_only_the_attentions_gradient_is_held_to_its_repeatable_algorithm(hosted):
    from comfy.ldm.modules.attention import attention_pytorch
    from dark_miner.nodes.host.training import repeatable_backward

    warns, seen = torch.is_deterministic_algorithms_warn_only_enabled, []
    q = torch.randn(2, 16, 64, requires_grad=True)
    answer = attention_pytorch(q * 2.0, q, q, 4)
    node = answer.grad_fn
    while "ScaledDotProduct" not in node.name():
        node = node.next_functions[0][0]
    try:
        torch.use_deterministic_algorithms(True, warn_only=True)
        repeatable_backward(answer, "ScaledDotProduct")
        node.register_prehook(lambda _: seen.append(("attention", warns())))
        node.next_functions[0][0].register_prehook(lambda _: seen.append(("after", warns())))
        answer.sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)
    assert seen == [("attention", False), ("after", True)]


def test_a_mask_of_the_anchors_length_does_not_hide_tokens_of_another(hosted):
    """An embedding may be longer or shorter than the prompt whose mask came with the anchor."""
    from dark_miner.nodes.host.predict import fitted

    extra = {"attention_mask": torch.tensor([[1, 1, 0]]), "guidance": 3.5}
    assert fitted(extra, 3)["attention_mask"] is extra["attention_mask"]
    for length in (1, 5):
        mask = fitted(extra, length)["attention_mask"]
        assert mask.shape == (1, length) and mask.all() and mask.dtype == torch.int64
    assert extra["attention_mask"].tolist() == [[1, 1, 0]] and fitted(extra, 5)["guidance"] == 3.5
    assert "attention_mask" not in fitted({}, 4)
