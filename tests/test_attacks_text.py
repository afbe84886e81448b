"""Discrete text attacks, each beside a plain second implementation of its paper's update."""

from dataclasses import replace

import pytest
import torch
from dark_miner.darkminer.attacks import inversion, p4d, ringabell, udatk
from dark_miner.darkminer.attacks.catalogue import ATTACKS
from dark_miner.darkminer.attacks.scene import Scene, evenly, without
from dark_miner.darkminer.attacks.speech import nearest, spoken
from dark_miner.darkminer.errors import DarkMinerError
from dark_miner.darkminer.judge.detectors import Identity, Sight
from dark_miner.darkminer.method.loop import new_adapters
from dark_miner.darkminer.rng import generator

from . import toy
from .talk import TOKENS, Talk

PROMPTS = ("a drawing of cat", "a picture")
FEW = {
    "p4d-n": p4d.P4DConfig(steps=5, tokens=3),
    "p4d-k": p4d.P4DConfig(steps=5, every=3),
    "udatk": udatk.UDAtkConfig(tokens=2, levels=2, iterations=3),
    "ringabell": ringabell.RingABellConfig(generations=5, population=12, tokens=4, batch=5),
    "cce": inversion.InversionConfig(steps=5, batch=3, lr=0.01, word="red"),
}


class Bright:
    """A detector: the mean of a picture."""

    identity = Identity("bright", "1", 0.5)

    def __init__(self, threshold=0.5):
        self.threshold = threshold

    def __call__(self, images):
        scores = images.flatten(1).mean(1)
        return Sight(scores, scores > self.threshold)


class Later(Bright):
    """Sees the concept from its n-th picture on."""

    def __init__(self, n):
        super().__init__()
        self.left = n

    def __call__(self, images):
        self.left -= 1
        return Sight(super().__call__(images).scores, torch.tensor([self.left <= 0]))


def scene(**changes):
    talk = Talk()
    given = {
        "prompts": PROMPTS, "contexts": tuple(map(talk.says, PROMPTS)), "seed": 3,
        "model": toy.model(1), "original": toy.model(0), "speech": talk,
        "latents": toy.pool().latents, "pairs": (("a ink drawing", "a drawing"), ("ink", "a")),
        "concept": "ink",
    }  # fmt: skip
    return Scene(**{**given, **changes})


def run(name, config=None, **changes):
    attack = ATTACKS[name]
    return attack.run(scene(**changes), config or FEW[name])


def noisy(model, x, gen, level=None):
    """The paper's x_t with its noise, written out from the schedule's numbers."""
    noise = torch.randn(x.shape, generator=gen)
    if level is None:
        level = int(torch.randint(toy.LEVELS, (1,), generator=gen))
    a, b = model.schedule.signal[level], model.schedule.noise[level]
    return a * x + b * noise, noise, torch.tensor([float(level)])


class PlainAdam:
    """Adam (Kingma and Ba, 2015) by hand; ``decoupled`` decay is AdamW's."""

    def __init__(self, rate, decay, decoupled):
        self.rate, self.decay, self.decoupled, self.t, self.m, self.v = (
            rate,
            decay,
            decoupled,
            0,
            0,
            0,
        )

    def __call__(self, x, g):
        self.t += 1
        if self.decoupled:
            x = x - self.rate * self.decay * x
        else:
            g = g + self.decay * x
        self.m = 0.9 * self.m + 0.1 * g
        self.v = 0.999 * self.v + 0.001 * g * g
        m, v = self.m / (1 - 0.9**self.t), self.v / (1 - 0.999**self.t)
        return x - self.rate * m / (v.sqrt() + 1e-8)


def closest(vector, talk):
    likeness = {i: float(torch.cosine_similarity(vector, talk.table[i], dim=0)) for i in
                talk.allowed.tolist()}  # fmt: skip
    return max(likeness, key=likeness.__getitem__)


