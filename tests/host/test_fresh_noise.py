"""Samplers that add noise on their way: every picture its own, in whatever batch it is made."""

import pytest
import torch

pytestmark = pytest.mark.host

ADDING = ["euler_ancestral", "dpmpp_sde", "dpmpp_2m_sde", "dpmpp_2m_sde_heun", "lcm", "sa_solver"]
# The same network on 4 or 8 rows adds up in another order.
CLOSE = {"atol": 2e-3, "rtol": 1e-3}


@pytest.fixture(scope="module")
def gallery(hosted):
    from dark_miner.demo.models import load_demo_models

    return load_demo_models()


def pool(gallery, sampler, batch):
    from dark_miner.darkminer.model.sampling import SamplingConfig
    from dark_miner.nodes.erase.image_pool import made

    model, clip, vae, _ = gallery
    how = SamplingConfig(5, 2.0, sampler, "normal", batch)
    return made(
        model, clip, vae, "ink", "a * drawing", "", 8, 32, 32, 0, how, lambda report: None
    ).latents


@pytest.mark.parametrize("sampler", ADDING)
def test_a_pool_does_not_depend_on_how_many_pictures_are_made_at_once(gallery, sampler):
    whole = pool(gallery, sampler, 8)
    assert torch.allclose(pool(gallery, sampler, 4), whole, **CLOSE)
    assert torch.allclose(pool(gallery, sampler, 1), whole, **CLOSE)


@pytest.mark.parametrize("name", ["euler_ancestral", "dpmpp_sde", "dpmpp_2m_sde_gpu"])
def test_pictures_share_no_injected_noise_and_keep_its_statistics(hosted, name):
    from comfy.samplers import sampler_object
    from dark_miner.nodes.host.sampler import _noise_source

    x, sigmas = torch.zeros(4, 3, 32, 32), torch.tensor([10.0, 5.0, 1.0, 0.0])
    draw = _noise_source(sampler_object(name).sampler_function, x, sigmas, [1, 2, 3, 1])
    first, second = draw(sigmas[0], sigmas[1]), draw(sigmas[1], sigmas[2])
    assert torch.equal(first[0], first[3]) and not torch.equal(first[0], first[1])
    for noise in (first, second):
        assert noise.shape == x.shape and abs(float(noise.std()) - 1) < 0.05
    assert abs(float((first * second).mean())) < 0.05
    assert abs(float((first[0] * first[1]).mean())) < 0.05


def test_each_picture_draws_what_the_host_draws_for_its_seed_alone(gallery):
    from comfy.k_diffusion.sampling import default_noise_sampler
    from comfy.samplers import sampler_object
    from dark_miner.nodes.host.sampler import _noise_source

    x, sigmas = torch.zeros(2, 3, 4, 4), torch.tensor([10.0, 5.0, 0.0])
    draw = _noise_source(sampler_object("euler_ancestral").sampler_function, x, sigmas, [7, 8])
    host = default_noise_sampler(x[:1], seed=8)
    assert torch.equal(draw(10.0, 5.0)[1:], host(10.0, 5.0))


def test_a_sampler_of_another_pack_makes_its_pictures_one_by_one(gallery, monkeypatch):
    import comfy.k_diffusion.sampling as library
    from comfy.samplers import KSampler

    seen = []

    def drawing(model, x, sigmas, extra_args=None, callback=None, disable=None):
        seen.append(len(x))
        gen = torch.Generator().manual_seed(extra_args["seed"])
        for here, then in zip(sigmas[:-1], sigmas[1:], strict=True):
            clean = model(x, here * x.new_ones(len(x)), **extra_args)
            x = clean + then * torch.randn(x.shape, generator=gen).to(x)
        return x

    monkeypatch.setattr(library, "sample_drawing", drawing, raising=False)
    monkeypatch.setattr(KSampler, "SAMPLERS", [*KSampler.SAMPLERS, "drawing"])
    four = pool(gallery, "drawing", 4)
    assert set(seen) == {1}
    assert torch.equal(pool(gallery, "drawing", 8), four)
    assert not torch.allclose(four[0], four[1], atol=0.1)


def test_samplers_that_add_nothing_are_called_as_ever(gallery):
    """Bit for bit what the host's own call gives, in one batch."""
    import comfy.sample
    from dark_miner.darkminer.model.sampling import SamplingConfig, seeded_noise
    from dark_miner.darkminer.rng import generator
    from dark_miner.nodes.host.session import context_of, training_session
    from dark_miner.nodes.host.text import conditioning

    model, clip, _, _ = gallery
    anchor, negative = conditioning(clip, "a ink drawing"), conditioning(clip, "")
    how = SamplingConfig(5, 2.0, "euler", "normal", 8)
    with training_session(
        model, anchor=anchor, negative=negative, sampling=how, latent_size=(8, 8)
    ) as session:
        noise = seeded_noise(session, 3, generator(0, 0, "test"))
        made = session.sample(context_of(anchor, "test", "anchor").to(session.device), noise)
    host = comfy.sample.sample(
        model, noise.cpu(), 5, 2.0, "euler", "normal", anchor, negative,
        torch.zeros_like(noise).cpu(), disable_pbar=True, seed=0,
    )  # fmt: skip
    host = model.model.process_latent_in(host.float())
    assert torch.allclose(made.cpu(), host.cpu(), **CLOSE)


def test_the_seed_of_a_picture_is_its_start_noises(gallery):
    from dark_miner.darkminer.rng import seed_from

    noise = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    one, two = map(seed_from, noise)
    assert one != two and one == seed_from(noise[0].clone()) and 0 <= one < 2**63
