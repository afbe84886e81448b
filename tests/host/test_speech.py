"""The CLIP's input as attacks use it, on the gallery's CLIP and on one of two encoders."""

import pytest
import torch

from .conftest import pack

pytestmark = pytest.mark.host


@pytest.fixture(scope="module", params=["gallery", "sdxl"])
def clip(hosted, request):
    if request.param == "gallery":
        return pack("demo.models").load_demo_models()[1]
    from . import miniature

    return miniature.text_encoder("sdxl")


def speech_of(clip, exclude=()):
    return pack("nodes.host.speech").ClipSpeech(pack("nodes.host.text").TextEncoder(clip), exclude)


def test_tokens_say_what_the_host_says_and_gradients_reach_each_of_them(clip):
    text = pack("nodes.host.text")
    prompt = "a nice drawing of a penguin"
    with pack("nodes.host.training").training_mode():
        speech = speech_of(clip)
        ids = speech.ids(prompt)
        row = speech.table[ids][None].clone().requires_grad_(True)
        ours = speech(torch.cat([row, row.flip(1)]))
        theirs = torch.stack(text.contexts(clip, [prompt]))
        assert torch.allclose(ours[:1], theirs, atol=1e-4)
        ours[0].square().sum().backward()
        assert all(token.any() for token in row.grad[0])
        empty = speech(speech.table[[]][None])
        assert torch.allclose(empty, torch.stack(text.contexts(clip, [""])), atol=1e-4)
        assert speech.text(ids) == prompt and len(speech.ids("a " * 200)) == speech.length


def test_pasted_text_is_read_by_the_hosts_own_tokenizer(clip):
    speak = pack("darkminer.attacks.speech").spoken
    with pack("nodes.host.training").training_mode():
        speech = speech_of(clip)
        drawing, bracket = speech.ids("drawing"), speech.ids(r"\(")
        kept = speak(speech, [*drawing, *bracket, *drawing])
        assert kept.text == r"drawing \( drawing" and not kept.differs
        names = {token: n for n, token in speech._text.vocabularies["l"].items()}
        parts = [names["d"], *drawing, names["d"]]
        changed = speak(speech, parts)
        assert changed.differs and changed.note.startswith("pasted, it is read otherwise")


def test_excluded_words_can_neither_be_said_nor_put_together(clip):
    with pack("nodes.host.training").training_mode():
        every, few = speech_of(clip), speech_of(clip, ["drawing"])
    assert set(few.allowed.tolist()) < set(every.allowed.tolist())
    assert every.ids("drawing")[0] in every.allowed
    said = [few.text([i]) for i in few.allowed.tolist()[::50]]
    assert all(word.isalpha() for word in said)
    assert every.ids("drawing")[0] not in few.allowed
