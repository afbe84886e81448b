"""Every compared method's step is its paper's formula, by hand on a two-layer toy."""

from dataclasses import replace

import pytest
import torch
from dark_miner.darkminer.compare.ablation import AblationConfig, ablate
from dark_miner.darkminer.compare.as_lora import fitted
from dark_miner.darkminer.compare.drawing import half_drawn
from dark_miner.darkminer.compare.esd import ESDConfig, esd
from dark_miner.darkminer.compare.layers import adapters_on, layers_of_part
from dark_miner.darkminer.compare.salun import SalUnConfig, saliency, salun
from dark_miner.darkminer.compare.sld import PUBLISHED, SafeGuidance, SLDConfig
from dark_miner.darkminer.compare.slider import Prompts, SliderConfig, slide
from dark_miner.darkminer.compare.uce import UCEConfig, uce
from dark_miner.darkminer.compare.weights import opened
from dark_miner.darkminer.errors import DarkMinerError
from dark_miner.darkminer.method.engine import noised
from dark_miner.darkminer.model.adapter import frozen_digest
from dark_miner.darkminer.rng import generator
from torch.func import functional_call

from . import toy

RATE = 1e-3


def plainly(**changes):
    """One step of plain gradient descent; rates are given for latents of 16384 numbers."""
    small = toy.CHANNELS * toy.SIDE**2 / (4 * 64 * 64)
    return {"steps": 1, "optimizer": "sgd", "lr": RATE * small, "lr_late": RATE * small,
            "clip": 1e9, **changes}  # fmt: skip


def stepped(network, paths, config, seed, loss):
    """What the LoRA must be after one step, from the whole weights' own gradients.

    Args:
        loss: of the network with other weights, ``answer(x, t, context) -> loss``.
    """
    names = [f"{path}.weight" for path in paths]
    weights = {n: p.detach().clone().requires_grad_(n in names)
               for n, p in network.named_parameters()}  # fmt: skip
    loss(lambda *given: functional_call(network, weights, given)).backward()
    gen, up, down = generator(seed, 0, "adapter"), {}, {}
    for path, name in zip(paths, names, strict=True):
        start = torch.rand(config.rank, weights[name].shape[1], generator=gen) * 2 - 1
        down[path] = start / weights[name].shape[1] ** 0.5
        up[path] = -RATE * weights[name].grad @ down[path].T
    return up, down


def close(state, up, down):
    assert state.up.keys() == up.keys()
    for path in up:
        assert up[path].abs().max() > 1e-6, path
        assert torch.allclose(state.up[path], up[path], rtol=1e-4, atol=1e-8), path
        assert torch.allclose(state.down[path], down[path]), path


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ("x", ["attn2.to_q", "attn2.to_k", "attn2.to_v"]),
        ("kv", ["attn2.to_k", "attn2.to_v"]),
        ("u", ["attn1.to_q", "attn1.to_k", "attn1.to_v"]),
        ("all", [f"attn{i}.to_{name}" for i in (1, 2) for name in "qkv"]),
    ],
)
def test_parts_are_found_by_what_reads_the_prompt(part, expected):
    assert layers_of_part(toy.model(), part) == expected


@pytest.mark.parametrize("prediction", ["epsilon", "v", "flow"])
def test_a_prediction_falls_into_its_clean_latents_and_its_noise(prediction):
    model = replace(toy.model(), schedule=toy.schedule(prediction))
    gen = torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, 3, toy.CHANNELS, 2, 2, generator=gen)
    index = torch.tensor([1, 5, 9])
    noisy = model.schedule.add_noise(clean, noise, index)
    found = model.schedule.clean_and_noise(model.schedule.target(clean, noise, index), noisy, index)
    assert torch.allclose(found[0], clean, atol=1e-5) and torch.allclose(found[1], noise, atol=1e-5)


