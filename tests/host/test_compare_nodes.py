"""The compared methods as nodes: the same bytes again, the MODEL as it was, the file what it says.

Shortest settings on the gallery's model; that each step is its paper's is in tests/test_compare.py.
"""

import json

import pytest
import torch

from . import miniature
from .conftest import pack

pytestmark = pytest.mark.host

SAMPLING = {
    "sampling_steps": 2, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal",
    "batch_size": 4,
}  # fmt: skip
TRAINED = {"steps": 2, "learning_rate": 0.002, "rank": 2, "seed": 1}
DRAWN = {"draw_steps": 3, "guidance": 3.0}
WORDS = {"exclude_words": "", "anchor_prompt": "a drawing", "prompts": 2}
GIVEN = {
    "ErasedStableDiffusion": {"part": "x", "eta": 1.0, **DRAWN, **TRAINED},
    "UnifiedConceptEditing": {
        "anchor_prompt": "a drawing", "preserve_prompts": "a noto drawing\n", "erase_scale": 1.0,
        "preserve_scale": 0.1, "lamb": 0.5, "rank": 4,
    },
    "ConceptAblation": {"batch": 2, "prior": 0.5, **WORDS, **TRAINED, **SAMPLING},
    "ConceptSlider": {
        "loss": "slider", "layers": "both", "scale": 1.0, **WORDS, **DRAWN, **TRAINED,
    },
    "SaliencyUnlearning": {"batch": 2, "share": 0.5, "beta": 1.0, **WORDS, **TRAINED, **SAMPLING},
    "StereoErasure": {
        "layers": "both", "rounds": 2, "search_steps": 2, "search_rate": 0.005, "word": "picture",
        "eta": 1.0, "toward": 1.0, "away": 3.0, "prompts": 2, "exclude_words": "", **DRAWN,
        **TRAINED,
    },
}  # fmt: skip
METHOD = dict(zip(GIVEN, ("ESD-x", "UCE", "CA", "Concept Slider", "SalUn", "STEREO"), strict=True))


@pytest.fixture(scope="module")
def run(nodes, sockets):
    def execute(name, **changes):
        shared = {k: sockets[s] for k, s in (("model", "MODEL"), ("clip", "CLIP"),
                                             ("pool", "DARKMINER_POOL"))}  # fmt: skip
        return nodes[name].execute(**shared | GIVEN[name] | changes).args

    return execute


def digest(model):
    return pack("darkminer.model.adapter").frozen_digest(model.model.diffusion_model)


@pytest.mark.parametrize("name", GIVEN)
def test_the_same_seed_gives_the_same_bytes_and_the_model_stays(run, sockets, name):
    model, before = sockets["MODEL"], digest(sockets["MODEL"])
    patches, options = dict(model.patches), dict(model.model_options)
    erased, lora, *_ = run(name)
    assert digest(model) == before and model.patches == patches
    assert model.model_options == options
    again = run(name)[1]
    assert lora.keys() == again.keys() and all(torch.equal(lora[k], again[k]) for k in lora)
    assert any(bool(lora[k].any()) for k in lora if k.endswith("up.weight"))
    assert len(erased.patches) == len(lora) // 3
    (record,) = json.loads(lora.metadata["darkminer_runs"])
    assert record["node"] == name and record["settings"]["method"] == METHOD[name]
    assert lora.metadata["darkminer_concept"] == "ink"


@pytest.mark.parametrize("name", [n for n in GIVEN if n != "UnifiedConceptEditing"])
def test_the_stop_button_stops_it_and_leaves_the_model(run, sockets, name):
    import comfy.model_management as management

    model, before = sockets["MODEL"], digest(sockets["MODEL"])
    management.interrupt_current_processing(True)
    try:
        with pytest.raises(management.InterruptProcessingException):
            run(name, steps=100_000)
    finally:
        management.interrupt_current_processing(False)
    assert digest(model) == before and not model.patches


def test_stereo_refuses_what_no_token_can_be_learnt_from_before_it_trains(run):
    """A hundred thousand steps would not end here."""
    refusal = pack("darkminer.errors").DarkMinerError
    for word in ("umbrella", ""):
        with pytest.raises(refusal, match="StereoErasure: .*not one token"):
            run("StereoErasure", word=word, steps=100_000)
    with pytest.raises(refusal, match="StereoErasure: .*must be a CLIP"):
        run("StereoErasure", clip=miniature.text_encoder("pixart"), steps=100_000)


def test_a_rank_too_low_for_uces_edit_is_in_the_metadata(run):
    def settings(lora):
        return json.loads(lora.metadata["darkminer_settings"])

    low = settings(run("UnifiedConceptEditing", rank=1)[1])
    whole = settings(run("UnifiedConceptEditing", rank=1024)[1])
    assert 0.05 < low["rank_error"] < low["rank_error_worst"] < 1
    assert whole["rank_error"] < 1e-6 and whole["rank_needed"] > 1


def test_esds_lora_at_strength_1_is_what_was_trained(sockets):
    """What the host's loader makes of the file answers as the trained network did."""
    compare, training = pack("darkminer.compare.esd"), pack("nodes.compare.training")
    model, clip, pool = (sockets[s] for s in ("MODEL", "CLIP", "DARKMINER_POOL"))
    text = pack("nodes.host.text").contexts(clip, ["a ink drawing", ""])
    gen = torch.Generator().manual_seed(2)
    x, t = torch.randn(2, 8, 8, 8, generator=gen), torch.tensor([100.0, 700.0])
    said = torch.stack([text[0]] * 2)

    def answer(session):
        with torch.no_grad():
            return session.denoise(x, t, said)

    with training.session_of(model, clip, pool, "test") as session:
        plain = answer(session)
        config = training.lora_settings(4)
        adapters = pack("darkminer.compare.layers").adapters_on(session, "x", config, 0)
        settings = compare.ESDConfig(steps=3, draw_steps=3)
        compare.esd(session, adapters, text[:1], text[1], settings, seed=0)
        trained, state = answer(session), adapters.state()
    lora = pack("nodes.host.lora")
    file = pack("darkminer.files.lora_file").to_state_dict(state, lora.names_at(model, state.up))
    with training.session_of(lora.apply_lora(model, file), clip, pool, "test") as session:
        loaded = answer(session)
    assert not torch.allclose(trained, plain, atol=1e-3)
    assert torch.allclose(loaded, trained, atol=1e-5)


def test_the_comparison_sets_only_inputs_that_the_nodes_have(nodes, hosted):
    METHODS = pack("benchmarks.comparison").METHODS

    of_nodes = [m for m in METHODS.values() if m.node]
    assert {m.node for m in of_nodes} == {*GIVEN, "SafeLatentDiffusion"}
    for method in of_nodes:
        declared = {i.id: i for i in nodes[method.node].define_schema().inputs}
        for name, value in method.given.items():
            pack("nodes.checks").checked(declared[name], value)
