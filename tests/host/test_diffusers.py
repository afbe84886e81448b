"""The saved file in the real diffusers and PEFT: the same weights, the same LoRA, the same output.

The host's network and diffusers' get the same random weights by the tables of the one or the other,
so that equal outputs prove that every key meant the layer it was trained on.
"""

import importlib
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file

from . import miniature
from .miniature import FAMILIES

pytestmark = pytest.mark.host

CLOSE = {"rtol": 1e-3, "atol": 2e-4}
FLUX_WIDTH = 3072  # diffusers splits a kohya file's linear1 at this width and no other


@pytest.fixture(scope="module")
def tools(hosted):
    names = {
        "adapter": "darkminer.model.adapter", "lora_file": "darkminer.files.lora_file",
        "rng": "darkminer.rng", "lora": "nodes.host.lora", "layers": "darkminer.model.layers",
    }  # fmt: skip
    found = {k: importlib.import_module(f"dark_miner.{v}") for k, v in names.items()}
    return SimpleNamespace(**found, sd=importlib.import_module("comfy.sd"))


@pytest.fixture(scope="module", autouse=True)
def training(tools):
    """The host's kernels as a session has them, so that both sides compute in plain torch."""
    with importlib.import_module("dark_miner.nodes.host.training").training_mode():
        yield


def adapted(tools, network, names, path, form=lambda lora: lora):
    """Random adapters on a network, and the file they are saved as."""
    gen = tools.rng.generator(0, 0, "adapter")
    adapters = tools.adapter.Adapters.inject(network, names, 4, 2.0, gen)
    noise = torch.Generator().manual_seed(3)
    for p in adapters.parameters():
        p.data = torch.randn(p.shape, generator=noise) * 0.2
    lora = form(tools.lora_file.to_state_dict(adapters.state(), names))
    tools.lora_file.save_lora(path, lora, {})
    return adapters


def network_and_names(tools, name, folder):
    """A family's host network, its weights and its key stems, as the host detects them."""
    file = miniature.checkpoint(FAMILIES[name], folder / "model.safetensors")
    model = tools.sd.load_diffusion_model(str(file))
    network = FAMILIES[name].network()
    miniature.fill(network)
    weights = {k: v.clone() for k, v in network.state_dict().items()}
    names, config = tools.lora.names_of(model), model.model.model_config.unet_config
    return network.requires_grad_(False).eval(), weights, names, config


def compare(pipe, module, path, theirs, ours, adapters, layers):
    """Without the LoRA, with it, at strengths 0, 0.5 and 1."""
    with torch.no_grad():
        with adapters.off():
            assert torch.allclose(theirs(), ours(), **CLOSE), "the two networks must be one"
        plain = theirs()
        pipe.load_lora_weights(str(path.parent), weight_name=path.name)
        loaded = [
            m for m in module.modules()
            if isinstance(m, LoraLayer) and any(p.weight.any() for p in m.lora_B.values())
        ]  # fmt: skip
        assert len(loaded) == layers
        full, trained = theirs(), ours()
        assert torch.allclose(full, trained, **CLOSE)
        assert not torch.allclose(full, plain, atol=1e-2)
        pipe.set_adapters(pipe.get_active_adapters(), 0.5)
        toward = full - plain
        share = float(((theirs() - plain) * toward).sum() / toward.square().sum())
        assert 0.05 < share < 0.95
        pipe.set_adapters(pipe.get_active_adapters(), 0.0)
        assert torch.allclose(theirs(), plain, atol=1e-6)
        pipe.unload_lora_weights()
        assert torch.equal(theirs(), plain)


def into_unet(weights, config, unet):
    """The host's weights in diffusers' UNet, by the host's own table of names."""
    from comfy.utils import unet_to_diffusers

    table, wanted = unet_to_diffusers(config), unet.state_dict()
    named = {k: weights[table[k]].view(v.shape) for k, v in wanted.items()}
    unet.load_state_dict(named, strict=True)
    return unet.eval()


def sd15(tools, folder):
    """A Stable Diffusion 1.x network in both libraries, with adapters in the host's."""
    from diffusers import UNet2DConditionModel

    network, weights, names, config = network_and_names(tools, "sd15", folder)
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(320,), layers_per_block=1, cross_attention_dim=768,
        down_block_types=("CrossAttnDownBlock2D",), up_block_types=("CrossAttnUpBlock2D",),
        mid_block_type="UNetMidBlock2D", attention_head_dim=8,
    )  # fmt: skip
    into_unet(weights, config, unet)
    adapters = adapted(tools, network, names, folder / "lora.safetensors")
    x, t, c = torch.randn(2, 4, 8, 8), torch.tensor([10.0, 700.0]), torch.randn(2, 7, 768)
    return unet, adapters, names, lambda: unet(x, t, c).sample, lambda: network(x, t, context=c)