def test_half_drawn_pictures_come_from_the_model_as_it_stands():
    model, context, empty = toy.model(), toy.context(0)[0], toy.context(1)[0]

    def drawn(seed, **changes):
        given = {"steps": 4, "guidance": 3.0, **changes}
        return half_drawn(model, context, empty, 2, generator(seed, 0, "t"), **given)

    seeds = [s for s in range(20) if int(drawn(s)[1][0]) < 9]
    assert len(seeds) > 8  # else it is plain noise
    before = drawn(seeds[0])
    assert torch.equal(before[0], drawn(seeds[0])[0])
    assert not torch.allclose(before[0], drawn(seeds[0], guidance=1.0)[0])
    model.network.attn2.to_v.weight.mul_(2.0)
    assert not torch.allclose(before[0], drawn(seeds[0])[0])


def test_esd_steps_by_equation_7():
    model, seed, eta = toy.model(), 3, 1.5
    context, empty = toy.context(0)[0], toy.context(1, 2)[0]
    config = ESDConfig(**plainly(eta=eta, draw_steps=4, batch=2))
    gen = generator(seed, 0, "compare.esd")
    torch.randint(1, (), generator=gen)  # which of the wordings
    noisy, index = half_drawn(model, context, empty, 2, gen, steps=4, guidance=3.0)
    t = index.float()
    none, concept = (c.expand(2, -1, -1) for c in (empty, context))

    def loss(answer):
        e0 = [model.network(noisy, t, c) for c in (none, concept)]
        wanted = e0[0] - eta * (e0[1] - e0[0])
        return (answer(noisy, t, concept) - wanted).square().flatten(1).sum(1).mean()

    up, down = stepped(model.network, layers_of_part(model, "x"), toy.LORA, seed, loss)
    adapters = adapters_on(model, "x", toy.LORA, seed)
    losses = esd(model, adapters, [context], empty, config, seed=seed)
    close(adapters.state(), up, down)
    adapters.remove()
    assert losses == pytest.approx([float(loss(model.network))], rel=1e-5)


def added(state, path):
    return state.alpha / state.rank * state.up[path] @ state.down[path]


def test_uce_is_its_closed_form_and_the_lora_is_the_edit():
    model = toy.model()
    c, a, p = toy.context(0)[0], toy.context(1)[0], toy.context(2, 4)[0]
    config = UCEConfig(erase_scale=2.0, preserve_scale=0.3, lamb=0.7)
    edits = uce(model, [c], [a], [p], config)
    made = fitted(edits, 8)
    assert list(edits) == ["attn2.to_k", "attn2.to_v"]
    assert made.needed == len(c) == made.state.rank and made.error < 1e-6
    assert made.words == "rank 3 holds the edit exactly"
    for path in edits:
        old = model.network.get_submodule(path).weight
        left = 0.7 * old.clone()
        right = 0.7 * torch.eye(toy.WIDTH)
        for i in range(len(c)):  # equation 7, token by token
            left += 2.0 * torch.outer(old @ a[i], c[i])
            right += 2.0 * torch.outer(c[i], c[i])
        for token in p:
            left += 0.3 * torch.outer(old @ token, token)
            right += 0.3 * torch.outer(token, token)
        new = left @ torch.linalg.inv(right)
        assert not torch.allclose(new, old, atol=1e-2)
        assert torch.allclose(old + edits[path].float(), new, atol=1e-5)
        assert torch.allclose(old + added(made.state, path), new, atol=1e-5)


def test_a_rank_too_low_gives_the_nearest_lora_and_says_how_near():
    edits = uce(toy.model(), [toy.context(0)[0]], [toy.context(1)[0]], [], UCEConfig())
    made = fitted(edits, 1)
    missing = sum((added(made.state, n) - e.float()).square().sum() for n, e in edits.items())
    share = float((missing / sum(e.square().sum() for e in edits.values())).sqrt())
    assert 0.05 < made.error < 1 and made.error == pytest.approx(share, rel=1e-4)
    assert f"{made.error:.1%}" in made.words and "rank 3 would hold it all" in made.words


def test_uce_refuses_what_it_cannot_pair_or_what_changes_nothing():
    model, same = toy.model(), toy.context(0)[0]
    with pytest.raises(DarkMinerError, match="3 tokens and its anchor 4"):
        uce(model, [same], [toy.context(1, 4)[0]], [], UCEConfig())
    with pytest.raises(DarkMinerError, match="changes no weight"):
        fitted(uce(model, [same], [same], [], UCEConfig()), 4)