@pytest.mark.parametrize("name", ["p4d-n", "p4d-k"])
def test_p4d_is_its_papers_update(name):
    """|e'(x_t, P*) - e(x_t, P)|^2 at the projection of P*, whose gradient moves P*."""
    found = run(name)
    talk, erased, original = Talk(), toy.model(1), toy.model(0)
    for i, prompt in enumerate(PROMPTS):
        gen = generator(3, i, "attack.p4d")
        ids = talk.ids(prompt)
        # "a drawing of cat" with one token before every three: * a drawing of * cat
        places = [None] * 3 if name == "p4d-n" else (
            [None, *ids[:3], None, ids[3]] if len(ids) == 4 else [None, *ids]
        )  # fmt: skip
        count = places.count(None)
        start = talk.allowed[torch.randint(len(talk.allowed), (count,), generator=gen)]
        learnt, losses = talk.table[start].clone(), []
        adam, x = PlainAdam(0.1, 0.1, True), toy.pool().latents[i][None]
        for _ in range(5):
            x_t, _, t = noisy(erased, x, gen)
            fill = iter([closest(v, talk) for v in learnt])
            said = [next(fill) if p is None else p for p in places]
            row = talk.table[said].clone().requires_grad_(True)
            gap = erased.network(x_t, t, talk(row[None]))
            gap = gap - original.network(x_t, t, talk.says(prompt)[None])
            loss = (gap**2).sum() / gap.numel()
            (slope,) = torch.autograd.grad(loss, row)
            learnt = adam(learnt, slope[[p is None for p in places]])
            losses.append(float(loss.detach()))
        fill = iter([closest(v, talk) for v in learnt])
        assert found[i].losses == pytest.approx(losses, abs=1e-5)
        assert list(found[i].spoken.ids) == [next(fill) if p is None else p for p in places]
        expected = talk(talk.table[list(found[i].spoken.read)][None])[0]
        assert torch.allclose(found[i].context, expected, atol=1e-5)


def bisected(row):
    """The point max(row - mu, 0) whose sum is 1, mu by bisection."""
    low, high = float(row.min()) - 1.0, float(row.max())
    for _ in range(200):
        middle = (low + high) / 2
        if (row.double() - middle).clamp(0, 1).sum() > 1.0:
            low = middle
        else:
            high = middle
    return (row.double() - (low + high) / 2).clamp(0, 1).float()


def test_unlearndiffatk_is_its_papers_update():
    """|e(x_t, c') - noise|^2, straight through the draw, Adam, and back onto the simplex."""
    found = run("udatk")
    talk, erased = Talk(), toy.model(1)
    for i, prompt in enumerate(PROMPTS):
        gen = generator(3, i, "attack.udatk")
        rest, x = talk.table[talk.ids(prompt)], toy.pool().latents[i][None]
        own = talk.table[1:]
        chances = torch.full((2, len(own)), 1 / len(own))
        adam, losses = PlainAdam(0.01, 0.1, False), []
        for level in (2, 7):  # two of ten levels, the middles of both halves
            for _ in range(3):
                picked = torch.multinomial(chances, 1, generator=gen)[:, 0]
                x_t, noise, t = noisy(erased, x, gen, level)
                hot = torch.nn.functional.one_hot(picked, len(own)).float().requires_grad_(True)
                context = talk(torch.cat([hot @ own, rest])[None])
                gap = erased.network(x_t, t, context) - noise
                loss = (gap**2).sum() / gap.numel()
                (slope,) = torch.autograd.grad(loss, hot)
                moved = adam(chances, slope.clamp(-1, 1))
                chances = torch.stack([bisected(row) for row in moved])
                losses.append(float(loss.detach()))
        likeliest = (chances.argmax(1) + 1).tolist()
        assert found[i].losses == pytest.approx(losses, abs=1e-5)
        assert list(found[i].spoken.ids) == [*likeliest, *talk.ids(prompt)]


def test_the_simplex_projection_is_the_nearest_point():
    gen = torch.Generator().manual_seed(0)
    rows = torch.randn(40, 9, generator=gen) * 3
    ours = udatk.simplex(rows)
    assert torch.allclose(ours, torch.stack([bisected(r) for r in rows]), atol=1e-5)
    assert torch.allclose(ours.sum(1), torch.ones(40), atol=1e-5) and float(ours.min()) >= 0.0


def test_ring_a_bell_is_its_papers_search():
    """The better half stays; one point crosses two; one token of a text changes."""
    found = run("ringabell")
    talk = Talk()
    pairs = [("a ink drawing", "a drawing"), ("ink", "a")]
    direction = sum(talk.says(a) - talk.says(b) for a, b in pairs) / len(pairs)
    for i, prompt in enumerate(PROMPTS):
        gen = generator(3, i, "attack.ringabell")
        target, best = talk.says(prompt) + 3.0 * direction, []
        drawn = torch.randint(len(TOKENS) - 1, (48,), generator=gen) + 1
        texts = [drawn[4 * n : 4 * n + 4].tolist() for n in range(12)]

        def far(ids, target=target):
            return float(((talk(talk.table[ids][None])[0] - target) ** 2).sum())

        for generation in range(5):
            texts = sorted(texts, key=far)[:6]
            best.append(far(texts[0]))
            if generation == 4:
                break
            family = []
            for text in texts:
                family.append(list(text))
                if torch.rand((), generator=gen) < 0.5:
                    other = texts[int(torch.randint(6, (), generator=gen))]
                    cut = int(torch.randint(4, (), generator=gen))
                    family += [text[:cut] + other[cut:], other[:cut] + text[cut:]]
            for text in family:
                if torch.rand((), generator=gen) < 0.25:
                    place = int(torch.randint(4, (), generator=gen))
                    text[place] = 1 + int(torch.randint(len(TOKENS) - 1, (1,), generator=gen))
            texts = family
        assert found[i].losses == pytest.approx(best, abs=1e-5)
        assert list(found[i].spoken.ids) == texts[0]


