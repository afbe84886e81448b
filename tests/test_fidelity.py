"""CLIP score, captions and the Fréchet distance, held against the libraries' own figures."""

import json
import sys

import open_clip
import pytest
import torch
from dark_miner.darkminer.errors import DarkMinerError
from dark_miner.darkminer.image_encoder import open_clip_pair
from dark_miner.darkminer.judge import fidelity
from dark_miner.darkminer.judge.captions import read_captions
from dark_miner.darkminer.judge.fidelity import FID, ON_CLIP, Gauge, Score, clip_scores

from .test_detectors import NAME, pictures, weights  # noqa: F401  (a fixture)


def test_clip_score_is_a_hundred_times_the_librarys_cosine(weights):  # noqa: F811
    texts = ["a cat", "a red car", "a house"]
    clip = open_clip_pair(NAME, weights)
    found = clip_scores(clip.images(pictures()), clip.texts(texts))
    model = open_clip.create_model(NAME, weights).eval()
    with torch.no_grad():
        said = model.encode_text(open_clip.get_tokenizer(NAME)(texts), normalize=True)
    seen = clip.images(pictures())
    wanted = 100 * (seen / seen.norm(dim=1, keepdim=True) * said).sum(1)
    assert torch.allclose(found, wanted.clamp(min=0), atol=1e-3)
    below = clip_scores(seen, -clip.texts(texts))
    assert torch.allclose(below, (-wanted).clamp(min=0), atol=1e-3)
    assert clip_scores(torch.tensor([[1.0, 0.0]]), torch.tensor([[-1.0, 0.0]])).item() == 0
    assert clip_scores(torch.tensor([[3.0, 4.0]]), torch.tensor([[6.0, 8.0]])).item() == 100


def test_a_score_has_an_interval():
    score = Score.of(torch.tensor([20.0, 22.0, 24.0, 26.0]))
    assert score.value == 23 and score.count == 4
    half = 1.959963984540054 * torch.tensor([20.0, 22.0, 24.0, 26.0]).std().item() / 2
    assert score.high == pytest.approx(23 + half) and score.low == pytest.approx(23 - half)
    assert "23.00, 95 % interval" in str(score)
    assert (Score.of(torch.tensor([5.0])).low, Score.of(torch.tensor([5.0])).high) == (0, 100)


def test_captions_are_cocos_first_of_each_photograph_or_lines(tmp_path):
    coco = tmp_path / "captions_val2017.json"
    entries = [(7, 3, "third"), (2, 9, " second  of\n2 "), (2, 4, "first of 2"), (7, 5, "no")]
    coco.write_text(json.dumps({
        "images": [{"id": 2}], "annotations": [
            {"image_id": p, "id": i, "caption": c} for p, i, c in entries],
    }))  # fmt: skip
    assert read_captions(coco) == ("first of 2", "third")
    text = tmp_path / "captions.txt"
    text.write_bytes("\ufeffa cat\r\n\r\n  ein  Gebäude \n".encode())
    assert read_captions(text) == ("a cat", "ein Gebäude")


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("a.json", b"{", "holds no captions as COCO writes them"),
        ("a.json", b"[]", "name captions_val2017.json"),
        ("a.json", b'{"annotations": [{"id": 1}]}', "KeyError"),
        ("a.json", b'{"annotations": []}', "'a.json' holds no captions: write one a line"),
        ("a.json", b"[" * 100_000, "as COCO writes them"),
        ("a.txt", b" \n", "holds no captions"),
        ("a.txt", b"\xff\xfe\x00", "save it as text in UTF-8"),
    ],
)
def test_a_bad_file_of_captions_is_one_sentence(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DarkMinerError, match=words) as caught:
        read_captions(tmp_path / name)
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


def test_without_the_library_one_sentence_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    monkeypatch.setitem(sys.modules, "torch_fidelity.metric_fid", None)
    with pytest.raises(DarkMinerError, match="pip install torch-fidelity in ComfyUI's own"):
        fidelity.require()


