"""Safe Latent Diffusion through the host's own KSampler."""

import pytest
import torch

from .conftest import pack

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def drawn(hosted):
    """Latents by the host's KSampler node, of the gallery's model with SLD on it or without."""
    import nodes as host

    node = pack("nodes.compare.sld").SafeLatentDiffusion
    model, clip, _, _ = pack("demo.models").load_demo_models()
    said = pack("nodes.host.text").conditioning

    def guided(strength, setting):
        given = {"model": model, "concept": said(clip, "ink")}
        return node.execute(**given, setting=setting, strength=strength).args[0]

    def draw(strength=None, setting="max", sampler="euler", cfg=3.0, batch=2, used=None):
        if used is None:
            used = model if strength is None else guided(strength, setting)
        start = {"samples": torch.zeros(batch, 8, 8, 8)}
        prompts = said(clip, "a ink drawing of a cat"), said(clip, "")
        made = host.KSampler().sample(used, 7, 6, cfg, sampler, "normal", *prompts, start)
        return made[0]["samples"]

    draw.model, draw.guided = model, guided
    return draw


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2m"])
def test_strength_0_is_plain_guidance_bit_for_bit(drawn, sampler):
    plain = drawn(sampler=sampler)
    assert torch.equal(drawn(0.0, sampler=sampler), plain)
    assert not torch.allclose(drawn(1.0, sampler=sampler), plain, atol=1e-2)


def test_settings_differ_and_the_model_stays_as_it_was(drawn):
    options = dict(drawn.model.model_options)
    plain = drawn()
    moved = [float((drawn(1.0, name) - plain).norm()) for name in ("weak", "medium", "max")]
    assert moved[0] < moved[-1] and min(moved) > 0 and len(set(moved)) == 3
    assert torch.equal(drawn(), plain)
    assert drawn.model.model_options == options


def test_nothing_is_remembered_from_one_drawing_to_the_next(drawn):
    """One MODEL draws two, four and two pictures again: the last are the first."""
    used = drawn.guided(1.0, "strong")
    first = drawn(used=used)
    assert len(drawn(used=used, batch=4)) == 4
    assert torch.equal(drawn(used=used), first)


def test_without_guidance_it_says_what_to_do(drawn):
    with pytest.raises(pack("darkminer.errors").DarkMinerError, match="set cfg above 1"):
        drawn(1.0, cfg=1.0)
    assert torch.equal(drawn(0.0, cfg=1.0), drawn(cfg=1.0))
