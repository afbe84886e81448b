"""The nodes on a running server."""

import asyncio
import importlib

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from .conftest import script

pytestmark = pytest.mark.host

SAMPLING = {
    "sampling_steps": 2, "cfg": 2.0, "sampler_name": "euler", "scheduler": "normal",
    "batch_size": 16,
}  # fmt: skip
HELD_OUT = "ball, bouquet"
LENGTH = 20  # tokens of a mined embedding: not the gallery's prompts' 32
OURS = (
    "ImagePoolBuilder", "MineEmbedding", "VerifyDeltaCLIP", "CircumventLoRA", "DarkMinerLoop",
    "DarkMinerRoundOpen", "DarkMinerRoundClose", "DarkMinerConceptContexts",
    "DarkMinerVocabularyBank", "SaveErasureLoRA", "DarkMinerDemoModels", "CombineErasures",
    "DarkMinerChase", "EraseConcepts", "AttackErasure", "DarkMinerSettings",
    "RedTeam", "LoadErasureLoRA", "SaveReportCard", "CompareErasure",
    "MeasureFidelity",
    "ErasedStableDiffusion", "UnifiedConceptEditing", "ConceptAblation", "ConceptSlider",
    "SafeLatentDiffusion", "SaliencyUnlearning", "StereoErasure", "PromptFilter",
)  # fmt: skip


def node(kind, **inputs):
    return {"class_type": kind, "inputs": inputs}


def models_and_pool(concept="ink", size=5, **changes):
    inputs = {
        "concept": concept, "template": "a * drawing", "size": size, "width": 32, "height": 32,
        "seed": 0, **SAMPLING, **changes,
    }  # fmt: skip
    return {
        "m": node("DarkMinerDemoModels"),
        "pool": node("ImagePoolBuilder", model=["m", 0], clip=["m", 1], vae=["m", 2], **inputs),
    }


def loop(prefix="loras/loop", **changes):
    inputs = {
        "anchor_prompt": "a drawing", "negative_prompt": "", "preset": "fast", "max_rounds": 2,
        "seed": 3, **SAMPLING, "threshold": "-1", "exclude_words": HELD_OUT, "mine_steps": 3,
        "length": LENGTH, "count": 1, "circumvent_steps": 4, "chase_steps": 3,
        "bank_size": 6, "run_folder": "off", **changes,
    }  # fmt: skip
    return {
        **models_and_pool(),
        "loop": node(
            "DarkMinerLoop", model=["m", 0], clip=["m", 1], vae=["m", 2], clip_vision=["m", 3],
            pool=["pool", 0], **inputs,
        ),
        "save": node("SaveErasureLoRA", lora=["loop", 1], filename_prefix=prefix),
    }  # fmt: skip


def graph(prefix="loras/graph"):
    """The same as :func:`loop`, stage by stage."""
    few = {"preset": "fast", "seed": 3}
    m, c, v, e = (["m", i] for i in range(4))
    text = node("CLIPTextEncode", clip=c, text="a drawing")
    train = {**few, **SAMPLING, "steps": 4, "bank": ["bank", 0], "negative": ["no", 0]}
    return {
        **models_and_pool(),
        "anchor": text,
        "no": node("CLIPTextEncode", clip=c, text=""),
        "words": node(
            "DarkMinerConceptContexts", clip=c, pool=["pool", 0], seed=3, exclude_words=HELD_OUT
        ),
        "bank": node(
            "DarkMinerVocabularyBank", model=m, clip=c, vae=v, pool=["pool", 0], clip_vision=e,
            anchor_prompt="a drawing", negative_prompt="", seed=3, **SAMPLING, bank_size=6,
            exclude_words=HELD_OUT,
        ),
        "start": node(
            "CircumventLoRA", model=m, pool=["pool", 0], embeddings=["words", 0],
            anchor=["anchor", 0], **train,
        ),
        "chase": node(
            "DarkMinerChase", model=m, pool=["pool", 0], embeddings=["start", 2],
            anchor=["anchor", 0], seed=3, **SAMPLING, steps=3, clip=c, exclude_words=HELD_OUT,
            lora=["start", 1], bank=["bank", 0], negative=["no", 0],
        ),
        "open": node(
            "DarkMinerRoundOpen", max_rounds=2, embeddings=["chase", 2], lora=["chase", 1]
        ),
        "mine": node(
            "MineEmbedding", model=m, pool=["pool", 0], anchor=["anchor", 0], **few,
            lora=["open", 1], embeddings=["open", 2], clip=c, exclude_words=HELD_OUT, steps=3,
            length=LENGTH, count=1,
        ),
        "verify": node(
            "VerifyDeltaCLIP", model=m, vae=v, mined=["mine", 0], reference=["anchor", 0],
            pool=["pool", 0], **few, **SAMPLING, threshold="-1", clip_vision=e,
            lora=["open", 1], embeddings=["mine", 1], negative=["no", 0],
        ),
        "train": node(
            "CircumventLoRA", model=m, pool=["pool", 0], embeddings=["verify", 4],
            anchor=["anchor", 0], lora=["open", 1], **train,
        ),
        "close": node(
            "DarkMinerRoundClose", round=["open", 0], verified=["verify", 0], score=["verify", 1],
            judged=["verify", 4], lora=["train", 1], embeddings=["train", 2],
        ),
        "save": node("SaveErasureLoRA", lora=["close", 0], filename_prefix=prefix),
    }  # fmt: skip


