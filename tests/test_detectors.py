"""Detectors: CLIP's zero-shot, NudeNet, the gallery's judge; all through one interface."""

import json
import sys

import open_clip
import pytest
import torch
from dark_miner.darkminer.errors import DarkMinerError
from dark_miner.darkminer.image_encoder import fitted, open_clip_encoder, open_clip_pair
from dark_miner.darkminer.judge.nudity import EXPOSED, THRESHOLD, NudeNet, exposure
from dark_miner.darkminer.judge.zero_shot import OBJECT, STYLE, listing, zero_shot
from dark_miner.demo.detector import GalleryDetector
from dark_miner.demo.gallery import drawings

NAME = "tiny-pair"
CONFIG = {
    "embed_dim": 16, "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1},
}  # fmt: skip


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A CLIP of random weights in a file of open_clip's layout."""
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("pair")
    (folder / f"{NAME}.json").write_text(json.dumps(CONFIG))
    open_clip.add_model_config(folder)
    torch.manual_seed(0)
    model = open_clip.create_model(NAME)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "w.safetensors")
    return str(folder / "w.safetensors")


def pictures(count=3):
    return torch.rand(count, 40, 56, 3, generator=torch.Generator().manual_seed(1))


def test_clip_says_what_the_librarys_own_softmax_says(weights):
    clip = open_clip_pair(NAME, weights)
    styles = ["crayon", "Van Gogh", "mosaic"]
    detect = zero_shot(clip.images, clip.texts, clip.scale, clip.name, "van gogh", STYLE, styles)
    model = open_clip.create_model(NAME, weights).eval()
    texts = [f"an image in the style of {s}" for s in ("van gogh", "crayon", "mosaic")]
    x = fitted(pictures().movedim(-1, 1), 32)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in
                 (model.visual.image_mean, model.visual.image_std))  # fmt: skip
    with torch.no_grad():
        seen = model.encode_image((x - mean) / std, normalize=True)
        said = model.encode_text(open_clip.get_tokenizer(NAME)(texts), normalize=True)
        wanted = (model.logit_scale.exp() * seen @ said.T).softmax(1)
    sight = detect(pictures())
    assert torch.allclose(detect.probabilities(pictures()), wanted, atol=1e-5)
    assert torch.allclose(sight.scores, wanted[:, 0], atol=1e-5)
    assert torch.equal(sight.hits, wanted.argmax(1) == 0)
    assert torch.allclose(clip.images(pictures()), open_clip_encoder(NAME, weights)(pictures()))
    assert NAME in str(detect.identity) and "3 texts" in str(detect.identity)


def test_the_lists_travel_with_the_pack_and_a_concept_is_told_from_them(weights):
    assert len(listing(STYLE)) == len(set(map(str.casefold, listing(STYLE)))) == 60
    assert {"Van Gogh", "crayon"} <= set(listing(STYLE))
    assert {"church", "French horn"} <= set(listing(OBJECT))
    clip = open_clip_pair(NAME, weights)
    made = [zero_shot(clip.images, clip.texts, clip.scale, "", w, OBJECT) for w in ("Church", "x")]
    assert [len(d.texts) for d in made] == [len(listing(OBJECT)), len(listing(OBJECT)) + 1]
    with pytest.raises(DarkMinerError, match="needs the concept's words"):
        zero_shot(clip.images, clip.texts, clip.scale, "", " ", STYLE)
    with pytest.raises(DarkMinerError, match="nothing to tell 'ink' from"):
        zero_shot(clip.images, clip.texts, clip.scale, "", "ink", STYLE, ["Ink"])


def test_nudity_is_the_surest_of_eight_exposed_classes():
    found = [
        {"class": "FEET_EXPOSED", "score": 0.9}, {"class": "BELLY_COVERED", "score": 0.8},
        {"class": "BELLY_EXPOSED", "score": 0.4}, {"class": "ARMPITS_EXPOSED", "score": 0.6},
    ]  # fmt: skip
    assert exposure(found) == 0.6 > THRESHOLD and exposure(found[:2]) == exposure([]) == 0.0
    assert len(EXPOSED) == 8


def test_a_missing_nudenet_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "nudenet", None)
    with pytest.raises(DarkMinerError, match="run pip install nudenet==3.4.2 in ComfyUI's own"):
        NudeNet()


def test_nudenet_sees_what_it_sees_in_files_and_nothing_in_drawings(tmp_path):
    nudenet = pytest.importorskip("nudenet")
    from PIL import Image

    images = torch.cat([drawings(s, 2, seed=5)[0] for s in ("noto", "ink")])
    images = torch.nn.functional.interpolate(images.movedim(-1, 1), 128).movedim(1, -1)
    detector = NudeNet()
    sight = detector(images)
    assert not sight.hits.any() and sight.scores.shape == (4,)
    raw = nudenet.NudeDetector()
    for image, score in zip(images, sight.scores, strict=True):
        file = tmp_path / "drawing.png"
        Image.fromarray((image * 255).round().byte().numpy()).save(file)
        assert exposure(raw.detect(str(file))) == pytest.approx(float(score))
    pixels = (images[0] * 255).round().byte().numpy()
    file = tmp_path / "whole.png"
    Image.fromarray(pixels).save(file)
    # Everything it finds at all, not only what counts: the picture arrived the same.
    assert raw.detect(str(file)) == raw.detect(pixels[..., ::-1].copy())
    assert detector.identity.threshold == 0.5 and detector.identity.version


@pytest.mark.parametrize("concept", ["ink", "heart"])
def test_the_gallerys_judge_knows_drawings_of_a_concept_from_others(concept):
    detect = GalleryDetector(concept)
    styles = ("ink", "noto", "flat")
    for style in styles:
        images, _, names = drawings(style, 24, seed=77)
        right = torch.tensor([concept in (style, name) for name in names])
        sight = detect(images)
        assert float((sight.hits == right).float().mean()) > 0.95
        assert float(((sight.scores > 0.5) == right).float().mean()) > 0.95
    with pytest.raises(ValueError, match="'van gogh' is none of"):
        GalleryDetector("van gogh")
