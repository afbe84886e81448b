"""The drawings: same seed, same pictures; where and how large they are; words and numbers."""

import pytest
import torch
from dark_miner.demo import gallery

LIMIT = 4e6


def test_counts_and_order_that_the_models_were_trained_with():
    assert len(gallery.OBJECTS) == 48 and list(gallery.OBJECTS) == sorted(set(gallery.OBJECTS))
    assert gallery.HELD_OUT == gallery.OBJECTS[2::4] and len(gallery.HELD_OUT) == 12
    assert len(set(gallery.STYLES)) == 7


def test_atlas_is_small_and_every_drawing_shows():
    assert gallery.ATLAS_FILE.stat().st_size <= LIMIT
    atlas = gallery.load_atlas()
    assert atlas.shape == (7 * 48, 4, 96, 96)
    opacity = atlas[:, 3].mean((1, 2))
    assert opacity.min() > 0.1  # none is empty
    assert (atlas[:, :3] <= atlas[:, 3:]).all()  # premultiplied


def test_no_two_drawings_are_the_same():
    small = torch.nn.functional.avg_pool2d(gallery.load_atlas(), 8).flatten(1)
    distance = torch.cdist(small, small) + torch.eye(len(small)) * 1e9
    assert distance.min() > 0.1


def test_place_stays_inside_the_frame_and_turns_little():
    # A white square as the drawing: what is not background is where it lies.
    square = torch.zeros(len(gallery.STYLES) * len(gallery.OBJECTS), 4, 96, 96)
    square[:, 3] = 1.0
    index = torch.zeros(200, dtype=torch.long)
    pictures = gallery.place(square, index, index, torch.Generator().manual_seed(0))
    covered = (pictures.amax(1) < 0.5).float().mean((1, 2))
    assert pictures.shape == (200, 3, 32, 32)
    assert covered.min() > 0.5 and covered.max() < 0.95**2 + 0.05
    assert covered.std() > 0.05  # sizes differ


def test_backgrounds_are_the_six_pale_ones():
    empty = torch.zeros(len(gallery.STYLES) * len(gallery.OBJECTS), 4, 96, 96)
    index = torch.zeros(300, dtype=torch.long)
    pictures = gallery.place(empty, index, index, torch.Generator().manual_seed(0))
    found = {tuple(round(v, 2) for v in picture[:, 0, 0].tolist()) for picture in pictures}
    assert found == {tuple(round(v, 2) for v in row) for row in gallery.BACKGROUNDS.tolist()}


def test_same_seed_same_drawings_other_seed_other_placements():
    first, captions, names = gallery.drawings("noto", 60, seed=3)
    again = gallery.drawings("noto", 60, seed=3)
    other = gallery.drawings("noto", 60, seed=4)
    assert first.shape == (60, 32, 32, 3) and 0 <= first.min() and first.max() <= 1
    assert torch.equal(first, again[0]) and (captions, names) == again[1:]
    distance = torch.cdist(first.flatten(1), other[0].flatten(1))
    assert distance.min() > 0  # no placement comes twice
    assert set(names[:48]) == set(gallery.OBJECTS)  # each once before any twice
    assert captions[0] == f"a noto drawing of a {names[0]}"


def test_chosen_objects_only():
    _, _, names = gallery.drawings("ink", 24, seed=0, objects=gallery.HELD_OUT)
    assert sorted(names) == sorted(2 * gallery.HELD_OUT)


@pytest.mark.parametrize(
    ("style", "n", "objects"),
    [("oil", 4, ["cat"]), ("noto", 4, ["unicorn"]), ("noto", 0, ["apple"]), ("noto", 4, [])],
)
def test_wrong_requests_are_refused(style, n, objects):
    with pytest.raises(ValueError, match=r"style 'oil'|cannot draw"):
        gallery.drawings(style, n, 0, objects)


def test_prompts():
    assert gallery.prompt("blob", "tree") == "a blob drawing of a tree"
    assert gallery.prompt(None, "tree") == "a drawing of a tree"
    assert gallery.prompt("blob") == gallery.POOL_TEMPLATE.replace("*", "blob")
    assert gallery.prompt(None) == gallery.ANCHOR