@pytest.fixture
def library():
    return pytest.importorskip("torch_fidelity", reason="pip install torch-fidelity")


def test_the_distance_between_two_gaussians_is_what_their_moments_say(library):
    """Fréchet, 1957: |m - n|^2 + tr(A + B - 2 (A B)^(1/2)), here of diagonal A and B."""
    gen = torch.Generator().manual_seed(0)
    base = torch.linalg.qr(torch.randn(500, 4, generator=gen))[0]
    base = torch.linalg.qr(base - base.mean(0))[0] * 499**0.5  # mean 0, covariance 1
    one, other = base * torch.tensor([1.0, 2.0, 3.0, 4.0]), base[:, [1, 0, 2, 3]] * 2 + 3
    gauge = Gauge(lambda x: x, ON_CLIP, list(one.split(1)), list(other.split(1)))
    wanted = 4 * 9 + sum((a - 2.0) ** 2 for a in (1, 2, 3, 4))
    found = gauge.distance()
    assert found.value == pytest.approx(wanted, rel=1e-3)
    assert str(found).startswith("Fréchet distance on CLIP features (no FID) 4")
    assert Gauge(lambda x: x, FID, gauge.made, gauge.made).distance().value == pytest.approx(
        0, abs=1e-3
    )
    with pytest.raises(DarkMinerError, match="two pictures made and two real ones"):
        Gauge(lambda x: x, FID, gauge.made[:1], gauge.real).distance()


@pytest.fixture
def inception_file(library, tmp_path):
    """Inception's layout with random weights, in a file as the library reads it."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Blank(FeatureExtractorInceptionV3):
        def load_state_dict(self, state_dict):
            return state_dict

    torch.manual_seed(0)
    torch.save({}, tmp_path / "empty.pth")
    blank = Blank("blank", ["2048"], feature_extractor_weights_path=str(tmp_path / "empty.pth"))
    torch.save(blank.state_dict(), tmp_path / "inception.pth")
    return tmp_path / "inception.pth"


def test_fid_is_the_librarys_own_figure(library, inception_file, tmp_path):
    """The library reads two folders by itself; the gauge is given the same pictures one by one."""
    from PIL import Image

    extract = fidelity.inception(inception_file)
    gauge = Gauge(extract, FID)
    gen = torch.Generator().manual_seed(1)
    for kind, kept, scale in (("made", gauge.made, 0.6), ("real", gauge.real, 1.0)):
        (tmp_path / kind).mkdir()
        for i in range(4):
            image = scale * torch.rand(1, 48, 64, 3, generator=gen)
            kept.append(extract(image))
            pixels = fidelity.in_bytes(image)[0].numpy()
            Image.fromarray(pixels).save(tmp_path / kind / f"{i}.png")
    own = library.calculate_metrics(
        input1=str(tmp_path / "made"), input2=str(tmp_path / "real"), fid=True, cuda=False,
        cache=False, verbose=False, save_cpu_ram=True,
        feature_extractor_weights_path=str(inception_file),
    )["frechet_inception_distance"]  # fmt: skip
    found = gauge.distance()
    assert found.value == pytest.approx(own, rel=1e-4) and found.value > 0
    assert str(found).endswith("; of fewer than 2048 it is far too high")


def test_a_file_that_is_no_inception_is_refused_and_never_run(library, tmp_path):
    ran = tmp_path / "ran"

    class Runs:
        def __reduce__(self):
            return (open, (str(ran), "w"))

    torch.save({"a": Runs()}, tmp_path / "code.pth")
    torch.save({"a": torch.ones(1)}, tmp_path / "other.pth")
    (tmp_path / "text.pth").write_text("no weights")
    for name in ("code.pth", "other.pth", "text.pth"):
        with pytest.raises(DarkMinerError, match=f"fid_weights '{name}' holds no weights"):
            fidelity.inception(tmp_path / name)
    assert not ran.exists()
