"""The judge on drawings it has never seen."""

import pytest
import torch
from dark_miner.demo import gallery
from dark_miner.demo.judge import WEIGHTS, load_distance, load_judge


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
