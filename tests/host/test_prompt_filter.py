"""The prompt filter on the gallery's text encoder."""

import pytest
import torch

from .conftest import pack

pytestmark = pytest.mark.host

LONG = "a drawing of " * 12  # more than the gallery's CLIP reads at once


@pytest.fixture
def filtered(nodes, sockets):
    def run(prompt, concepts="ink\n\n noto ", threshold=0.15):
        given = {"prompt": prompt, "concepts": concepts, "threshold": threshold}
        return nodes["PromptFilter"].execute(clip=sockets["CLIP"], **given).args

    return run


def says(sockets, prompt):
    return pack("nodes.host.text").conditioning(sockets["CLIP"], prompt)[0][0]


@pytest.mark.parametrize("prompt", ["a ink drawing of a cat", "a drawing of a fish by ink"])
def test_a_prompt_near_a_concept_becomes_the_empty_prompt(filtered, sockets, prompt):
    given, blocked, text = filtered(prompt)
    assert blocked is True and torch.equal(given[0][0], says(sockets, ""))
    assert text.startswith("blocked") and "'ink'" in text and "'noto'" in text


@pytest.mark.parametrize("prompt", ["a blob drawing of a cat", "a drawing", ""])
def test_another_passes_as_the_hosts_own_node_encodes_it(filtered, sockets, prompt):
    given, blocked, text = filtered(prompt)
    assert blocked is False and torch.equal(given[0][0], says(sockets, prompt))
    assert text.startswith("passed") and "'ink'" in text


def test_prompts_of_other_styles_pass_and_most_of_the_concepts_own_do_not(filtered):
    asked = ("a {} drawing of a fish", "a drawing of a tree in {} style", "{} whale")
    others = ("twemoji", "noto", "blob", "emojione", "flat", "fluent")
    blocked = [filtered(p.format("ink"), "ink")[1] for p in asked]
    assert sum(blocked) >= 2
    assert not any(filtered(p.format(s), "ink")[1] for p in asked for s in others)


def test_a_concept_behind_what_the_encoder_reads_at_once_is_found(filtered, sockets):
    clip = sockets["CLIP"]
    parts = pack("nodes.host.text").pooled(clip, LONG + "a ink drawing")
    assert len(parts) > 1 and filtered(LONG + "a ink drawing")[1]
    assert not filtered(LONG)[1]


def test_concepts_and_threshold_are_what_decides(filtered):
    prompt = "a ink drawing of a cat"
    assert not filtered(prompt, "blob")[1] and not filtered(prompt, threshold=0.9)[1]
    with pytest.raises(pack("darkminer.errors").DarkMinerError, match="PromptFilter: .*empty"):
        filtered(prompt, " \n")


@pytest.mark.parametrize("kind", ["sd15", "sdxl", "flux", "sd3"])
def test_it_reads_what_the_family_gives_beside_the_context(kind):
    from . import miniature

    clip, text = miniature.text_encoder(kind), pack("nodes.host.text")
    given = text.conditioning(clip, "a cat")[0][1]["pooled_output"]
    assert torch.allclose(text.pooled(clip, "a cat"), given.float().reshape(1, -1), atol=1e-5)
    assert len(text.pooled(clip, "a cat " * 60)) > 1


def test_a_text_encoder_without_an_embedding_of_the_whole_is_named():
    from . import miniature

    text = pack("nodes.host.text")
    with pytest.raises(pack("darkminer.errors").DarkMinerError, match="no pooled embedding"):
        text.pooled(miniature.text_encoder("pixart"), "a cat")
