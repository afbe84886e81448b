"""Attacks on the gallery's model through the host: by the node, and each of them in a few steps."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from .conftest import pack

pytestmark = pytest.mark.host

SAMPLING = {
    "sampling_steps": 8, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal",
    "batch_size": 4,
}  # fmt: skip
ABSENT = object()
FEW = {
    "p4d-n": {"steps": 2}, "p4d-k": {"steps": 2}, "udatk": {"levels": 2, "iterations": 1},
    "ringabell": {"generations": 2, "population": 6},
    "probe": {"steps": 4, "churns": (1.0,), "tries": 1}, "completion": {"steps": 4},
    "recall": {"levels": 2, "iterations": 1}, "cce": {"steps": 2, "batch": 2, "word": "picture"},
}  # fmt: skip


@pytest.fixture(scope="module")
def world(hosted):
    model, clip, vae, _ = pack("demo.models").load_demo_models()
    text, session = pack("nodes.host.text"), pack("nodes.host.session")
    images, _, _ = pack("demo.gallery").drawings("ink", 4, seed=31)
    latents = session.encode_images(model, vae, images)
    pool = pack("darkminer.types").ImagePool(
        latents, (images * 255).round().byte(), "ink", "a ink drawing", 0, "",
        template="a * drawing",
    )  # fmt: skip
    said = {n: text.conditioning(clip, t) for n, t in (("anchor", "a drawing"), ("negative", ""))}
    return SimpleNamespace(model=model, clip=clip, vae=vae, pool=pool, **said)


def by_node(nodes, world, **changes):
    off = {name.replace("-", "_"): False for name in pack("darkminer.attacks.catalogue").ATTACKS}
    given = {
        "model": world.model, "clip": world.clip, "vae": world.vae, "pool": world.pool,
        "anchor": world.anchor, "negative": world.negative, "seed": 0, **SAMPLING, **off,
        "detector": "gallery judge", "effort": "short", "count": 2, "completion": True,
    }  # fmt: skip
    given = {k: v for k, v in {**given, **changes}.items() if v is not ABSENT}
    return nodes["RedTeam"].execute(**given).args


def test_the_node_counts_what_attacks_get_from_a_model_that_nothing_was_erased_from(nodes, world):
    success, pictures, found, texts, table, loss, findings, again = by_node(nodes, world)
    lines = table.splitlines()
    assert [line.split("  ")[0] for line in lines[1:3]] == ["asked in words", "completion"]
    assert lines[-1].startswith("judged by gallery judge (style ink, seven-way)")
    assert success == 1.0 and "(2/2)" in lines[2]  # half an ink drawing becomes one again
    assert len(pictures) == 4 and sum(len(context) for context, _ in found) == 4
    assert texts == "" and loss == {"loss": []}
    words = findings.found.rows["words"]
    assert again.concept == "ink" and again.round == 1
    assert len(again.entries) == int(words.sight.hits.sum())  # completion found no context
    protocol = findings.protocol
    assert findings.found.worst == success and protocol.seed == 0 and protocol.concept == "ink"
    assert list(protocol.settings) == ["completion"] and protocol.lora == ""
    assert len(protocol.model) == 12 and protocol.seconds > 0
    assert "ink" in protocol.detector.classes and "torch" in protocol.versions


def test_what_an_attack_found_is_erased_in_another_round(nodes, world):
    """The second round goes on from the first one's LoRA, and only where something was found."""
    given = {"model": world.model, "pool": world.pool, "anchor": world.anchor, "preset": "fast",
             "seed": 0, **SAMPLING, "negative": world.negative, "steps": 2}  # fmt: skip
    first = by_node(nodes, world, p4d_k=False)[7]
    assert first.entries
    _, lora, known, _ = nodes["CircumventLoRA"].execute(**given, embeddings=first).args
    attacked = by_node(nodes, world, lora=lora)
    effects = attacked[6].effects
    assert [p.ratio.count for p in effects.strengths] == [2] * 4
    words = attacked[6].found.rows["words"]
    assert effects.strengths[-1].ratio == words.success and effects.drift.value > 0
    assert len(effects.drift.prompts) == 17
    assert not any("ink" in prompt.split() for prompt in effects.drift.prompts)
    assert by_node(nodes, world, lora=lora, effects=False)[6].effects is None
    _, more, _, loss = (
        nodes["CircumventLoRA"].execute(**given, embeddings=attacked[7], lora=lora).args
    )
    assert len(loss["loss"]) == 2 and more.keys() == lora.keys()
    assert any(not torch.equal(more[key], lora[key]) for key in lora)
    assert all(e.latents is not None for e in known.entries)
    found = attacked[6].found
    row = found.rows["words"]
    sight = type(row.sight)(row.sight.scores, torch.zeros_like(row.sight.hits))
    clean = replace(found, rows={"words": replace(row, sight=sight)})
    none = pack("nodes.attack.red_team").embeddings_of(clean, "ink")
    assert pack("darkminer.method.outcome").nothing_found(none)
    _, same, _, loss = nodes["CircumventLoRA"].execute(**given, embeddings=none, lora=more).args
    assert loss["loss"] == [] and all(torch.equal(same[key], more[key]) for key in more)


