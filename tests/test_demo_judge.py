"""The judge on drawings it has never seen."""

import pytest
import torch
from dark_miner.demo import gallery, limits
from dark_miner.demo.judge import WEIGHTS, Neighbourhood, load_distance, load_judge


@pytest.fixture(scope="module")
def judge():
    return load_judge()


def test_probabilities(judge):
    style, thing = judge(torch.rand(5, 32, 32, 3))
    assert style.shape == (5, 7) and thing.shape == (5, 48)
    assert torch.allclose(style.sum(1), torch.ones(5)) and torch.allclose(
        thing.sum(1), torch.ones(5)
    )


def test_accuracy_on_unseen_placements(judge):
    style_right, thing_right = [], []
    for index, style in enumerate(gallery.STYLES):
        images, _, names = gallery.drawings(style, 2 * len(gallery.OBJECTS), seed=77)
        styles, things = judge(images)
        wanted = torch.tensor([gallery.OBJECTS.index(name) for name in names])
        style_right.append(styles.argmax(1) == index)
        thing_right.append(things.argmax(1) == wanted)
    assert torch.cat(style_right).float().mean() >= 0.98
    assert torch.cat(thing_right).float().mean() >= 0.98


def test_a_picture_of_another_size_is_judged_too(judge):
    images, _, _ = gallery.drawings("ink", 24, seed=5)
    large = torch.nn.functional.interpolate(images.movedim(-1, 1), scale_factor=2).movedim(1, -1)
    assert torch.equal(judge(images)[1].argmax(1), judge(large)[1].argmax(1))


def test_missing_weights_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"judge\.safetensors"):
        load_judge(tmp_path)


def test_weights_and_atlas_keep_their_size():
    files = list(WEIGHTS.glob("*.safetensors"))
    assert {f.stem for f in files} == {"unet", "vae", "clip_text", "clip_vision", "judge"}
    assert sum(f.stat().st_size for f in files) <= 24e6


def test_the_distance_tells_noise_from_another_designer():
    distance = load_distance()
    images, _, things = gallery.drawings("noto", 16, 5)
    other = gallery.drawings("ink", 16, 5, objects=things[:1])[0]
    gen = torch.Generator().manual_seed(0)
    noisy = (images + 0.01 * torch.randn(images.shape, generator=gen)).clamp(0, 1)
    assert torch.equal(distance(images, images), torch.zeros(16))
    assert torch.allclose(distance(images, other), distance(other, images))
    assert float(distance(images, noisy).mean()) < 0.2 * float(distance(images, other).mean())


@pytest.fixture(scope="module")
def near_ink():
    return Neighbourhood(gallery.drawings("ink", 2048, seed=31)[0], limits.read()["style"]["ink"])


def test_the_strict_judge_knows_its_own_and_nobody_else(near_ink):
    """Real drawings of a designer lie among others of the same; those of the six others do not."""
    own = gallery.drawings("ink", 96, seed=32)[0]
    assert float(near_ink.holds(own).float().mean()) >= 0.95
    for style in gallery.STYLES[:-1]:
        images = gallery.drawings(style, 48, seed=33)[0]
        assert not near_ink.holds(images).any()
        assert float(near_ink.distance(images).min()) > float(near_ink.distance(own).max())


def test_what_is_nearest_to_ink_among_seven_need_not_be_ink(judge, near_ink):
    """Ink drawings with their patches shuffled: the classifier still names ink."""
    images = gallery.drawings("ink", 64, seed=33)[0]
    patches = images.view(64, 4, 8, 4, 8, 3).permute(0, 1, 3, 2, 4, 5).reshape(64, 16, 8, 8, 3)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    mixed = patches[:, order].view(64, 4, 4, 8, 8, 3).permute(0, 1, 3, 2, 4, 5)
    mixed = mixed.reshape(64, 32, 32, 3)
    named = judge(mixed)[0].argmax(1) == gallery.STYLES.index("ink")
    assert float(named.float().mean()) >= 0.4  # of seven answers
    assert not (named & near_ink.holds(mixed)).any()


def test_distance_is_the_mean_of_the_five_nearest():
    images = gallery.drawings("noto", 12, seed=8)[0]
    near = Neighbourhood(images, limit=1.0)
    places = near._place(images)
    wanted = 1 - (places[:1] @ places.T).sort(descending=True).values[0, :5].mean()
    assert torch.allclose(near.distance(images[:1])[0], wanted)
    assert float(Neighbourhood(images[:1], 1.0).distance(images[:1])[0]) == pytest.approx(
        0.0, abs=1e-6
    )


def test_every_style_has_a_limit_and_what_has_none_says_how_to_make_it():
    found = limits.read()
    assert set(found["style"]) == set(gallery.STYLES)
    assert all(0.0 < limit < 0.25 for kind in found.values() for limit in kind.values())
    with pytest.raises(ValueError, match=r"demo\.limits --object snake"):
        limits.neighbourhood("object", "snake", None)


def test_references_show_the_concept_and_are_not_an_attackers_drawings():
    rocket = limits.concept_drawings("object", "rocket", 100, 5)
    assert rocket.shape == (100, 32, 32, 3)
    _, things = load_judge()(rocket)
    assert float((things.argmax(1) == gallery.OBJECTS.index("rocket")).float().mean()) > 0.97
    ink = limits.concept_drawings("style", "ink", 48, limits.REFERENCE_SEED)
    assert not torch.equal(ink, gallery.drawings("ink", 48, 700_000)[0])
