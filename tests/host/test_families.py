"""Every family: erase, save, load by the host's own loaders, and compare numbers.

Miniature checkpoints with random weights; the host detects and loads them itself.
"""

import gc
import importlib
import re

import pytest
import torch

from . import miniature
from .erased import CLOSE, answer, erase, host_tools, hosts_answer, load, session_on, settings
from .miniature import FAMILIES

pytestmark = pytest.mark.host

SLOW = {"aura_flow"}
NAMES = [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in FAMILIES]


@pytest.fixture(scope="module")
def tools(hosted):
    return host_tools()


@pytest.fixture(scope="module", params=NAMES)
def erased(request, tools, tmp_path_factory):
    folder = tmp_path_factory.mktemp("family")
    tools.folder_paths.add_model_folder_path("loras", str(folder))
    family = FAMILIES[request.param]
    dtype = torch.bfloat16 if request.param in SLOW else torch.float32
    file = miniature.checkpoint(family, folder / "model.safetensors", dtype)
    model = tools.sd.load_diffusion_model(str(file))
    file.unlink()
    yield erase(tools, family, model, folder / f"erase_{request.param}.safetensors")
    del model
    gc.collect()


LOADERS = ["LoraLoader", "LoraLoaderModelOnly", "LoraModelLoader", "bypass"]


def test_the_host_finds_the_family_and_every_layer_to_adapt(erased, tools):
    family, model, names = erased.family, erased.model, erased.seen["names"]
    assert type(model.model.model_config).__name__ == family.config
    assert erased.seen["prediction"] == family.prediction
    assert len(erased.rows) == family.layers < family.adapted == len(names)
    assert {r.path for r in erased.rows} < set(names)
    stems = {key.partition(".")[0] for key in erased.lora}
    assert stems == set(names.values()) and len(stems) == family.adapted


def test_our_prediction_is_the_hosts(erased, tools):
    """Schedule, timestep, scaling and conditions: the host's denoised latents are ours."""
    theirs = hosts_answer(tools, erased.model, erased.family)
    assert torch.allclose(erased.seen["original"], theirs, **CLOSE)


def test_every_stage_ran_and_gradients_reached_everything(erased):
    seen = erased.seen
    assert torch.isfinite(seen["pool"].latents).all()
    assert seen["pool"].images.shape[-1] == 3 and len(seen["pool"]) == 2
    start = seen["mined"].embeddings[0].context
    assert torch.isfinite(start).all() and len(seen["mined"].losses) == 2
    assert len(seen["losses"]) == 3
    assert seen["frozen"], "a weight of the model itself has moved"
    for name, up in erased.lora.items():
        if name.endswith("lora_up.weight"):
            assert float(up.abs().max()) > 0, name


def test_only_the_value_rows_of_a_fused_layer_are_written(erased):
    for rows in erased.rows:
        up = erased.lora[erased.seen["names"][rows.path] + ".lora_up.weight"]
        assert up.shape[0] == rows.total
        assert not up[: rows.start].any() and not up[rows.stop :].any()
        assert up[rows.start : rows.stop].any()


def test_the_keys_are_kohyas(erased):
    """kohya's rule: a prefix and the layer's path with underscores; UNets of SD by diffusers names.

    Three tensors a layer and nothing else.
    """
    stems = {key.partition(".")[0] for key in erased.lora}
    ends = {key.partition(".")[2] for key in erased.lora}
    assert ends == {"lora_up.weight", "lora_down.weight", "alpha"}
    if erased.family.config in ("SD15", "SD20"):
        place = r"lora_unet_(down_blocks_\d+|up_blocks_\d+|mid_block)_attentions_\d+"
        layer = r"_transformer_blocks_\d+_(attn[12]_to_(v|out_0)|ff_net_(0_proj|2))$"
        assert all(re.match(place + layer, s) for s in stems)
    else:
        assert stems == {"lora_unet_" + p.replace(".", "_") for p in erased.seen["names"]}


@pytest.mark.parametrize("how", LOADERS)
def test_the_file_is_the_trained_model_in_every_loader(erased, tools, how, caplog):
    seen, family = erased.seen, erased.family
    loaded = load(tools, erased, how, 1.0)
    assert "lora key not loaded" not in caplog.text and "not in model" not in caplog.text
    if how == "bypass":
        assert len(loaded.injections["bypass_lora"]) > 0
    else:
        assert len(loaded.patches) == family.adapted
    changed = hosts_answer(tools, loaded, family)
    moved = (seen["trained"] - seen["original"]).abs().max()
    assert float(moved) > 20 * CLOSE["atol"], "the erasure must change the output"
    assert torch.allclose(changed, seen["trained"], **CLOSE)
    plain = hosts_answer(tools, erased.model, family)
    assert torch.equal(hosts_answer(tools, load(tools, erased, how, 0.0), family), plain)
    half = hosts_answer(tools, load(tools, erased, how, 0.5), family)
    toward = changed - plain
    share = float(((half - plain) * toward).sum() / toward.square().sum())
    assert 0.05 < share < 0.95


def test_adapters_off_is_the_original_exactly(erased):
    assert torch.equal(erased.seen["off"], erased.seen["original"])