@pytest.mark.parametrize("prior", [0.0, 0.5])
def test_concept_ablation_steps_by_equation_4(prior):
    model, seed = toy.model(), 5
    pairs = [(toy.context(i)[0], toy.context(10 + i)[0]) for i in range(3)]
    latents = torch.randn(3, toy.CHANNELS, 2, 2, generator=torch.Generator().manual_seed(1))
    config = AblationConfig(**plainly(batch=4, prior=prior))
    gen = generator(seed, 0, "compare.ablation")
    which = torch.randint(3, (4,), generator=gen)
    made = noised(model, latents[which], gen)
    concept, anchor = (torch.stack([pairs[int(i)][j] for i in which]) for j in (0, 1))

    def loss(answer):
        def apart(x, y):
            return (x - y).square().flatten(1).sum(1).mean()

        stopped = answer(made.noisy, made.timestep, anchor).detach()
        own = answer(made.noisy, made.timestep, anchor)
        return apart(answer(made.noisy, made.timestep, concept), stopped) + prior * apart(
            own, made.truth
        )

    up, down = stepped(model.network, layers_of_part(model, "kv"), toy.LORA, seed, loss)
    adapters = adapters_on(model, "kv", toy.LORA, seed)
    ablate(model, adapters, pairs, latents, config, seed=seed)
    close(adapters.state(), up, down)


def test_concept_ablation_follows_the_student_at_the_anchor_and_not_the_teacher():
    """With one pair for concept and anchor alike there is nothing to learn, whatever was before."""
    model, pairs = toy.model(), [(toy.context(0)[0], toy.context(0)[0])]
    adapters = adapters_on(model, "kv", toy.LORA, 0)
    for p in adapters.parameters():
        p.data.normal_(generator=torch.Generator().manual_seed(1))
    latents = torch.randn(1, toy.CHANNELS, 2, 2, generator=torch.Generator().manual_seed(1))
    losses = ablate(model, adapters, pairs, latents, AblationConfig(**plainly()), seed=0)
    assert losses == pytest.approx([0.0], abs=1e-9)


@pytest.mark.parametrize("kind", ["leco", "slider"])
def test_leco_and_slider_step_by_their_losses(kind):
    model, seed, scale = toy.model(), 4, 1.3
    prompts = Prompts(*(toy.context(i)[0] for i in range(4)))
    empty = toy.context(9)[0]
    config = SliderConfig(**plainly(loss=kind, scale=scale, draw_steps=4, batch=2))
    gen = generator(seed, 0, "compare.slider")
    torch.randint(1, (), generator=gen)
    noisy, index = half_drawn(model, prompts.target, empty, 2, gen, steps=4, guidance=3.0)
    t = index.float()

    def loss(answer):
        target, positive, without, neutral = (
            model.network(noisy, t, c.expand(2, -1, -1)) for c in prompts
        )
        at = target if kind == "slider" else neutral
        wanted = at - scale * (positive - without)
        made = answer(noisy, t, prompts.target.expand(2, -1, -1))
        return (made - wanted).square().flatten(1).sum(1).mean()

    up, down = stepped(model.network, layers_of_part(model, "all"), toy.LORA, seed, loss)
    adapters = adapters_on(model, "all", toy.LORA, seed)
    slide(model, adapters, [prompts], empty, config, seed=seed)
    close(adapters.state(), up, down)


def test_sld_is_its_equations_number_by_number():
    config = SLDConfig(warmup=25, scale=2.0, threshold=0.1, momentum=0.5, beta=0.8)
    guidance = SafeGuidance(config)
    prompt, empty = torch.tensor([[1.0, 1.0, 1.0]]), torch.tensor([[0.0, 0.5, 0.0]])
    concept = torch.tensor([[1.2, 3.0, 0.8]])  # near, far beyond, and below the prompt
    first = torch.tensor([[0.4 * 1.2, 1.0 * 2.5, 0.0]])
    assert not guidance.away(prompt, empty, concept, 0.0).any()  # warm-up, remembered all the same
    momentum = 0.2 * first
    assert torch.allclose(guidance.away(prompt, empty, concept, 0.5), first + 0.5 * momentum)
    momentum = 0.8 * momentum + 0.2 * (first + 0.5 * momentum)
    assert torch.allclose(guidance.away(prompt, empty, concept, 0.6), first + 0.5 * momentum)
    guidance.begin()
    assert torch.allclose(guidance.away(prompt, empty, concept, 0.7), first)
    off = SafeGuidance(SLDConfig(scale=0.0, warmup=0))
    assert not any(off.away(prompt, empty, concept, 0.5).any() for _ in range(3))