def test_every_attack_runs_through_the_host_and_a_lora_of_zeros_is_the_original(world):
    team, scenes = pack("darkminer.attacks.red_team"), pack("nodes.attack.scene")
    node, names = pack("nodes.attack.red_team"), pack("nodes.host.lora").names_of(world.model)
    settings = {
        name: replace(pack("darkminer.attacks.catalogue").ATTACKS[name].full, **few)
        for name, few in FEW.items()
    }
    zero = {}
    for path, stem in names.items():
        rows = world.model.model.diffusion_model.get_submodule(path).weight
        zero[f"{stem}.lora_up.weight"] = torch.zeros(rows.shape[0], 2)
        zero[f"{stem}.lora_down.weight"] = torch.ones(2, rows.flatten(1).shape[1])
        zero[f"{stem}.alpha"] = torch.tensor(2.0)
    given = node.what_attackers_know(world.clip, world.pool, 0, (), 1, "")
    sampling = pack("darkminer.model.sampling").SamplingConfig(1, 3.0, "euler", "normal", 4)
    shared = {"anchor": world.anchor, "negative": world.negative, "sampling": sampling,
              "vae": world.vae, "latent_size": (8, 8)}  # fmt: skip
    made = []
    for original, lora, these in ((world.model, None, {"p4d-n": settings["p4d-n"]}),
                                  (None, zero, settings)):  # fmt: skip
        with node.sessions(world.model, original, world.pool, shared) as (session, before):
            scene = scenes.scene_of(
                world.model, session, world.clip, given, lora=lora, original=before, cfg=3.0,
                negative=world.negative, report=lambda r: None,
                detector=pack("nodes.attack.detectors").detector(
                    "gallery judge", "heart", world.vae, "", ""
                ),
            )  # fmt: skip
            made.append(team.red_team(scene, these))
    plain, erased = made
    assert list(erased.rows) == ["words", *FEW]
    assert erased.texts().count("\n") == 3 and set(node.losses_of(erased)) == {
        "loss", "p4d-n", "p4d-k", "udatk", "ringabell", "recall", "cce",
    }  # fmt: skip
    for name in plain.rows:
        assert torch.allclose(plain.rows[name].pictures, erased.rows[name].pictures, atol=1e-4)
        pairs = zip(plain.rows[name].attempts, erased.rows[name].attempts, strict=True)
        assert all(a.spoken == b.spoken for a, b in pairs)


@pytest.fixture
def csv(hosted, tmp_path):
    """A file of users' prompts in the host's input folder."""
    import folder_paths

    before = folder_paths.get_input_directory()
    folder_paths.set_input_directory(str(tmp_path))
    (tmp_path / "users.csv").write_text(
        "prompt,seed,guidance\na ink drawing of a cat,41,1.5\na ink drawing of a car,,\na cat,1,\n"
    )
    yield tmp_path / "users.csv"
    folder_paths.set_input_directory(before)


def test_a_row_of_a_file_is_drawn_as_the_hosts_sampler_draws_it(nodes, world, csv):
    args = by_node(nodes, world, prompt_file="users.csv", pictures_each=2)
    pictures, protocol = args[1], args[6].protocol
    assert [p.seed for p in protocol.prompts] == [41, None] and protocol.each == 2
    assert len(pictures) == 2 * 2 + 2
    sample, how = pack("demo.measure").sample, {
        "steps": 8, "cfg": 1.5, "sampler_name": "euler", "scheduler": "normal",
    }  # fmt: skip
    for place, seed in ((0, 41), (2, 42)):
        drawn = sample(
            world.model, world.clip, world.vae, ["a ink drawing of a cat"], seed, how
        )  # fmt: skip
        assert torch.allclose(pictures[place], drawn[0], atol=1e-3)
    assert not torch.allclose(pictures[0], pictures[2], atol=1e-2)


def test_where_prompts_come_from_is_one_place(nodes, world, csv):
    node, error = nodes["RedTeam"], pack("darkminer.errors").DarkMinerError
    for changes, sentence in (
        ({"prompts": "a cat", "prompt_list": "styles"}, "^RedTeam: prompts and prompt_list are"),
        ({"prompt_file": "none.csv"}, "^RedTeam: prompt_file 'none.csv' does not exist"),
        ({"prompt_file": "/etc/passwd"}, "^RedTeam: prompt_file '/etc/passwd' lies outside"),
        ({"prompt_file": "users.csv", "negative": ABSENT, "cfg": 1.0}, "connect the empty prompt"),
    ):
        with pytest.raises(error, match=sentence):
            by_node(nodes, world, **changes)
    before = node.fingerprint_inputs(prompt_file="users.csv")
    assert node.fingerprint_inputs(prompt_file="users.csv") == before
    csv.write_text("prompt\na dog\n")
    assert node.fingerprint_inputs(prompt_file="users.csv") != before


def test_what_is_missing_is_one_sentence_and_the_stop_button_is_obeyed(nodes, world):
    error = pack("darkminer.errors").DarkMinerError
    for changes, sentence in (
        ({"p4d_n": True}, "^RedTeam: P4D-N needs the model before its erasure: connect it to"),
        ({"completion": False}, "^RedTeam: No attack is chosen"),
        ({"pool": replace(world.pool, concept="van gogh")}, "does not know this concept"),
    ):
        with pytest.raises(error, match=sentence):
            by_node(nodes, world, **{"detector": "gallery judge", **changes})
    management = __import__("comfy.model_management", fromlist=["x"])
    management.interrupt_current_processing(True)
    try:
        with pytest.raises(management.InterruptProcessingException):
            by_node(nodes, world)
    finally:
        management.interrupt_current_processing(False)
