"""Not a number is never an answer: whoever gives it is named, and nothing is made of it."""

import re
from dataclasses import replace

import pytest
import torch
from dark_miner.darkminer.attacks.cce import invert
from dark_miner.darkminer.attacks.common import AttackConfig
from dark_miner.darkminer.attacks.context import optimise_context
from dark_miner.darkminer.attacks.verdict import AttackVerdictConfig, attack_verdict
from dark_miner.darkminer.errors import DarkMinerError, DivergedError, NotFiniteError
from dark_miner.darkminer.method.bank import BankConfig, build_bank
from dark_miner.darkminer.method.circumvent import circumvent
from dark_miner.darkminer.method.image_pool import build_pool
from dark_miner.darkminer.method.loop import erase, new_adapters
from dark_miner.darkminer.method.mine import MineConfig, mine
from dark_miner.darkminer.method.verify import VerifyConfig, verify
from dark_miner.darkminer.model.interface import TextSpace
from dark_miner.darkminer.types import EmbeddingPool, MinedEmbedding, RetainSet

from . import toy
from .test_attacks import Text
from .test_loop import QUICK

NUMBERS = [float("nan"), float("inf")]
ATTACK = AttackVerdictConfig(steps=2, pictures=4, vectors=(1,))
SHORT = AttackConfig(steps=3, lr=0.01, batch=2)


def spoilt(value, **parts):
    """The toy model, one of whose parts answers with ``value``."""
    model, named = toy.model(), {}
    for name in parts:
        part = getattr(model, name)
        named[name] = lambda *a, part=part: part(*a) * 0.0 + value
    return replace(model, **named)


def bad(value):
    return lambda images: toy.encode(images) * 0.0 + value


def pool(model):
    return build_pool(model, toy.context(1), size=4, seed=0, concept="c", prompt="a c photo")


def bank(model, encode=toy.encode):
    contexts = torch.cat([toy.context(i) for i in range(4)])
    return build_bank(model, encode, list("abcd"), contexts, toy.pool(), BankConfig(size=4), seed=0)


def verdict(model, encode=toy.encode, **config):
    embeddings = [MinedEmbedding(toy.context(5)[0], 1, (0, 1))]
    return verify(
        model, encode, embeddings, toy.context(0), toy.pool(), VerifyConfig(**config), seed=0,
        round_=3,
    )  # fmt: skip


def loop(model, encode=toy.encode, **config):
    return erase(
        model, encode, toy.pool(), toy.context(0), replace(QUICK, **config), seed=0,
        start=EmbeddingPool((MinedEmbedding(toy.context(1)[0], 0, kind="text"),)),
    )  # fmt: skip


def attack(model, encode=toy.encode):
    adapters = new_adapters(model, toy.LORA, seed=0)
    return attack_verdict(
        model, encode, toy.pool(32), toy.context(0), ATTACK, seed=0, adapters=adapters
    )


@pytest.mark.parametrize("value", NUMBERS)
@pytest.mark.parametrize("makes", [pool, bank, verdict, loop, attack])
def test_a_vae_that_gives_no_numbers_is_named_with_its_remedy(makes, value):
    with pytest.raises(NotFiniteError, match=r"The VAE gave pictures .* float32 \(.*--fp32-vae\)"):
        makes(spoilt(value, decode=None))


@pytest.mark.parametrize("value", NUMBERS)
@pytest.mark.parametrize("makes", [pool, bank, verdict, loop, attack])
def test_a_sampler_that_gives_no_numbers_is_named(makes, value):
    model = replace(
        spoilt(value, sample=None),
        sampled_by=("The sampler 'euler' with scheduler 'odd' in 1 steps", "take more steps"),
    )
    with pytest.raises(NotFiniteError, match=r"'odd' in 1 steps gave latents .*: take more steps"):
        makes(model)


@pytest.mark.parametrize("makes", [pool, bank, verdict, attack])
def test_a_network_that_gives_no_numbers_is_named_and_not_the_sampler(makes):
    network = toy.Denoiser()
    network.outward.bias.data[0] = float("nan")
    with pytest.raises((NotFiniteError, DivergedError)) as caught:
        makes(toy.model(network=network))
    if makes is not attack:
        assert "The diffusion network gave" in str(caught.value)
    assert "load the model in float32" in str(caught.value).lower()


@pytest.mark.parametrize("value", NUMBERS)
@pytest.mark.parametrize("makes", [bank, verdict, loop, attack])
def test_an_image_encoder_that_gives_no_numbers_is_named(makes, value):
    with pytest.raises(NotFiniteError, match="The image encoder gave features"):
        makes(toy.model(), bad(value))


