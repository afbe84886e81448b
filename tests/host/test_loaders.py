"""The loader nodes as nodes: files in the server's folders, and the whole way from there.

Load, pool, mine, verify, circumvent, save; then the saved file through LoraLoader and a KSampler.
The diffusion networks are miniatures. A CLIP is not: the host's loaders fix its size, 123 million
numbers for CLIP-L and 694 million for CLIP-G, so those hold random weights in half precision.
Flux's T5-XXL (4.7 billion) is too large here: its prompts come from the host's training dataset
node instead, and tests/host/test_text.py runs Flux with a small T5 in this process. The image
encoder of the verification is the gallery's.
"""

import shutil

import pytest
import torch
from safetensors.torch import load_file

from . import miniature
from .miniature import FAMILIES
from .test_nodes import node

pytestmark = pytest.mark.host

SAMPLING = {
    "sampling_steps": 2, "cfg": 1.0, "sampler_name": "euler", "scheduler": "normal",
    "batch_size": 2,
}  # fmt: skip
LATENTS = {"sd15": "EmptyLatentImage", "sdxl": "EmptyLatentImage"}


@pytest.fixture(scope="module")
def models(comfy, hosted):
    """The server's model folders, with the files that every way needs; emptied afterwards."""
    folder = comfy.output.parent / "models"
    for name in ("checkpoints", "diffusion_models", "text_encoders", "vae"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    miniature.clip_file("l", folder / "text_encoders" / "clip_l.safetensors")
    for channels in (4, 16):
        miniature.vae_file(channels, folder / "vae" / f"vae_{channels}.safetensors")
    yield folder
    for name in ("checkpoints", "diffusion_models", "text_encoders", "vae"):
        shutil.rmtree(folder / name)


def network(models, family):
    """A diffusion file and the node that loads it."""
    file = models / "diffusion_models" / f"{family}.safetensors"
    miniature.checkpoint(FAMILIES[family], file)
    return node("UNETLoader", unet_name=file.name, weight_dtype="default")


def vae(family):
    return node("VAELoader", vae_name=f"vae_{FAMILIES[family].channels}.safetensors")


def prompts(clip):
    """What to show instead, the negative prompt and the one that is looked at."""
    texts = {"anchor": "a photo", "no": "", "look": "a van gogh photo of a tree"}
    return {name: node("CLIPTextEncode", clip=clip, text=text) for name, text in texts.items()}


def one_file(models):
    """CheckpointLoaderSimple: Stable Diffusion 1.5 with all in one file."""
    clip = models / "text_encoders" / "clip_l.safetensors"
    file = models / "checkpoints" / "sd15.safetensors"
    miniature.whole_checkpoint(FAMILIES["sd15"], clip, file)
    m, c, v = (["load", i] for i in range(3))
    graph = {"load": node("CheckpointLoaderSimple", ckpt_name=file.name), **prompts(c)}
    return "sd15", graph, (m, c, v)


def one_clip(models):
    """UNETLoader, CLIPLoader, VAELoader: Stable Diffusion 3 with CLIP-L alone."""
    graph = {
        "load": network(models, "sd3"), "vae": vae("sd3"),
        "clip": node("CLIPLoader", clip_name="clip_l.safetensors", type="sd3"),
        **prompts(["clip", 0]),
    }  # fmt: skip
    return "sd3", graph, (["load", 0], ["clip", 0], ["vae", 0])


def two_clips(models):
    """UNETLoader, DualCLIPLoader, VAELoader: SDXL."""
    miniature.clip_file("g", models / "text_encoders" / "clip_g.safetensors")
    graph = {
        "load": network(models, "sdxl"), "vae": vae("sdxl"),
        "clip": node(
            "DualCLIPLoader", clip_name1="clip_l.safetensors", clip_name2="clip_g.safetensors",
            type="sdxl",
        ),
        **prompts(["clip", 0]),
    }  # fmt: skip
    return "sdxl", graph, (["load", 0], ["clip", 0], ["vae", 0])


def no_t5(models):
    """UNETLoader and VAELoader: Flux, its prompts from a dataset and its pool from pictures."""
    folder = models.parent / "datasets" / "flux"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metadata.json").write_text("{}")
    conditioning = miniature.prompt(FAMILIES["flux_dev"], 1)
    latent = {"samples": torch.zeros(1, 16, 8, 8)}
    shard = {"latents": [latent], "conditioning": [conditioning]}
    torch.save(shard, folder / "shard_0000.pkl")
    # Older hosts keep datasets among the output.
    shutil.copytree(folder, models.parent / "output" / "flux", dirs_exist_ok=True)
    graph = {
        "load": network(models, "flux_dev"), "vae": vae("flux_dev"),
        "anchor": node("LoadTrainingDataset", folder_name="flux"),
        "pictures": node("EmptyImage", width=64, height=64, batch_size=3, color=0x3366CC),
    }  # fmt: skip
    return "flux_dev", graph, (["load", 0], ["gallery", 1], ["vae", 0])


WAYS = [one_file, one_clip, pytest.param(two_clips, marks=pytest.mark.slow), no_t5]


def erasing(family, graph, parts):
    """Behind the loaders: pool, mine, verify, circumvent, save."""
    model, clip, vae = parts
    anchor, no = (["anchor", 0], ["no", 0]) if "no" in graph else (["anchor", 1], ["anchor", 1])
    few = {"preset": "fast", "seed": 1}
    own = {"images": ["pictures", 0]} if "pictures" in graph else {}
    return {
        **graph,
        "gallery": node("DarkMinerDemoModels"),
        "pool": node(
            "ImagePoolBuilder", model=model, clip=clip, vae=vae, concept="van gogh",
            template="a * photo", size=3, width=64, height=64, seed=0, **SAMPLING, **own,
        ),
        "mine": node(
            "MineEmbedding", model=model, pool=["pool", 0], anchor=anchor, **few, length=4,
            steps=2, count=1,
        ),
        "verify": node(
            "VerifyDeltaCLIP", model=model, vae=vae, mined=["mine", 0], reference=anchor,
            pool=["pool", 0], **few, **SAMPLING, threshold="-1", draws=1,
            clip_vision=["gallery", 3], embeddings=["mine", 1], negative=no,
        ),
        "train": node(
            "CircumventLoRA", model=model, pool=["pool", 0], embeddings=["verify", 4],
            anchor=anchor, **few, **SAMPLING, rank=2, steps=3, learning_rate=0.02, negative=no,
        ),
        "save": node(
            "SaveErasureLoRA", lora=["train", 1], filename_prefix=f"loras/loaded_{family}"
        ),
    }  # fmt: skip


def drawing(name, graph, model):
    """A sampled latent and the node that saves it."""
    positive, no = (["look", 0], ["no", 0]) if "no" in graph else (["anchor", 1], ["anchor", 1])
    return {
        f"draw_{name}": node(
            "KSampler", model=model, seed=1, steps=2, cfg=1.0, sampler_name="euler",
            scheduler="normal", positive=positive, negative=no, latent_image=["empty", 0],
            denoise=1.0,
        ),
        f"keep_{name}": node(
            "SaveLatent", samples=[f"draw_{name}", 0], filename_prefix=f"loaders/{name}"
        ),
    }  # fmt: skip


def with_lora(graph, parts, name, strength):
    """The host's loader on MODEL and CLIP, or on the MODEL alone where there is no CLIP."""
    given = {"model": parts[0], "lora_name": name, "strength_model": strength}
    if "no" not in graph:
        return node("LoraLoaderModelOnly", **given)
    return node("LoraLoader", **given, clip=parts[1], strength_clip=1.0)


@pytest.mark.parametrize("way", WAYS)
def test_from_the_loader_nodes_to_a_picture_with_the_saved_file(comfy, models, way):
    family, graph, parts = way(models)
    model = parts[0]
    kind = LATENTS.get(family, "EmptySD3LatentImage")
    graph["empty"] = node(kind, width=64, height=64, batch_size=1)
    first = erasing(family, graph, parts)
    first |= drawing("erased", graph, ["train", 0]) | drawing("plain", graph, model)
    outputs = comfy.run(first)
    file = comfy.output / outputs["save"]["text"][0]
    ups = [v for k, v in load_file(file).items() if k.endswith("lora_up.weight")]
    assert len(ups) == FAMILIES[family].adapted and all(up.any() for up in ups)

    second = dict(graph)
    for name, strength in (("loaded", 1.0), ("off", 0.0)):
        second[name] = with_lora(graph, parts, file.name, strength)
        second |= drawing(name, graph, [name, 0])
    outputs |= comfy.run(second)

    def latent(name):
        entry = outputs[f"keep_{name}"]["latents"][0]
        found = load_file(comfy.output / entry["subfolder"] / entry["filename"])["latent_tensor"]
        assert torch.isfinite(found).all()
        return found

    erased, plain = latent("erased"), latent("plain")
    assert float((erased - plain).abs().max()) > 0.01, "the erasure must change the picture"
    assert torch.allclose(latent("loaded"), erased, rtol=1e-3, atol=2e-3)
    assert torch.equal(latent("off"), plain)
