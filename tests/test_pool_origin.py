"""A pool of another model: refused with both names, unless the pictures are one's own."""

from dataclasses import replace

import pytest
from dark_miner.darkminer.errors import DarkMinerError
from dark_miner.darkminer.method.image_pool import build_pool, check_origin, check_pool

from .toy import context, model, pool

OTHER = {"family": "sdxl_base_v1-0", "fingerprint": "bbbbbbbbbbbb", "latent_format": "SDXL"}


def this(**changes):
    named = {"family": "sd_v1", "fingerprint": "aaaaaaaaaaaa", "latent_format": "SD15"}
    return replace(model(), **{**named, **changes})


def test_made_pictures_of_another_model_are_refused_with_both_names():
    made = replace(pool(), **OTHER)
    with pytest.raises(DarkMinerError) as refused:
        check_origin(made, this())
    for name in ("sdxl_base_v1-0", "bbbbbbbbbbbb", "SDXL", "sd_v1", "aaaaaaaaaaaa", "SD15"):
        assert name in str(refused.value)
    with pytest.raises(DarkMinerError, match="another model"):
        check_pool(made, 1, this())


def test_a_relative_with_the_same_latents_is_another_model_for_made_pictures_only():
    relative = {"family": "sd_v1", "fingerprint": "cccccccccccc", "latent_format": "SD15"}
    with pytest.raises(DarkMinerError, match="cccccccccccc"):
        check_origin(replace(pool(), **relative), this())
    check_origin(replace(pool(), prompt="", **relative), this())


def test_own_pictures_must_have_been_encoded_for_the_same_latents():
    with pytest.raises(DarkMinerError, match="SDXL"):
        check_origin(replace(pool(), prompt="", **OTHER), this())


def test_what_lies_on_the_same_weights_may_differ():
    """The original's pictures serve to attack an erased MODEL and to erase from it again."""
    base, erased = "aaaaaaaaaaaa", "aaaaaaaaaaaa+111111111111"
    for made_by, trained in [(base, erased), (erased, base), (erased, base + "+222222222222")]:
        given = replace(pool(), fingerprint=made_by, family="sd_v1", latent_format="SD15")
        check_origin(given, this(fingerprint=trained))


def test_a_pool_says_who_made_it_and_its_maker_takes_it():
    maker = this()
    made = build_pool(maker, context(0), size=2, seed=0, concept="c", prompt="a c photo")
    assert (made.family, made.fingerprint, made.latent_format) == ("sd_v1", "a" * 12, "SD15")
    check_origin(made, maker)
