"""MeasureFidelity on the gallery's model: figures of the pictures that a KSampler draws."""

import math

import pytest
import torch
from PIL import Image

from ..test_detectors import NAME, weights  # noqa: F401  (a fixture)
from .conftest import pack
from .test_compare import by_core_nodes

pytestmark = pytest.mark.host

GIVEN = {
    "captions": "an ink drawing\na noto drawing of a cat\na blob drawing", "captions_file": "",
    "count": 3, "negative_prompt": "", "width": 32, "height": 32, "seed": 5, "sampling_steps": 2,
    "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal", "open_clip_model": NAME,
}  # fmt: skip


@pytest.fixture
def files(hosted, tmp_path):
    """The host's input folder with captions and real drawings."""
    import folder_paths

    before = folder_paths.get_input_directory()
    folder_paths.set_input_directory(str(tmp_path))
    (tmp_path / "captions.txt").write_text("a noto drawing\nan ink drawing of a car\n")
    (tmp_path / "real").mkdir()
    drawings = pack("demo.gallery").drawings("noto", 3, seed=5)[0]
    for i, pixels in enumerate((drawings * 255).round().byte().numpy()):
        Image.fromarray(pixels).resize((40 + i, 32)).save(tmp_path / "real" / f"{i}.png")
    yield tmp_path
    folder_paths.set_input_directory(before)


@pytest.fixture
def measure(nodes, sockets, weights):  # noqa: F811
    world = {kind.lower(): sockets[kind] for kind in ("MODEL", "CLIP", "VAE")}

    def run(**changes):
        given = {**GIVEN, "open_clip_weights": weights, **world, **changes}
        return nodes["MeasureFidelity"].execute(**given).args

    run.world = world
    return run


def test_the_score_is_of_what_a_ksampler_draws(measure, weights):  # noqa: F811
    score, distance, pictures, words = measure(count=2)
    clip = pack("darkminer.image_encoder").open_clip_pair(NAME, weights)
    judge = pack("darkminer.judge.fidelity")
    lines = GIVEN["captions"].splitlines()[:2]
    for i, line in enumerate(lines):
        wanted = by_core_nodes(measure.world, measure.world["model"], line, 5 + i)
        assert torch.equal(pictures[i : i + 1], wanted)
    scores = judge.clip_scores(clip.images(pictures), clip.texts(lines))
    assert score == pytest.approx(scores.mean().item(), abs=1e-4)
    assert math.isnan(distance) and "no folder of real pictures" in words and "2 pictures" in words
    assert NAME in words


def test_a_lora_counts_and_a_file_of_captions_is_read(measure, sockets, files):
    one = measure(captions="", captions_file="captions.txt")
    moved = {k: v + 0.3 if "weight" in k else v for k, v in sockets["LORA_MODEL"].items()}
    other = measure(captions="", captions_file="captions.txt", lora=moved)
    assert len(one[2]) == 2 and not torch.equal(one[2], other[2])


def test_without_weights_the_distance_is_clips_and_says_so(measure, files):
    pytest.importorskip("torch_fidelity", reason="pip install torch-fidelity")
    _, distance, _, words = measure(folder="real")
    assert distance > 0 and "Fréchet distance on CLIP features (no FID)" in words
    assert "(3 pictures to 3)" in words
    (files / "inception.pth").write_bytes(b"no weights")
    with pytest.raises(pack("darkminer.errors").DarkMinerError, match="^MeasureFidelity: fid_weig"):
        measure(folder="real", fid_weights="inception.pth")


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"captions": " "}, "captions and captions_file are both empty"),
        ({"captions_file": "captions.txt"}, "captions and captions_file are both given"),
        ({"captions": "one"}, "captions holds one line"),
        (
            {"captions": "", "captions_file": "none.json"},
            "captions_file 'none.json' does not exist",
        ),
        ({"captions": "", "captions_file": "/etc/passwd"}, "lies outside the input and output"),
        ({"seed": 0xFFFFFFFFFFFFFFFF}, "has no 3 after it"),
        ({"width": 30}, "multiples of 4"),
        ({"fid_weights": "captions.txt"}, "fid_weights is given and folder is empty"),
        ({"open_clip_model": "none"}, "no architecture of open_clip"),
    ],
)
def test_what_cannot_be_measured_is_one_sentence(measure, files, changes, words):
    with pytest.raises(pack("darkminer.errors").DarkMinerError, match=words) as caught:
        measure(**changes)
    assert str(caught.value).startswith("MeasureFidelity: ")


def test_files_are_watched(nodes, files):
    node, given = nodes["MeasureFidelity"], {"captions_file": "captions.txt", "folder": "real"}
    before = node.fingerprint_inputs(**given)
    assert node.fingerprint_inputs(**given) == before
    (files / "captions.txt").write_text("another\n")
    after = node.fingerprint_inputs(**given)
    (files / "real" / "0.png").unlink()
    assert len({before, after, node.fingerprint_inputs(**given)}) == 3