@pytest.mark.parametrize("against", ["pairs", "means"])
@pytest.mark.parametrize("threshold", [0.2, "auto"])
def test_no_verdict_of_any_kind_comes_from_such_features(against, threshold):
    with pytest.raises(NotFiniteError, match="image encoder"):
        verdict(toy.model(), bad(float("nan")), against=against, threshold=threshold)


def test_the_stage_and_its_round_are_named():
    with pytest.raises(NotFiniteError, match="in the verify stage of round 3: "):
        verdict(spoilt(float("nan"), decode=None))
    with pytest.raises(NotFiniteError, match="in the pool stage: "):
        pool(spoilt(float("nan"), decode=None))


def test_one_sentence_and_once():
    with pytest.raises(NotFiniteError) as caught:
        loop(spoilt(float("nan"), decode=None))
    text = str(caught.value)
    assert text.endswith(".") and len(re.findall(r"\. ", text)) == 0
    assert text.count("stage") == 1


@pytest.mark.parametrize("value", NUMBERS)
def test_an_attack_whose_loss_is_no_number_diverged(value):
    model, text = spoilt(value, denoise=None), Text()
    with pytest.raises(DivergedError, match="context attack stage .* step 1 "):
        optimise_context(model, toy.pool().latents, 1, toy.context(0), SHORT, seed=0, max_norm=None)
    with pytest.raises(DivergedError, match="cce stage .* step 1 "):
        invert(model, text, toy.pool().latents, ["a * drawing"] * 8, SHORT, seed=0)


@pytest.mark.parametrize("value", NUMBERS)
def test_training_on_a_network_that_gives_no_numbers_diverged(value):
    model = spoilt(value, denoise=None)
    with pytest.raises(DivergedError, match="mine stage of round 2"):
        mine(model, toy.pool(), toy.context(0), QUICK.mine, seed=0, round_=2)
    adapters = new_adapters(model, QUICK.lora, seed=0)
    entries = (MinedEmbedding(toy.context(1)[0], 0, kind="text", latents=toy.pool().latents),)
    given = (EmbeddingPool(entries), toy.context(0), QUICK.circumvent)
    with pytest.raises(NotFiniteError, match="diffusion network .* in the circumvent stage: "):
        circumvent(model, adapters, *given, seed=0)
    with pytest.raises(NotFiniteError, match="in the circumvent stage of round 3: "):
        circumvent(model, adapters, EmbeddingPool(entries, round=3), *given[1:], seed=0)

    whole = toy.model()

    def student(*asked):
        answers = whole.denoise(*asked)
        return answers * 0.0 + value if torch.is_grad_enabled() else answers

    adapters = new_adapters(whole, QUICK.lora, seed=0)
    with pytest.raises(DivergedError, match="circumvent stage of round 0"):
        circumvent(replace(whole, denoise=student), adapters, *given, seed=0)


class Steep(toy.Denoiser):
    """Its prediction is finite and the gradient of its context is not."""

    def forward(self, x, timestep, context):
        zero = (context.sum((1, 2)) * 0.0).view(-1, 1, 1, 1)
        return super().forward(x, timestep, context.detach()) + zero.sqrt()


def test_an_embedding_whose_last_step_went_wrong_is_not_handed_on():
    config = MineConfig(length=2, k=2, batch=2, steps=1)
    with pytest.raises(DivergedError, match="mine stage of round 1 diverged at step 1"):
        mine(toy.model(network=Steep()), toy.pool(), toy.context(0), config, seed=0, round_=1)


def test_tokens_of_a_text_encoder_that_gives_no_numbers_are_not_handed_on():
    class Broken(Text):
        def forward(self, prompts, vectors):
            made = super().forward(prompts, vectors)
            return made if torch.is_grad_enabled() else made * float("nan")

    space = TextSpace(Broken(), "a * drawing", ("cat", "dog"))
    config = replace(QUICK.mine, tokens=1, token_words=0)
    with pytest.raises(NotFiniteError, match="The text encoder gave contexts"):
        mine(toy.model(), toy.pool(), toy.context(0), config, seed=0, round_=1, text=space)


@pytest.mark.parametrize("value", NUMBERS)
def test_no_value_that_flows_between_stages_holds_what_is_no_number(value):
    images = toy.pool()
    with pytest.raises(DarkMinerError, match="image pool holds values that are not finite"):
        replace(images, latents=images.latents * value)
    with pytest.raises(DarkMinerError, match="embedding holds values"):
        MinedEmbedding(toy.context(1)[0] * value, 0)
    with pytest.raises(DarkMinerError, match="embedding holds values"):
        MinedEmbedding(toy.context(1)[0], 0, anchor=toy.context(0)[0] * value)
    with pytest.raises(DarkMinerError, match="retain set holds values"):
        RetainSet(toy.context(1) * value, images.latents[:1, None], ("a",))