def saved(comfy, outputs):
    return comfy.output / outputs["save"]["text"][0]


@pytest.fixture(scope="module")
def by_loop(comfy):
    return saved(comfy, comfy.run(loop()))


def test_every_input_of_every_node_has_a_tooltip(comfy):
    definitions = comfy.ask(lambda client: client.object_info())
    for name in OURS:
        assert definitions[name]["category"].partition("/")[0] == "DarkMiner"
        for kind in ("required", "optional"):
            for field, spec in definitions[name]["input"].get(kind, {}).items():
                assert spec[1].get("tooltip"), f"{name}.{field}"


def test_the_visible_loop_gives_the_loop_nodes_lora(comfy, by_loop):
    one = load_file(by_loop)
    other = load_file(saved(comfy, comfy.run(graph())))
    assert one.keys() == other.keys() and len(one) == 3 * 66
    assert all(torch.equal(one[k], other[k]) for k in one)


def test_same_seed_twice_and_two_prompts_in_a_row(comfy, by_loop):
    """A setting that is not used here makes the host run everything again."""
    again = load_file(saved(comfy, comfy.run(loop("loras/again", open_clip_weights="unused"))))
    first = load_file(by_loop)
    assert all(torch.equal(first[k], again[k]) for k in first)


def test_the_file_says_what_it_is(by_loop):
    with safe_open(by_loop, "pt") as file:
        metadata = file.metadata()
    assert metadata["darkminer_concept"] == "ink"
    assert metadata["darkminer_rounds"] == "2"
    preset = importlib.import_module("dark_miner.darkminer.config").FAST
    assert metadata["ss_network_dim"] == str(preset.lora.rank)
    assert metadata["darkminer_seed"] == "3"
    assert len(metadata["darkminer_base_fingerprint"]) == 12


def test_one_keep_input_takes_many_combined_prompts(comfy):
    """Joined by the core's node they are kept as prompts in inputs of their own; both matter."""
    whole = graph()
    prompt = {name: whole[name] for name in ("m", "pool", "anchor", "no", "words", "bank")}
    for name, text in (("one", "a noto drawing"), ("two", "a blob drawing of a cat")):
        prompt[name] = node("CLIPTextEncode", clip=["m", 1], text=text)
    prompt["both"] = node(
        "ConditioningCombine", conditioning_1=["one", 0], conditioning_2=["two", 0]
    )
    keeps = {
        "combined": {"keep_1": ["both", 0]},
        "apart": {"keep_1": ["one", 0], "keep_2": ["two", 0]},
        "alone": {"keep_1": ["one", 0]},
    }
    for name, keep in keeps.items():
        train = {**whole["start"]["inputs"], **keep}
        prompt[f"train_{name}"] = node("CircumventLoRA", **train)
        prompt[f"save_{name}"] = node(
            "SaveErasureLoRA", lora=[f"train_{name}", 1], filename_prefix=f"loras/kept_{name}"
        )
    outputs = comfy.run(prompt)
    combined, apart, alone = (
        load_file(comfy.output / outputs[f"save_{name}"]["text"][0]) for name in keeps
    )
    assert all(torch.equal(combined[k], apart[k]) for k in apart)
    assert not all(torch.equal(combined[k], alone[k]) for k in alone)


