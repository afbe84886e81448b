"""The engine against the paper's procedure written on diffusers and PEFT: same draws, same result.

The draws are made here once more in the order that the engine documents by doing so: change that
order and these tests say so.
"""

from dataclasses import replace

import pytest
import torch

pytestmark = pytest.mark.host

STEPS, SEED = 20, 4


@pytest.fixture(scope="module")
def world(hosted):
    """A training session on the gallery's model, and the reference with the same weights."""
    import comfy.utils
    from dark_miner.benchmarks.reference import Reference, unet_from_ldm
    from dark_miner.darkminer.model.sampling import SamplingConfig
    from dark_miner.demo.models import UNET, load_demo_models
    from dark_miner.nodes.host.session import context_of, training_session
    from dark_miner.nodes.host.text import conditioning

    model, clip, _, _ = load_demo_models()
    anchor = conditioning(clip, "a drawing")
    weights = {k: v.clone() for k, v in model.model.diffusion_model.state_dict().items()}
    names = comfy.utils.unet_to_diffusers(UNET)

    class World:
        unet = unet_from_ldm(weights, UNET, names)
        ldm = {d.removesuffix(".weight"): n.removesuffix(".weight") for d, n in names.items()}
        concept = context_of(conditioning(clip, "a ink drawing"), "test", "text")

        @staticmethod
        def reference():
            return Reference(World.unet)

    sampling = SamplingConfig(4, 2.0, "euler", "normal", 16)
    with training_session(model, anchor=anchor, sampling=sampling, latent_size=(8, 8)) as session:
        World.session, World.anchor = session, context_of(anchor, "test", "anchor")
        yield World


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def adapted(world):
    """Adapters that already change something, the same on both sides."""
    from dark_miner.darkminer.config import PAPER
    from dark_miner.darkminer.method.loop import new_adapters

    adapters, reference = new_adapters(world.session, PAPER.lora, seed=SEED), None
    try:
        state = adapters.state()
        up = {n: normal(*t.shape, seed=i) * 0.05 for i, (n, t) in enumerate(state.up.items())}
        adapters.load(replace(state, up=up))
        reference = world.reference()
        for name, tensor in reference.adapters().items():
            path, which = name.rsplit(".", 1)
            source = state.down if which == "A" else up
            tensor.data = source[world.ldm[path]].clone()
        yield adapters, reference
    finally:
        adapters.remove()


def at_the_references_rates(config):
    """Settings that come out at the reference's own rates and clips on the gallery's latents."""
    from dark_miner.darkminer.method.optim import SIZE

    times = SIZE / (8 * 8 * 8)
    return replace(
        config, steps=STEPS, lr=config.lr / times, lr_late=config.lr_late / times,
        clip=config.clip * times,
    )  # fmt: skip


def close(ours, theirs):
    """Equal within what float32 sums in another order may differ by."""
    ours, theirs = torch.as_tensor(ours), torch.as_tensor(theirs)
    scale = float(theirs.abs().max())
    torch.testing.assert_close(ours, theirs, rtol=2e-4, atol=2e-4 * scale)


def test_the_networks_predict_the_same(world):
    from dark_miner.benchmarks.reference import predict

    x, t, c = normal(4, 8, 8, 8), torch.tensor([0.0, 20.0, 500.0, 999.0]), normal(4, 32, 128)
    with torch.no_grad():
        close(world.session.denoise(x, t, c), predict(world.unet, x, t, c))


def test_the_noise_schedules_are_the_same(world):
    from dark_miner.benchmarks.reference import scheduler

    alphas = scheduler().alphas_cumprod
    close(world.session.schedule.signal.square(), alphas)
    close(world.session.schedule.timesteps, torch.arange(1000.0))


def test_mining_takes_the_same_steps(world, adapted):
    from dark_miner.benchmarks.reference import MineDraw
    from dark_miner.darkminer.config import PAPER
    from dark_miner.darkminer.method.mine import mine
    from dark_miner.darkminer.rng import generator
    from dark_miner.darkminer.types import ImagePool

    _, reference = adapted
    latents = normal(6, 8, 8, 8, seed=9)
    images = torch.zeros(6, 32, 32, 3, dtype=torch.uint8)
    pool = ImagePool(latents, images, "ink", "", 0, world.session.fingerprint)
    config = at_the_references_rates(PAPER.mine)
    ours = mine(world.session, pool, world.anchor, config, seed=SEED, round_=1)

    gen = generator(SEED, 1, "mine")
    x = latents[torch.randperm(6, generator=gen)[:3]]
    start = torch.randn(1, 32, 128, generator=gen)[0] * world.anchor.std() + world.anchor.mean()
    draws = []
    for _ in range(STEPS):
        noise = torch.randn(x.shape, generator=gen)
        draws.append(MineDraw(x, noise, torch.randint(1000, (3,), generator=gen)))
    context, losses = reference.mine(start, draws)
    close(ours.losses, losses)
    close(ours.embeddings[0].context - start, context - start)
    assert float((context - start).abs().max()) > 0.1  # it did move


def test_circumventing_takes_the_same_steps(world, adapted):
    from dark_miner.benchmarks.reference import CircumventDraw
    from dark_miner.darkminer.config import PAPER
    from dark_miner.darkminer.method.circumvent import circumvent
    from dark_miner.darkminer.rng import generator
    from dark_miner.darkminer.types import EmbeddingPool, MinedEmbedding

    adapters, reference = adapted
    entries = tuple(
        MinedEmbedding(world.concept[0] * s, i + 1, latents=normal(4, 8, 8, 8, seed=20 + i))
        for i, s in enumerate((1.0, 0.5, 1.5))
    )
    pool = EmbeddingPool(entries, round=3, concept="ink")
    config = at_the_references_rates(PAPER.circumvent)
    before = adapters.state()
    ours = circumvent(world.session, adapters, pool, world.anchor, config, seed=SEED)
    after = adapters.state()

    gen = generator(SEED, 3, "circumvent")
    draws = []
    for _ in range(STEPS):
        newest = bool(torch.rand((), generator=gen) < config.r)
        group = entries[2:] if newest else entries[:2]
        entry = group[int(torch.randint(len(group), (), generator=gen))]
        x = entry.latents[int(torch.randint(4, (), generator=gen))][None]
        noise = torch.randn(x.shape, generator=gen)
        t = torch.randint(1000, (1,), generator=gen)
        draws.append(CircumventDraw(x, noise, t, entry.context[None]))
    close(ours.losses, reference.circumvent(world.anchor, draws))
    for name, tensor in reference.adapters().items():
        path, which = name.rsplit(".", 1)
        was, now = (s.down if which == "A" else s.up for s in (before, after))
        layer = world.ldm[path]
        close(now[layer] - was[layer], tensor.detach() - was[layer])
        assert not torch.equal(now[layer], was[layer])