def test_sd15_equals_in_diffusers(tools, tmp_path):
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    unet, adapters, names, theirs, ours = sd15(tools, tmp_path)
    pipe = StableDiffusionPipeline(
        vae=None, text_encoder=None, tokenizer=None, unet=unet, scheduler=DDIMScheduler(),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    compare(pipe, unet, tmp_path / "lora.safetensors", theirs, ours, adapters, len(names))


def peft_weights(file, network):
    """A kohya file's halves in PEFT's names, and its alpha.

    By kohya's rule a key begins with the layer's path with underscores.
    """
    paths = {f"lora_unet_{path.replace('.', '_')}": path for path, _ in network.named_modules()}
    halves = {"lora_down.weight": "lora_A.weight", "lora_up.weight": "lora_B.weight"}
    weights, alphas = {}, set()
    for key, weight in load_file(file).items():
        stem, _, half = key.partition(".")
        if half == "alpha":
            alphas.add(float(weight))
        else:
            weights[f"{paths[stem]}.{halves[half]}"] = weight
    (alpha,) = alphas
    return weights, alpha


def test_sd15_equals_in_peft(tools, tmp_path):
    """PEFT alone puts the file's layers into diffusers' network, with the file's rank and alpha."""
    unet, adapters, names, theirs, ours = sd15(tools, tmp_path)
    weights, alpha = peft_weights(tmp_path / "lora.safetensors", unet)
    layers = {key.rpartition(".lora_")[0] for key in weights}
    (rank,) = {len(weight) for key, weight in weights.items() if "lora_A" in key}
    plain = theirs().detach()
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=sorted(layers))
    inject_adapter_in_model(config, unet)
    result = set_peft_model_state_dict(unet, weights)
    assert not result.unexpected_keys
    assert not [key for key in result.missing_keys if "lora" in key]
    loaded = [m for m in unet.modules() if isinstance(m, LoraLayer)]
    assert len(loaded) == len(names) == len(layers)
    assert all(m.lora_B["default"].weight.any() for m in loaded)
    with torch.no_grad():
        assert torch.allclose(theirs(), ours(), **CLOSE)
        assert not torch.allclose(theirs(), plain, atol=1e-2)
        for layer in loaded:
            layer.set_scale("default", 0.0)
        assert torch.allclose(theirs(), plain, atol=1e-6)
        with adapters.off():
            assert torch.allclose(theirs(), ours(), **CLOSE)


def test_sdxl_equals_in_diffusers(tools, tmp_path):
    from diffusers import DDIMScheduler, StableDiffusionXLPipeline, UNet2DConditionModel

    network, weights, names, config = network_and_names(tools, "sdxl", tmp_path)
    assert all(stem.startswith(("lora_unet_input_", "lora_unet_out")) for stem in names.values())
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(320, 320, 320), layers_per_block=2,
        cross_attention_dim=2048, mid_block_type="UNetMidBlock2D", use_linear_projection=True,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=[1, 2, 10], reverse_transformer_layers_per_block=[1, 1, 1],
        attention_head_dim=5, addition_embed_type="text_time", addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )  # fmt: skip
    into_unet(weights, config, unet)
    adapters = adapted(tools, network, names, tmp_path / "lora.safetensors")
    pipe = StableDiffusionXLPipeline(
        vae=None, text_encoder=None, text_encoder_2=None, tokenizer=None, tokenizer_2=None,
        unet=unet, scheduler=DDIMScheduler(),
    )  # fmt: skip
    x, t, c = torch.randn(1, 4, 8, 8), torch.tensor([700.0]), torch.randn(1, 7, 2048)
    pooled, sizes = torch.randn(1, 1280), torch.tensor([[64.0, 64.0, 0.0, 0.0, 64.0, 64.0]])
    added = {"text_embeds": pooled, "time_ids": sizes}
    from comfy.ldm.modules.diffusionmodules.openaimodel import Timestep

    y = torch.cat([pooled, Timestep(256)(sizes[0]).flatten()[None]], dim=1)
    compare(
        pipe, unet, tmp_path / "lora.safetensors",
        lambda: unet(x, t, c, added_cond_kwargs=added).sample,
        lambda: network(x, t, context=c, y=y), adapters, len(names),
    )  # fmt: skip


