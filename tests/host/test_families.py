"""Every family: erase, save, load by the host's own loaders, and compare numbers.

Miniature checkpoints with random weights; the host detects and loads them itself.
"""

import gc
import importlib
import re
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from . import miniature
from .miniature import FAMILIES

pytestmark = pytest.mark.host

CLOSE = {"rtol": 1e-3, "atol": 2e-4}
"""How near two float32 computations of the same network come (their sums differ in order)."""
SLOW = {"aura_flow"}
NAMES = [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in FAMILIES]


MODULES = {
    "darkminer": (
        "adapter", "circumvent", "config", "image_pool", "loop", "lora_file", "mine", "types",
        "value_rows", "verify",
    ),
    "nodes": ("erasing", "host", "host_lora"),
}  # fmt: skip


@pytest.fixture(scope="module")
def tools(hosted):
    """The pack's modules and the host's loaders by name; they exist once the host is loaded."""
    found = {
        name: importlib.import_module(f"dark_miner.{room}.{name}")
        for room, names in MODULES.items()
        for name in names
    }
    for name in ("comfy.sd", "folder_paths", "comfy_extras.nodes_train"):
        found[name.rpartition(".")[2]] = importlib.import_module(name)
    return SimpleNamespace(**found, core=importlib.import_module("nodes"))


@dataclass
class Erased:
    """A family's MODEL and what came out of erasing from it."""

    family: miniature.Family
    model: object
    lora: dict
    path: Path
    rows: list
    seen: dict


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


def settings(tools):
    """Few steps, with a rate at which the output must change."""
    few = {"steps": 3, "lr_drop": 3, "batch": 1, "images": 1, "bank_batch": 1, "rank": 2}
    few |= {"alpha": 2.0, "lr": 0.02, "lr_late": 0.02}
    return SimpleNamespace(
        mine=replace(
            tools.config.FAST.mine, steps=2, lr_drop=2, count=1, images=2, batch=1, length=4,
            tokens=0,
        ),
        verify=replace(tools.config.FAST.verify, threshold=-1.0, draws=1, images=2),
        circumvent=replace(tools.config.FAST.circumvent, **few),
    )  # fmt: skip


def question(family, seed=3, length=5):
    """Noisy latents, levels and a prompt to ask every form of the model about."""
    gen = torch.Generator().manual_seed(seed)
    x = torch.randn(2, family.channels, family.side, family.side, generator=gen)
    noise = torch.randn(x.shape, generator=gen)
    return x, noise, torch.tensor([200, 700]), miniature.prompt(family, 7, length)


def answer(session, family):
    """What a session's network makes of the question, as clean latents."""
    x, noise, index, cond = question(family)
    levels = session.schedule
    noisy = levels.add_noise(x, noise, index)
    context = cond[0][0].expand(2, -1, -1)
    with torch.no_grad():
        said = session.denoise(noisy, levels.timestep(index, noisy), context)
    a, b = levels._coefficients(index, x)
    if levels.prediction == "epsilon":
        return (noisy - b * said) / a
    return noisy - b * said if levels.prediction == "flow" else a * noisy - b * said


def hosts_answer(tools, model, family):
    """The same from the host's own path: conditions, input scaling, network, denoised."""
    import comfy.model_management
    import comfy.sampler_helpers
    import comfy.samplers

    x, noise, index, cond = question(family)
    sampling = model.get_model_object("model_sampling")
    sigma = sampling.sigmas[index]
    if family.frames:
        x, noise = x.unsqueeze(2), noise.unsqueeze(2)
    with torch.inference_mode():
        noisy = sampling.noise_scaling(sigma, noise.clone(), x)
        comfy.model_management.load_models_gpu([model])
        model.pre_run()
        positive = comfy.sampler_helpers.convert_cond(cond)
        conds = comfy.samplers.process_conds(
            model.model, noise, {"positive": positive}, model.load_device, torch.zeros_like(x)
        )
        made = comfy.samplers.calc_cond_batch(
            model.model, [conds["positive"]], noisy, sigma, model.model_options
        )[0]
        model.cleanup()
    made = made.float().clone()
    return made.squeeze(2) if family.frames else made


def session_on(tools, model, family, **more):
    return tools.host.training_session(
        model, anchor=miniature.prompt(family, 7), latent_size=(family.side, family.side),
        sampling=tools.config.SamplingConfig(2, 1.0, "euler", "normal", 2), **more,
    )  # fmt: skip


def encode(images):
    """Images to features: their own coarse colours."""
    small = torch.nn.functional.adaptive_avg_pool2d(images.movedim(-1, 1).float(), 2)
    return small.flatten(1)


