"""Erasing from a family's miniature, and asking every form of the model the same question."""

import importlib
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import torch

from . import miniature

CLOSE = {"rtol": 1e-3, "atol": 2e-4}
"""How near two float32 computations of the same network come (their sums differ in order)."""

MODULES = {
    "darkminer": ("config", "types"),
    "darkminer.files": ("lora_file",),
    "darkminer.method": ("circumvent", "image_pool", "loop", "mine", "verify"),
    "darkminer.model": ("adapter", "value_rows"),
    "nodes.erase": ("erasing", "stages"),
    "nodes.host": ("lora", "session"),
}


def host_tools():
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


def settings(tools):
    """Few steps, with a rate at which the output must change."""
    few = {"steps": 3, "lr_drop": 3, "batch": 1, "images": 1, "lr": 0.01, "lr_late": 0.01}
    return SimpleNamespace(
        lora=replace(tools.config.FAST.lora, rank=2, alpha=2.0),
        mine=replace(
            tools.config.FAST.mine, steps=2, lr_drop=2, count=1, k=2, batch=1, length=4,
            tokens=0,
        ),
        verify=replace(tools.config.FAST.verify, threshold=-1.0, draws=1, k=2),
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
    a, b = levels.coefficients(index, x)
    if levels.prediction == "epsilon":
        return (noisy - b * said) / a
    return noisy - b * said if levels.prediction == "flow" else a * noisy - b * said


def hosts_answer(tools, model, family):
    """The same from the host's own path: conditions, input scaling, network, denoised."""
    import comfy.model_management
    import comfy.model_patcher
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
        options = comfy.model_patcher.create_model_options_clone(model.model_options)
        comfy.sampler_helpers.prepare_model_patcher(model, {"positive": positive}, options)
        conds = comfy.samplers.process_conds(
            model.model, noise, {"positive": positive}, model.load_device, torch.zeros_like(x)
        )
        made = comfy.samplers.calc_cond_batch(
            model.model, [conds["positive"]], noisy, sigma, options
        )[0]
        model.cleanup()
    made = made.float().clone()
    return made.squeeze(2) if family.frames else made


def session_on(tools, model, family, **more):
    return tools.session.training_session(
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
        adapters = tools.loop.new_adapters(session, config.lora, seed=0)
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