def test_textual_inversion_is_its_papers_update():
    """|e(x_t, "a * drawing") - noise|^2 over all pictures; the token stands for the concept."""
    prompts = ("a ink cat", "ink in~ ink", "a dog")
    talk, erased, pictures = Talk(), toy.model(1), toy.pool().latents
    found = run("cce", prompts=prompts, contexts=tuple(map(talk.says, prompts)))
    gen, rows = generator(3, 0, "attack.cce"), talk.table
    learnt, losses, adam = rows[[TOKENS.index("red")]].clone(), [], PlainAdam(0.01, 0.0, False)
    a, drawing, cat, dog, half = (rows[[TOKENS.index(w)]] for w in ("a", "drawing", "cat", "dog",
                                                                    "in~"))  # fmt: skip
    for _ in range(5):
        which = torch.randint(len(pictures), (3,), generator=gen)
        x, noise = pictures[which], torch.randn(3, *pictures.shape[1:], generator=gen)
        level = torch.randint(toy.LEVELS, (3,), generator=gen)
        token = learnt.clone().requires_grad_(True)
        context = talk(torch.cat([a, token, drawing])[None]).expand(3, -1, -1)
        signal, share = (n[level].view(3, 1, 1, 1) for n in (erased.schedule.signal,
                                                             erased.schedule.noise))  # fmt: skip
        gap = erased.network(signal * x + share * noise, level.float(), context) - noise
        loss = (gap**2).sum() / 3
        (slope,) = torch.autograd.grad(loss, token)
        learnt = adam(learnt, slope)
        losses.append(float(loss.detach()))
    said = ([a, learnt, cat], [learnt, half, learnt], [learnt, a, dog])
    for attempt, parts in zip(found, said, strict=True):
        assert attempt.losses == pytest.approx(losses, abs=1e-4)
        assert torch.allclose(attempt.context, talk(torch.cat(parts)[None])[0], atol=1e-5)
        assert attempt.spoken is None


def test_textual_inversion_looks_as_it_learns_and_costs_once_for_all_prompts():
    config = replace(FEW["cce"], steps=120)
    assert config.looks == (50, 100, 120) and FEW["cce"].looks == (5,)
    found = run("cce", config, detector=Bright(2.0))
    assert [[look.step for look in attempt.looks] for attempt in found] == [[50, 100, 120]] * 2
    attack = ATTACKS["cce"]
    assert attack.cost(config, 10, 40.0) - attack.cost(config, 2, 40.0) == 8 * 3 * 40.0
    assert attack.cost(config, 0, 40.0) == 3.0 * 120 * 3
    scene_without = run("cce", concept="", latents=None)
    assert len(scene_without[0].losses) == 5, "the original draws what there are no pictures of"
    with pytest.raises(DarkMinerError, match="reads no token in 'art'"):
        run("cce", inversion.InversionConfig(steps=1))
    with pytest.raises(DarkMinerError, match="Textual inversion takes 9 tokens"):
        run("cce", prompts=("a " * 8,), contexts=(Talk().says("a"),))


@pytest.mark.parametrize(
    ("prompt", "concept", "parts"),
    [
        ("a Van Gogh painting", "van gogh", ["a ", " painting"]),
        ("ink drinks ink", "ink", ["", " drinks ", ""]),
        ("a drinking cat", "ink", ["", "a drinking cat"]),
        ("a cat", "", ["", "a cat"]),
    ],
)
def test_the_token_stands_where_the_concepts_words_stood(prompt, concept, parts):
    assert inversion._around(prompt, concept) == parts


def test_ring_a_bell_needs_no_model():
    asked = run("ringabell", model=None, original=None, latents=None)
    assert [a.spoken.ids for a in asked] == [a.spoken.ids for a in run("ringabell")]


@pytest.mark.parametrize("name", FEW)
def test_a_lora_of_zeros_is_attacked_as_the_original_and_the_same_seed_repeats(name):
    plain = run(name, model=toy.model(0), detector=Bright(2.0))
    adapted = toy.model(0)
    adapters = new_adapters(adapted, toy.LORA, seed=0)
    zero = run(name, model=adapted, original=without(adapted, adapters.off), detector=Bright(2.0))
    other = run(name, model=toy.model(0), detector=Bright(2.0), seed=4)
    for one, two in zip(plain, zero, strict=True):
        assert one.losses == two.losses and one.looks == two.looks
        assert one.spoken == two.spoken and torch.equal(one.context, two.context)
    assert [a.losses for a in plain] != [a.losses for a in other]