def test_it_adds_up_with_another_lora(erased, tools):
    """Weights with both are the original's plus both differences."""
    import comfy.lora
    import comfy.utils

    rows = erased.rows[0]
    key = f"diffusion_model.{rows.path}.weight"
    weight = comfy.utils.get_attr(erased.model.model, key).detach().float()
    gen = torch.Generator().manual_seed(4)
    stem = f"lora_unet_{rows.path.replace('.', '_')}"
    other = {
        f"{stem}.lora_up.weight": torch.randn(weight.shape[0], 3, generator=gen),
        f"{stem}.lora_down.weight": torch.randn(3, weight.shape[1], generator=gen),
        f"{stem}.alpha": torch.tensor(3.0),
    }
    both = tools.lora.apply_lora(load(tools, erased, "LoraLoader", 1.0), other)
    patched = comfy.lora.calculate_weight(both.patches[key], weight.clone(), key)
    name = erased.seen["names"][rows.path]
    ours = erased.lora[f"{name}.lora_up.weight"] @ erased.lora[f"{name}.lora_down.weight"]
    theirs = other[f"{stem}.lora_up.weight"] @ other[f"{stem}.lora_down.weight"]
    assert torch.allclose(patched - weight, ours + theirs, atol=1e-4, rtol=1e-3)


def test_the_saved_file_can_be_continued(erased, tools):
    from safetensors.torch import load_file

    state = tools.lora.state_of(load_file(erased.path), erased.model)
    with session_on(tools, erased.model, erased.family) as session:
        config = tools.stages.as_continued(settings(tools).lora, state, erased.model)
        assert config.layers == "blocks"
        tools.loop.new_adapters(session, config, seed=1, state=state)
        assert torch.allclose(answer(session, erased.family), erased.seen["trained"], **CLOSE)


def test_the_host_samples_with_the_loaded_file(erased, tools):
    """A KSampler's picture changes, and the erased MODEL can itself be erased from again."""
    import comfy.sample

    family = erased.family
    shape = (1, family.channels, *([1] if family.frames else []), family.side, family.side)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(1))

    def sampled(model):
        cond = miniature.prompt(family, 7)
        with torch.inference_mode():
            return comfy.sample.sample(
                model, noise, 2, 1.0, "euler", "normal", cond, cond, torch.zeros(shape),
                disable_pbar=True, seed=0,
            )  # fmt: skip

    loaded = load(tools, erased, "LoraLoader", 1.0)
    before, after = sampled(erased.model), sampled(loaded)
    assert torch.isfinite(after).all() and not torch.allclose(before, after)
    with session_on(tools, loaded, family) as session:
        theirs = hosts_answer(tools, loaded, family)
        assert torch.allclose(answer(session, family), theirs, **CLOSE)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
@pytest.mark.parametrize("name", ["sd15", "flux_dev"])
def test_files_of_every_precision_are_trained_in_float32_on_a_cpu(tools, name, dtype, tmp_path):
    """The copy holds the file's own numbers, and computes and adapts in float32."""
    from safetensors.torch import load_file

    family = FAMILIES[name]
    file = miniature.checkpoint(family, tmp_path / "model.safetensors", dtype)
    model = tools.sd.load_diffusion_model(str(file))
    rows = tools.value_rows.value_rows(model.model.diffusion_model)[0]
    stored = load_file(file)[f"{rows.path}.weight"]
    assert stored.dtype == dtype
    with session_on(tools, model, family) as session:
        assert torch.equal(session.network.get_submodule(rows.path).weight, stored.float())
        adapters = tools.loop.new_adapters(session, settings(tools).lora, seed=0)
        context = torch.randn(1, 4, family.width, requires_grad=True)
        x = torch.randn(1, *session.latent_shape)
        said = session.denoise(x, session.schedule.timesteps[[500]], context)
        said.square().mean().backward()
        assert torch.isfinite(said).all() and context.grad.any()
        assert {p.dtype for p in adapters.parameters()} == {torch.float32}


LARGE = {
    "Qwen-Image": ("qwen_image.model.QwenImageTransformer2DModel", {"num_layers": 2}, 4),
    "Lumina 2": (
        "lumina.model.NextDiT",
        {"n_layers": 2, "dim": 2304, "n_heads": 24, "n_kv_heads": 8, "axes_dims": [32, 32, 32]},
        6,
    ),
    "Z-Image": (
        "lumina.model.NextDiT",
        {"n_layers": 2, "dim": 3840, "n_heads": 30, "n_kv_heads": 30, "axes_dims": [32, 48, 48]},
        6,
    ),
    "HiDream": (
        "hidream.model.HiDreamImageTransformer2DModel",
        {
            "num_layers": 1, "num_single_layers": 2, "in_channels": 16, "patch_size": 2,
            "num_attention_heads": 20, "attention_head_dim": 128, "caption_channels": [4096, 4096],
            "text_emb_dim": 2048, "axes_dims_rope": [64, 32, 32], "max_resolution": [128, 128],
            "num_routed_experts": 4, "num_activated_experts": 2, "llama_layers": [0, 31],
        },
        4,
    ),
    "Chroma": (
        "chroma.model.Chroma",
        {
            "in_channels": 64, "out_channels": 64, "context_in_dim": 4096, "hidden_size": 3072,
            "mlp_ratio": 4.0, "num_heads": 24, "depth": 1, "depth_single_blocks": 2,
            "axes_dim": [16, 56, 56], "theta": 10000, "patch_size": 2, "qkv_bias": True,
            "in_dim": 64, "out_dim": 3072, "hidden_dim": 5120, "n_layers": 5, "txt_ids_dims": [],
            "vec_in_dim": None,
        },
        4,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LARGE)
def test_families_too_large_for_a_miniature_are_found_by_structure(tools, name):
    """The host's detection fixes their sizes; on the meta device they take no memory."""
    path, config, layers = LARGE[name]
    module, _, kind = path.rpartition(".")
    make = getattr(importlib.import_module(f"comfy.ldm.{module}"), kind)
    network = make(**config, device="meta", dtype=torch.float32, operations=miniature.ops())
    assert len(tools.value_rows.value_rows(network)) == layers
