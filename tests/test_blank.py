"""A model that draws nothing is said, not reported as one from which the concept is gone."""

from dataclasses import replace

import pytest
import torch
from dark_miner.darkminer.errors import DarkMinerError
from dark_miner.darkminer.method.loop import new_adapters
from dark_miner.darkminer.method.verify import verify
from dark_miner.darkminer.types import MinedEmbedding

from . import toy
from .test_finite import attack, bank, loop, pool, verdict
from .test_loop import QUICK


def zeros():
    """A network of zeros: what is sampled is the noise itself."""
    network = toy.Denoiser()
    for parameter in network.parameters():
        parameter.data.zero_()
    return toy.model(network=network)


@pytest.mark.parametrize("makes", [pool, verdict, attack])
def test_a_network_of_zeros_draws_nothing(makes):
    with pytest.raises(DarkMinerError, match="same whatever the prompt.* draws nothing"):
        makes(zeros())


def test_the_loop_does_not_call_a_network_of_zeros_erased():
    config = replace(QUICK, text_start=False)
    with pytest.raises(DarkMinerError, match="draws nothing"):
        loop(zeros(), text_start=config.text_start)


@pytest.mark.parametrize("makes", [pool, verdict, attack])
def test_a_vae_that_shows_the_same_whatever_it_is_given_draws_nothing(makes):
    model = replace(toy.model(), decode=lambda x: torch.full((len(x), toy.SIDE, toy.SIDE, 3), 0.5))
    with pytest.raises(DarkMinerError, match="draws nothing"):
        makes(model)


def test_an_erasure_that_took_every_prompt_away_is_not_a_success():
    """Adapters that cancel the values of the prompt: every prompt draws the same."""
    model = toy.model()
    adapters = new_adapters(model, QUICK.lora, seed=0)
    weight = model.network.attn2.to_v.base_layer.weight.data
    weight.zero_()
    with pytest.raises(DarkMinerError, match="same whatever the prompt"):
        verdict(model)
    adapters.remove()


def test_pictures_that_do_not_depend_on_the_noise_are_no_pool():
    plain = toy.model()
    still = replace(plain, sample=lambda c, noise: plain.sample(c, torch.ones_like(noise)))
    with pytest.raises(DarkMinerError, match="same whatever the noise"):
        pool(still)


@pytest.mark.parametrize("makes", [verdict, bank, attack])
@pytest.mark.parametrize("value", [0.0, 3.0])
def test_an_image_encoder_that_sees_no_difference_is_named(makes, value):
    def blind(images):
        return toy.encode(images) * 0.0 + value

    with pytest.raises(DarkMinerError, match="image encoder gives the same features"):
        makes(toy.model(), blind)


def test_prompts_that_are_the_reference_itself_may_draw_the_same():
    embeddings = [MinedEmbedding(toy.context(0)[0], 1, (0, 1))] * 2
    verdict = verify(
        toy.model(), toy.encode, embeddings, toy.context(0), toy.pool(), QUICK.verify, seed=0,
        round_=1,
    )  # fmt: skip
    assert verdict.score == 0.0