def test_sd3_equals_in_diffusers_by_the_diffusers_format(tools, tmp_path):
    from diffusers import (
        FlowMatchEulerDiscreteScheduler,
        SD3Transformer2DModel,
        StableDiffusion3Pipeline,
    )
    from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers

    network, weights, names, _ = network_and_names(tools, "sd3", tmp_path)
    transformer = SD3Transformer2DModel(
        sample_size=64, patch_size=2, in_channels=16, num_layers=2, attention_head_dim=64,
        num_attention_heads=2, joint_attention_dim=4096, caption_projection_dim=128,
        pooled_projection_dim=2048, out_channels=16, pos_embed_max_size=32, qk_norm="rms_norm",
    )  # fmt: skip
    given = convert_sd3_transformer_checkpoint_to_diffusers(dict(weights))
    transformer.load_state_dict(given, strict=True)
    transformer.eval()
    path = tmp_path / "lora.safetensors"
    adapters = adapted(tools, network, names, path, tools.lora_file.for_diffusers)
    pipe = StableDiffusion3Pipeline(
        transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(), vae=None,
        text_encoder=None, tokenizer=None, text_encoder_2=None, tokenizer_2=None,
        text_encoder_3=None, tokenizer_3=None,
    )  # fmt: skip
    x, t = torch.randn(2, 16, 8, 8), torch.tensor([10.0, 700.0])
    c, y = torch.randn(2, 7, 4096), torch.randn(2, 2048)
    compare(
        pipe, transformer, path,
        lambda: transformer(x, encoder_hidden_states=c, pooled_projections=y, timestep=t).sample,
        lambda: network(x, t, context=c, y=y), adapters, len(names),
    )  # fmt: skip


def into_flux(weights, transformer, width, double, single):
    """The host's weights in diffusers' Flux, by the host's own table of names."""
    from comfy.utils import flux_to_diffusers

    config = {"depth": double, "depth_single_blocks": single, "hidden_size": width}
    table, named = flux_to_diffusers(config), {}
    for key in transformer.state_dict():
        target = table[key] if isinstance(table[key], tuple) else (table[key], None)
        weight = weights[target[0]].clone()
        weight = weight.narrow(*target[1]) if target[1] else weight
        named[key] = target[2](weight) if len(target) > 2 else weight
    transformer.load_state_dict(named, strict=True)


def flux_in_diffusers(tools, tmp_path, width, double, single):
    """A Flux of one kind of blocks in both libraries."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    network = miniature.flux(
        hidden_size=width, num_heads=width // 128, depth=double, depth_single_blocks=single
    )()
    miniature.fill(network).requires_grad_(False)
    names = tools.lora.key_stems({}, tools.layers.adapted_layers(network, "blocks"))
    transformer = FluxTransformer2DModel(
        in_channels=64, num_layers=double, num_single_layers=single, attention_head_dim=128,
        num_attention_heads=width // 128, joint_attention_dim=4096, pooled_projection_dim=768,
        guidance_embeds=True, axes_dims_rope=(16, 56, 56),
    )  # fmt: skip
    into_flux(network.state_dict(), transformer, width, double, single)
    transformer.eval()
    path = tmp_path / "lora.safetensors"
    adapters = adapted(tools, network, names, path)
    pipe = FluxPipeline(
        transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(), vae=None,
        text_encoder=None, tokenizer=None, text_encoder_2=None, tokenizer_2=None,
    )  # fmt: skip
    x, t = torch.randn(1, 16, 4, 4), torch.tensor([0.3])
    c, y, guidance = torch.randn(1, 5, 4096), torch.randn(1, 768), torch.tensor([3.5])
    packed = x.view(1, 16, 2, 2, 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(1, 4, 64)
    ids = torch.zeros(4, 3)
    ids[:, 1], ids[:, 2] = torch.tensor([0.0, 0, 1, 1]), torch.tensor([0.0, 1, 0, 1])

    def theirs():
        out = transformer(
            packed, encoder_hidden_states=c, pooled_projections=y, timestep=t, guidance=guidance,
            img_ids=ids, txt_ids=torch.zeros(5, 3),
        ).sample  # fmt: skip
        return out.view(1, 2, 2, 16, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(1, 16, 4, 4)

    compare(
        pipe, transformer, path, theirs, lambda: network(x, t, c, y, guidance), adapters,
        len(names),
    )  # fmt: skip


def test_flux_double_blocks_equal_in_diffusers(tools, tmp_path):
    flux_in_diffusers(tools, tmp_path, 128, double=2, single=0)


def test_flux_single_blocks_equal_in_diffusers(tools, tmp_path):
    flux_in_diffusers(tools, tmp_path, FLUX_WIDTH, double=0, single=1)
