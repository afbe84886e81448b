"""On a network that is no toy the presets stay far below what counts as a LoRA that ran away."""

from dataclasses import replace

import pytest

pytestmark = pytest.mark.host


def test_the_papers_rates_stay_far_below_the_limit(hosted):
    from dark_miner.benchmarks.erasure import ANCHOR, NEGATIVE, gallery_sampling
    from dark_miner.darkminer.config import PAPER
    from dark_miner.darkminer.method.circumvent import circumvent
    from dark_miner.darkminer.method.loop import new_adapters
    from dark_miner.darkminer.method.optim import GROWTH_LIMIT
    from dark_miner.darkminer.types import EmbeddingPool, MinedEmbedding
    from dark_miner.demo.gallery import SIZE
    from dark_miner.demo.models import load_demo_models
    from dark_miner.nodes.host.session import context_of, latent_size, training_session
    from dark_miner.nodes.host.text import conditioning

    model, clip, vae, _ = load_demo_models()
    anchor, ink = (conditioning(clip, p) for p in (ANCHOR, "a ink drawing"))
    config = replace(PAPER.circumvent, steps=200, images=2)
    with training_session(
        model, anchor=anchor, negative=conditioning(clip, NEGATIVE), sampling=gallery_sampling(),
        latent_size=latent_size(vae, SIZE, SIZE), vae=vae,
    ) as session:  # fmt: skip
        adapters = new_adapters(session, PAPER.lora, seed=0)
        text = MinedEmbedding(context_of(ink, "test", "ink")[0], 0, kind="text")
        circumvent(
            session, adapters, EmbeddingPool((text,)), context_of(anchor, "test", "anchor"),
            config, seed=0,
        )  # fmt: skip
        assert 0.0 < adapters.growth() < GROWTH_LIMIT / 5
        adapters.remove()
