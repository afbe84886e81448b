"""EraseConcepts on a running server: a list of concepts in one run."""

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from .by_settings import SETTINGS, SHORTEST, UNTOUCHED
from .conftest import script
from .test_nodes import HELD_OUT, failing, models_and_pool, node

pytestmark = pytest.mark.host

SIZES = {"template": "a * drawing", "size": 5, "width": 32, "height": 32}
SETTLED = {"few": node(SETTINGS, preset="fast", **SHORTEST)}
FEW = {
    "anchor_prompt": "a drawing", "negative_prompt": "", "preset": "fast", "max_rounds": 0,
    "seed": 3, **UNTOUCHED, "settings": ["few", 0], "run_folder": "off",
}  # fmt: skip
M, CLIP, VAE, VISION = (["m", i] for i in range(4))


def save(lora, prefix):
    return node("SaveErasureLoRA", lora=lora, filename_prefix=prefix)


def drawn(model):
    """A latent that a MODEL samples, as the node before its saving."""
    return node(
        "KSampler", model=model, seed=1, steps=3, cfg=2.0, sampler_name="euler",
        scheduler="normal", positive=["text", 0], negative=["no", 0], latent_image=["empty", 0],
        denoise=1.0,
    )  # fmt: skip


def listed(concepts, **changes):
    return {
        **SETTLED,
        "m": node("DarkMinerDemoModels"),
        "list": node(
            "EraseConcepts", model=M, clip=CLIP, vae=VAE, clip_vision=VISION, concepts=concepts,
            **SIZES, **{**FEW, "exclude_words": HELD_OUT, **changes},
        ),
        "save": save(["list", 2], "loras/each_%concept%"),
        "save_all": save(["list", 1], "loras/all"),
    }  # fmt: skip


def by_hand():
    """The same with a pool and a loop node for each concept."""
    graph, model = dict(SETTLED), M
    for name in ("ink", "noto"):
        pool = models_and_pool(name, seed=FEW["seed"])["pool"]
        pool["inputs"]["model"] = model
        graph |= {
            f"{name}_pool": pool,
            name: node(
                "DarkMinerLoop", model=model, clip=CLIP, vae=VAE, clip_vision=VISION,
                pool=[f"{name}_pool", 0], exclude_words=f"{HELD_OUT}, ink, noto", **FEW,
            ),
            f"save_{name}": save([name, 1], f"loras/hand_{name}"),
        }  # fmt: skip
        model = [name, 0]
    return graph


LOOK = {
    "text": node("CLIPTextEncode", clip=CLIP, text="a noto drawing of a cat"),
    "no": node("CLIPTextEncode", clip=CLIP, text=""),
    "empty": node("EmptyLatentImage", width=32, height=32, batch_size=1),
    "joined": node("LoraModelLoader", model=M, lora=["list", 1], strength_model=1.0, bypass=False),
}


@pytest.fixture(scope="module")
def run(comfy):
    """Both ways in one prompt, and what the original and each erased MODEL draw."""
    prompt = {**listed("ink\n\n  noto "), **by_hand(), **LOOK}
    models = {"plain": M, "chained": ["list", 0], "joint": ["joined", 0], "hand": ["noto", 0]}
    for name, model in models.items():
        prompt[f"draw_{name}"] = drawn(model)
        prompt[f"keep_{name}"] = node(
            "SaveLatent", samples=[f"draw_{name}", 0], filename_prefix=f"concepts/{name}"
        )
    outputs = comfy.run(prompt)

    def latent(name):
        entry = outputs[f"keep_{name}"]["latents"][0]
        path = comfy.output / entry["subfolder"] / entry["filename"]
        return load_file(path)["latent_tensor"]

    files = {k: [comfy.output / n for n in v["text"]] for k, v in outputs.items()
             if k.startswith("save")}  # fmt: skip
    return files, {name: latent(name) for name in models}


def deltas(path):
    """Layer -> what the LoRA adds to its weight."""
    lora, added = load_file(path), {}
    for stem in {key.partition(".")[0] for key in lora}:
        up, down = lora[f"{stem}.lora_up.weight"], lora[f"{stem}.lora_down.weight"]
        added[stem] = up @ down * lora[f"{stem}.alpha"] / len(down)
    return added


def test_each_concept_has_a_file_of_its_name(run):
    files, _ = run
    assert [p.name for p in files["save"]] == [
        "each_ink_00001_.safetensors", "each_noto_00001_.safetensors",
    ]  # fmt: skip
    for path, concept in zip(files["save"], ("ink", "noto"), strict=True):
        with safe_open(path, "pt") as file:
            assert file.metadata()["darkminer_concept"] == concept
    with safe_open(files["save_all"][0], "pt") as file:
        assert file.metadata()["darkminer_concept"] == "ink and noto"


def test_they_are_what_a_chain_of_loop_nodes_gives(run):
    """Bit for bit, the second from the model that the first erasure left."""
    files, _ = run
    hand = [files["save_ink"][0], files["save_noto"][0]]
    for listed_file, chained_file in zip(files["save"], hand, strict=True):
        one, other = load_file(listed_file), load_file(chained_file)
        assert one.keys() == other.keys() and len(one) == 3 * 66
        assert all(torch.equal(one[k], other[k]) for k in one)


def test_the_combined_file_adds_what_both_add(run):
    files, _ = run
    ink, noto, both = (deltas(p) for p in (*files["save"], files["save_all"][0]))
    assert ink.keys() == noto.keys() == both.keys()
    for stem in both:
        assert torch.allclose(both[stem], ink[stem] + noto[stem], atol=1e-6)
        assert ink[stem].any() and noto[stem].any() and not torch.equal(ink[stem], noto[stem])


def test_the_erased_model_draws_what_the_combined_file_draws(run):
    _, drawn_by = run
    assert torch.equal(drawn_by["chained"], drawn_by["hand"])
    assert torch.allclose(drawn_by["chained"], drawn_by["joint"], rtol=1e-3, atol=2e-3)
    assert not torch.allclose(drawn_by["chained"], drawn_by["plain"], atol=0.05)


def test_one_concept_is_its_own_combination(comfy):
    outputs = comfy.run(listed("ink", seed=5))
    each, all_ = (comfy.output / outputs[k]["text"][0] for k in ("save", "save_all"))
    one, other = load_file(each), load_file(all_)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"concepts": " \n"}, "EraseConcepts: concepts is empty: write what is to be erased"),
        ({"concepts": "ink\nnoto\nInk"}, "concepts names 'Ink' twice: write each concept once"),
        ({"concepts": "ink", "template": "a drawing"}, r"has no \*: put a \*"),
    ],
)
def test_a_bad_list_is_refused_when_queued(comfy, changes, sentence):
    prompt = listed("ink")
    prompt["list"]["inputs"] |= changes
    with pytest.raises(script("comfy_server").ServerError, match=sentence):
        comfy.run(prompt)


def test_a_list_that_comes_over_a_link_is_checked_too(comfy):
    prompt = listed(["words", 0])
    prompt["words"] = node("PrimitiveStringMultiline", value="noto\nnoto")
    assert "EraseConcepts: concepts names 'noto' twice" in failing(comfy, prompt)