def erase(tools, family, model, path):
    config, seen = settings(tools), {}
    anchor = miniature.prompt(family, 7)[0][0]
    concept = miniature.prompt(family, 1)[0][0]
    with session_on(tools, model, family, vae=miniature.autoencoder(family)) as session:
        seen["prediction"] = session.schedule.prediction
        seen["original"] = answer(session, family)
        pool = tools.image_pool.build_pool(
            session, concept, size=2, seed=0, concept="c", prompt="a c photo"
        )
        seen["pool"] = pool
        adapters = tools.loop.new_adapters(session, config.circumvent, seed=0)
        digest = tools.adapter.frozen_digest(session.network)
        mined = tools.mine.mine(session, pool, anchor, config.mine, seed=0, round_=1)
        seen["mined"] = mined
        verdict = tools.verify.verify(
            session, encode, mined.embeddings, anchor, pool, config.verify, seed=0, round_=1,
            adapters=adapters,
        )  # fmt: skip
        found = tools.types.EmbeddingPool(concept="c").opened(mined.embeddings).judged(verdict)
        done = tools.circumvent.circumvent(
            session, adapters, found, anchor, config.circumvent, seed=0
        )
        seen["losses"] = done.losses
        seen["frozen"] = digest == tools.adapter.frozen_digest(session.network)
        seen["trained"] = answer(session, family)
        with adapters.off():
            seen["off"] = answer(session, family)
        rows = tools.value_rows.value_rows(model.model.diffusion_model)
        seen["names"] = session.names
        lora = tools.erasing.lora_of(session, adapters.state(), found, {}, 0)
    tools.lora_file.save_lora(path, lora, lora.metadata)
    return Erased(family, model, lora, path, rows, seen)


def load(tools, erased, how, strength):
    """The MODEL with the saved file on it, by one of the host's own loaders."""
    from safetensors.torch import load_file

    if how == "LoraLoader":
        return tools.core.LoraLoader().load_lora(
            erased.model, None, erased.path.name, strength, 0.0
        )[0]
    if how == "LoraLoaderModelOnly":
        return tools.core.LoraLoaderModelOnly().load_lora_model_only(
            erased.model, erased.path.name, strength
        )[0]
    lora = load_file(erased.path)
    node = tools.nodes_train.LoraModelLoader
    return node.execute(erased.model, lora, strength, how == "bypass").args[0]


LOADERS = ["LoraLoader", "LoraLoaderModelOnly", "LoraModelLoader", "bypass"]


def test_the_host_finds_the_family_and_every_value_projection(erased, tools):
    family, model = erased.family, erased.model
    assert type(model.model.model_config).__name__ == family.config
    assert erased.seen["prediction"] == family.prediction
    assert len(erased.rows) == family.layers == len(erased.lora) // 3
    assert set(erased.seen["names"]) == {r.path for r in erased.rows}
    assert len(set(erased.seen["names"].values())) == family.layers


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
        assert all(re.match(place + r"_transformer_blocks_\d+_attn[12]_to_v$", s) for s in stems)
    else:
        assert stems == {"lora_unet_" + r.path.replace(".", "_") for r in erased.rows}


@pytest.mark.parametrize("how", LOADERS)
def test_the_file_is_the_trained_model_in_every_loader(erased, tools, how, caplog):
    seen, family = erased.seen, erased.family
    loaded = load(tools, erased, how, 1.0)
    assert "lora key not loaded" not in caplog.text and "not in model" not in caplog.text
    if how == "bypass":
        assert len(loaded.injections["bypass_lora"]) > 0
    else:
        assert len(loaded.patches) == family.layers
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
    both = tools.host_lora.apply_lora(load(tools, erased, "LoraLoader", 1.0), other)
    patched = comfy.lora.calculate_weight(both.patches[key], weight.clone(), key)
    name = erased.seen["names"][rows.path]
    ours = erased.lora[f"{name}.lora_up.weight"] @ erased.lora[f"{name}.lora_down.weight"]
    theirs = other[f"{stem}.lora_up.weight"] @ other[f"{stem}.lora_down.weight"]
    assert torch.allclose(patched - weight, ours + theirs, atol=1e-4, rtol=1e-3)


def test_the_saved_file_can_be_continued(erased, tools):
    from safetensors.torch import load_file

    state = tools.lora_file.from_state_dict(load_file(erased.path), erased.seen["names"])
    with session_on(tools, erased.model, erased.family) as session:
        config = replace(settings(tools).circumvent, rank=state.rank, alpha=state.alpha)
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
        adapters = tools.loop.new_adapters(session, settings(tools).circumvent, seed=0)
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