def test_core_nodes_take_lora_and_mined_conditioning(comfy):
    prompt = graph("loras/core")
    prompt["open"]["inputs"]["max_rounds"] = 1
    prompt |= {
        "core_save": node("SaveLoRA", lora=["close", 0], prefix="loras/core_saved"),
        "core_load": node(
            "LoraModelLoader", model=["m", 0], lora=["close", 0], strength_model=1.0, bypass=False
        ),
        "empty": node("EmptyLatentImage", width=32, height=32, batch_size=1),
        "shown": node(
            "KSampler", model=["core_load", 0], seed=1, steps=3, cfg=2.0, sampler_name="euler",
            scheduler="normal", positive=["mine", 0], negative=["no", 0],
            latent_image=["empty", 0], denoise=1.0,
        ),
        "pixels": node("VAEDecode", samples=["shown", 0], vae=["m", 2]),
        "look": node("PreviewImage", images=["pixels", 0]),
    }  # fmt: skip
    outputs = comfy.run(prompt)
    assert len(outputs["look"]["images"]) == 1
    (core,) = (comfy.output / "loras").glob("core_saved*.safetensors")
    ours = load_file(saved(comfy, outputs))
    assert all(torch.equal(ours[k], v) for k, v in load_file(core).items())


def test_an_attack_sees_the_concept_in_the_model_that_nothing_was_erased_from(comfy):
    """Textual inversion starts from a neutral word; without an erasure it ends at the style."""
    prompt = models_and_pool(size=24)
    prompt |= {
        "anchor": node("CLIPTextEncode", clip=["m", 1], text="a drawing"),
        "no": node("CLIPTextEncode", clip=["m", 1], text=""),
    }
    sampling = {**SAMPLING, "sampling_steps": 8, "cfg": 5.0}
    for name, steps in (("first", 1), ("later", 60)):
        prompt[name] = node(
            "AttackErasure", model=["m", 0], vae=["m", 2], pool=["pool", 0], anchor=["anchor", 0],
            seed=0, **sampling, clip_vision=["m", 3], clip=["m", 1], negative=["no", 0],
            exclude_words=HELD_OUT, steps=steps, pictures=16, limit=0.5,
        )  # fmt: skip
        prompt[f"say_{name}"] = node("PreviewAny", source=[name, 3])
        prompt[f"verdict_{name}"] = node("PreviewAny", source=[name, 0])
        prompt[f"look_{name}"] = node("PreviewImage", images=[name, 2])
    outputs = comfy.run(prompt)
    assert outputs["verdict_later"]["text"][0] == "True"
    assert outputs["verdict_first"]["text"][0] == "False"
    assert outputs["say_later"]["text"][0].startswith("token ")
    assert len(outputs["look_later"]["images"]) == 3 * 16


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"concept": " "}, "concept is empty"),
        ({"template": "a drawing"}, r"template has no \*"),
    ],
)
def test_bad_words_are_refused_when_queued(comfy, changes, sentence):
    prompt = models_and_pool(**changes)
    prompt["look"] = node("PreviewImage", images=["pool", 1])
    with pytest.raises(script("comfy_server").ServerError, match=sentence):
        comfy.run(prompt)


def test_missing_inputs_are_refused_when_queued(comfy):
    prompt = loop()
    del prompt["loop"]["inputs"]["pool"]
    with pytest.raises(script("comfy_server").ServerError, match="pool"):
        comfy.run(prompt)


def failing(comfy, prompt):
    with pytest.raises(script("comfy_server").ServerError) as caught:
        comfy.run(prompt)
    return str(caught.value)


def test_a_pool_smaller_than_k_is_one_sentence(comfy):
    prompt = loop()
    prompt["pool"]["inputs"]["size"] = 2
    assert "MineEmbedding" not in failing(comfy, prompt)
    assert "holds 2 pictures and mining needs 3" in failing(comfy, prompt)


def test_a_size_the_vae_does_not_divide_is_one_sentence(comfy):
    prompt = models_and_pool(width=34)
    prompt["look"] = node("PreviewImage", images=["pool", 1])
    assert "multiples of 4" in failing(comfy, prompt)