def test_slds_settings_are_the_papers():
    assert [(c.warmup, c.scale, c.threshold, c.momentum, c.beta) for c in PUBLISHED.values()] == [
        (15, 200, 0, 0, 0), (10, 1000, 0.01, 0.3, 0.4), (7, 2000, 0.025, 0.5, 0.7),
        (0, 5000, 1, 0.5, 0.7),
    ]  # fmt: skip


def test_salun_moves_the_salient_half_by_equation_6_and_gives_the_weights_back():
    model, seed = toy.model(), 6
    gen = torch.Generator().manual_seed(1)
    pictures, latents = torch.randn(2, 3, toy.CHANNELS, 2, 2, generator=gen)
    concept, other = toy.context(0)[0], toy.context(1)[0]
    stay = [toy.context(10 + i)[0] for i in range(3)]
    config = SalUnConfig(**plainly(batch=2, beta=0.5, share=0.25, looks=3))
    before = frozen_digest(model.network)
    changes, _ = salun(model, pictures, concept, other, stay, latents, config, seed=seed)
    assert frozen_digest(model.network) == before
    assert not any(p.requires_grad for p in model.network.parameters())

    gen, names = generator(seed, 0, "compare.salun"), layers_of_part(model, "all")
    with opened(model, names) as weights:  # draws what the method draws
        masks = saliency(model, weights, pictures, concept, config, gen)
    entries = sum(m.numel() for m in masks.values())
    assert sum(int(m.sum()) for m in masks.values()) == round(0.25 * entries)
    x = noised(model, pictures[torch.randint(3, (2,), generator=gen)], gen)
    which = torch.randint(3, (2,), generator=gen)
    y = noised(model, latents[which], gen)
    kept = torch.stack([stay[int(i)] for i in which])
    params = {n: p.detach().clone() for n, p in model.network.named_parameters()}
    for name in names:
        params[f"{name}.weight"].requires_grad_(True)

    def answer(*given):
        return functional_call(model.network, params, given)

    def apart(one, two):
        return (one - two).square().flatten(1).sum(1).mean()

    wanted = answer(x.noisy, x.timestep, other.expand(2, -1, -1)).detach()
    loss = apart(answer(x.noisy, x.timestep, concept.expand(2, -1, -1)), wanted)
    (loss + 0.5 * apart(answer(y.noisy, y.timestep, kept), y.truth)).backward()
    for name in names:
        step = -RATE * params[f"{name}.weight"].grad * masks[name]
        assert torch.allclose(changes[name], step, rtol=1e-3, atol=1e-7), name
        assert not changes[name][~masks[name]].any()


def test_saliency_is_the_gradient_of_denoising_the_concept():
    model, pictures = toy.model(), torch.ones(1, toy.CHANNELS, 2, 2)
    concept, names = toy.context(0)[0], layers_of_part(toy.model(), "all")
    with opened(model, names) as weights:
        config = SalUnConfig(batch=1, looks=1, share=0.5)
        masks = saliency(model, weights, pictures, concept, config, generator(0, 0, "t"))
    gen = generator(0, 0, "t")
    torch.randint(1, (1,), generator=gen)
    x = noised(model, pictures, gen)
    for name in names:
        model.network.get_submodule(name).weight.requires_grad_(True)
    answer = model.network(x.noisy, x.timestep, concept[None])
    (answer - x.truth).square().sum().backward()
    sizes = {n: model.network.get_submodule(n).weight.grad.abs() for n in names}
    middle = torch.cat([s.flatten() for s in sizes.values()]).median()
    for name in names:
        assert torch.equal(masks[name], sizes[name] > middle), name