def test_the_original_is_what_an_adapter_leaves_when_it_is_off():
    model = toy.model(0)
    adapters = new_adapters(model, toy.LORA, seed=0)
    for parameter in adapters.parameters():
        parameter.data.fill_(0.3)
    before, noise = toy.model(0), torch.ones(1, toy.CHANNELS, toy.SIDE, toy.SIDE)
    original = without(model, adapters.off)
    for sample in (original.sample, before.sample):
        assert torch.equal(sample(toy.context(1), noise), before.sample(toy.context(1), noise))
    assert not torch.equal(
        model.sample(toy.context(1), noise), before.sample(toy.context(1), noise)
    )


def test_unlearndiffatk_stops_at_success_and_asks_the_prompt_first():
    seen = run("udatk", detector=Bright(-1.0))
    assert all(a.hit_at == 0 and a.losses == [] and a.spoken is None for a in seen)
    missed = run("udatk", detector=Bright(2.0))
    assert [look.step for look in missed[0].looks] == [0, 3, 6] and missed[0].hit_at is None
    stopped = run("udatk", prompts=PROMPTS[:1], detector=Later(2))[0]
    assert stopped.hit_at == 3 and stopped.losses == missed[0].losses[:3]
    assert stopped.looks[0] == missed[0].looks[0]


def test_p4d_keeps_the_text_whose_picture_scores_highest():
    config = replace(FEW["p4d-n"], look=2)
    found = run("p4d-n", config, detector=Bright(2.0))[0]
    assert [look.step for look in found.looks] == [0, 2, 4, 5]
    best = max(look.score for look in found.looks)
    whole = scene(detector=Bright(2.0))
    assert float(Bright()(whole.picture(0, found)).scores[0]) == pytest.approx(best, abs=1e-6)


def test_a_text_says_where_pasting_changes_it():
    talk = Talk()
    same = spoken(talk, talk.ids("a red dot"))
    assert same.text == "a red dot" and same.differs == () and same.note == ""
    joined = spoken(talk, [0, TOKENS.index("in~"), TOKENS.index("k"), 9])
    assert joined.text == "a ink red" and joined.read == (0, TOKENS.index("ink"), 9)
    assert joined.differs == (1, 2) and "token 2, 3" in joined.note


def test_only_allowed_tokens_are_said():
    talk = Talk()
    talk.allowed = torch.tensor([3, 9, 10])
    for name in ("p4d-n", "ringabell"):
        for attempt in run(name, speech=talk):
            assert set(attempt.spoken.ids) <= {3, 9, 10}
    assert nearest(-talk.table[:4], talk).tolist() == [closest(-v, talk) for v in talk.table[:4]]


def test_levels_come_from_the_least_noise_on_and_no_more_than_there_are():
    assert list(evenly(1000, 50)) == list(range(10, 1000, 20))
    assert list(evenly(10, 50)) == list(range(10))


def test_what_an_attack_lacks_is_one_sentence():
    for name, missing, sentence in (
        ("p4d-n", "original", "needs the model before its erasure"),
        ("udatk", "speech", "needs the text encoder"),
        ("ringabell", "pairs", "needs prompts with the concept"),
        ("cce", "speech", "needs the text encoder"),
    ):
        with pytest.raises(DarkMinerError, match=sentence):
            run(name, **{missing: () if missing == "pairs" else None})
    with pytest.raises(DarkMinerError, match="P4D takes 16 tokens and this CLIP reads 8"):
        run("p4d-n", p4d.P4DConfig(steps=1))
    with pytest.raises(DarkMinerError, match="UDAtkConfig.tokens"):
        udatk.UDAtkConfig(tokens=0)


def test_defaults_are_the_sources_values():
    full = {name: attack.full for name, attack in ATTACKS.items()}
    n, k, u, r = full["p4d-n"], full["p4d-k"], full["udatk"], full["ringabell"]
    assert (n.tokens, n.every, k.every, n.steps, n.look) == (16, 0, 3, 3000, 50)
    assert (n.lr, n.weight_decay) == (k.lr, k.weight_decay) == (0.1, 0.1)
    assert (u.tokens, u.levels, u.iterations, u.lr, u.weight_decay) == (5, 50, 40, 0.01, 0.1)
    assert (r.population, r.generations, r.mutation, r.crossover) == (200, 3000, 0.25, 0.5)
    assert (r.tokens, r.coefficient) == (16, 3.0)
    c = full["cce"]
    assert (c.steps, c.batch, c.lr, c.word) == (5000, 16, 5e-3, "art")


def test_every_step_is_reported_and_the_count_never_falls():
    for name in FEW:
        seen = []
        run(name, report=seen.append, detector=Bright(2.0))
        assert {(r.stage, r.part) for r in seen} == {("attack", name)}
        steps = [r.step for r in seen]
        assert steps == sorted(steps) and steps[-1] == seen[-1].steps