def test_an_unreadable_picture_is_named(comfy):
    folder = comfy.output.parent / "input" / "broken"
    folder.mkdir()
    (folder / "broken.png").write_bytes(b"no picture")
    prompt = models_and_pool(folder=str(folder))
    prompt["look"] = node("PreviewImage", images=["pool", 1])
    assert "'broken.png' in folder cannot be read" in failing(comfy, prompt)


def test_a_threshold_that_is_no_number_is_one_sentence(comfy):
    assert "write a number such as 0.2, or auto" in failing(comfy, loop(threshold="high"))


def test_the_stop_button_is_obeyed_and_the_server_goes_on(comfy, by_loop):
    long = loop("loras/stopped", circumvent_steps=50_000, seed=9)

    async def stop_soon(client):
        started = asyncio.Event()

        def watch(kind, data):
            if kind in ("progress", "progress_state"):
                started.set()

        task = asyncio.ensure_future(client.run(long, watch))
        await asyncio.wait_for(started.wait(), 120)
        await asyncio.sleep(2)
        await client.session.post(f"http://{comfy.address}/interrupt")
        with pytest.raises(script("comfy_server").ServerError, match="interrupted"):
            await asyncio.wait_for(task, 60)

    comfy.ask(stop_soon)
    again = load_file(saved(comfy, comfy.run(loop("loras/after", open_clip_weights="other"))))
    first = load_file(by_loop)
    assert all(torch.equal(first[k], again[k]) for k in first)


def test_two_erasures_become_one_file_with_a_picture_and_go_on(comfy):
    """A, then B on the model without A; joined, saved with a picture, and continued."""
    few = {"mine_steps": 2, "circumvent_steps": 2, "chase_steps": 2, "max_rounds": 1}
    few["bank_size"] = 4
    rank = importlib.import_module("dark_miner.darkminer.config").FAST.lora.rank
    prompt = loop("loras/one", **few)
    second = {**prompt["loop"]["inputs"], "model": ["loop", 0], "seed": 4}
    prompt["again"] = node("DarkMinerLoop", **second)
    prompt["both"] = node("CombineErasures", lora_1=["loop", 1], lora_2=["again", 1])
    prompt["more"] = node("DarkMinerLoop", **{**prompt["loop"]["inputs"], "lora": ["both", 0]})
    for name, lora in (("save", ["both", 0]), ("save_more", ["more", 1])):
        prompt[name] = node(
            "SaveErasureLoRA", lora=lora, filename_prefix=f"loras/{name}", image=["pool", 1]
        )
    outputs = comfy.run(prompt)
    for name in ("save", "save_more"):
        path = comfy.output / outputs[name]["text"][0]
        assert path.with_suffix(".png").is_file()
        with safe_open(path, "pt") as file:
            downs = [k for k in file.keys() if k.endswith("lora_down.weight")]  # noqa: SIM118
            assert {file.get_tensor(k).shape[0] for k in downs} == {2 * rank}
            assert len(downs) == 66


def test_rubbish_in_a_lora_is_refused_by_every_node_that_takes_one(hosted):

    names = ("erase.combine", "erase.save_lora", "host.lora")
    combine, save, lora = (importlib.import_module(f"dark_miner.nodes.{n}") for n in names)
    stem = "lora_unet_a"
    good = {
        f"{stem}.lora_up.weight": torch.ones(3, 1), f"{stem}.lora_down.weight": torch.ones(1, 2),
    }  # fmt: skip
    bad = {**good, f"{stem}.alpha": torch.zeros(2)}
    error = importlib.import_module("dark_miner.darkminer.errors").DarkMinerError
    takes = {
        "CombineErasures: lora_2": lambda: combine.CombineErasures.execute(lora_1=good, lora_2=bad),
        "SaveErasureLoRA: lora": lambda: save.SaveErasureLoRA.execute(
            lora=bad, filename_prefix="loras/never"
        ),
        "The LoRA": lambda: lora.apply_lora(None, bad),
    }
    for said, take in takes.items():
        with pytest.raises(error, match=f"^{said} has at '{stem}.alpha' 2 numbers where one"):
            take()
