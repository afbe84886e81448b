"""open_clip's encoder computes the function its weights were trained with."""

import json
import logging
import threading

import open_clip
import pytest
import torch
from dark_miner.darkminer.errors import DarkMinerError
from dark_miner.darkminer.image_encoder import SETTING, _checked, fitted, open_clip_encoder
from safetensors.torch import load_file, save_file

NAME = "tiny-vit"
CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 16, "width": 16, "heads": 1, "layers": 1},
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Two architectures that differ in their activation, as open_clip lists its own."""
    folder = tmp_path_factory.mktemp("configs")
    (folder / f"{NAME}.json").write_text(json.dumps(CONFIG))
    (folder / f"{NAME}-quickgelu.json").write_text(json.dumps({**CONFIG, "quick_gelu": True}))
    open_clip.add_model_config(folder)
    yield NAME


@pytest.fixture(scope="module")
def weights(tiny, tmp_path_factory):
    """A file of random weights, large enough that the activations differ."""
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    model = open_clip.create_model(tiny)
    gen = torch.Generator().manual_seed(3)
    made = {}
    for name, value in model.state_dict().items():
        noise = torch.randn(value.shape, generator=gen)
        scale = 0.1 if value.ndim < 2 else value[0].numel() ** -0.5
        made[name] = noise * scale + float(name.endswith("weight") and value.ndim == 1)
    save_file(made, path)
    return path


def pictures():
    return torch.rand(3, 40, 56, 3, generator=torch.Generator().manual_seed(1))


def by_hand(tiny, weights, quick):
    """Features of the library's own model, built with an activation."""
    model = open_clip.create_model(tiny, str(weights), quick_gelu=quick).eval()
    x = fitted(pictures().movedim(-1, 1), 32)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in
                 (model.visual.image_mean, model.visual.image_std))  # fmt: skip
    with torch.no_grad():
        return model.visual((x - mean) / std)


def test_the_name_or_the_configuration_beside_a_file_says_its_activation(tiny, weights, tmp_path):
    gelu, quick = (by_hand(tiny, weights, q) for q in (False, True))
    assert not torch.allclose(gelu, quick, atol=1e-3)
    for name, wanted in ((f"{tiny}-gelu", gelu), (f"{tiny}-quickgelu", quick)):
        assert torch.allclose(open_clip_encoder(name, str(weights))(pictures()), wanted, atol=1e-5)
    copy = tmp_path / "weights.safetensors"
    copy.write_bytes(weights.read_bytes())
    for said, wanted in ((True, quick), (False, gelu)):
        config = {"model_cfg": {**CONFIG, "quick_gelu": said}, "preprocess_cfg": {}}
        (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
        for name in (tiny, f"{tiny}-quickgelu"):
            made = open_clip_encoder(name, str(copy))(pictures())
            assert torch.allclose(made, wanted, atol=1e-5), (name, said)


def test_a_file_that_nothing_speaks_for_is_refused(tiny, weights):
    with pytest.raises(DarkMinerError, match=f"{tiny}-quickgelu .*or as {tiny}-gelu"):
        open_clip_encoder(tiny, str(weights))


def test_an_archive_that_holds_code_is_refused(tiny, tmp_path):
    file = tmp_path / "ViT-L-14.pt"
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(file))
    with pytest.raises(DarkMinerError, match="TorchScript archive .* write the tag openai"):
        open_clip_encoder(f"{tiny}-quickgelu", str(file))


def test_weights_saved_by_torch_are_taken(tiny, weights, tmp_path):
    file = tmp_path / "weights.pt"
    torch.save(load_file(weights), file)
    made = open_clip_encoder(f"{tiny}-gelu", str(file))(pictures())
    assert torch.allclose(made, by_hand(tiny, weights, False), atol=1e-5)


def test_a_tags_own_configuration_says_its_activation(tiny, weights, tmp_path, monkeypatch):
    """A tag as open_clip's list holds them, its file fetched from an address."""
    from open_clip import pretrained

    monkeypatch.setenv("HOME", str(tmp_path))
    for tag, quick in (("one", True), ("two", False)):
        (tmp_path / f"{tag}.safetensors").write_bytes(weights.read_bytes())
        entry = {"url": (tmp_path / f"{tag}.safetensors").as_uri(), "quick_gelu": quick}
        entry |= {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
        tags = {**pretrained._PRETRAINED.get(tiny, {}), tag: entry}
        monkeypatch.setitem(pretrained._PRETRAINED, tiny, tags)
        made = open_clip_encoder(tiny, tag)(pictures())
        model = open_clip.create_model(tiny, str(weights), quick_gelu=quick).eval()
        with torch.no_grad():
            wanted = model.visual((fitted(pictures().movedim(-1, 1), 32) - 0.5) / 0.5)
        assert torch.allclose(made, wanted, atol=1e-5), tag


def test_every_tag_of_the_list_gets_the_activation_it_names():
    quick = _checked("ViT-L-14", "openai")
    assert quick["force_quick_gelu"] is True and quick["model_name"] == "ViT-L-14"
    plain = _checked("ViT-L-14", "laion2b_s32b_b82k")
    assert plain["quick_gelu"] is False and "force_quick_gelu" not in plain
    for name, tag in open_clip.list_pretrained():
        said = open_clip.get_pretrained_cfg(name, tag).get("quick_gelu", False)
        assert _checked(name, tag).get("force_quick_gelu", False) is said, (name, tag)


def test_pictures_are_cut_and_resampled_as_clip_does():
    from PIL import Image
    from torchvision.transforms.functional import pil_to_tensor

    rgb = (pictures()[0] * 255).round().to(torch.uint8)
    small = Image.fromarray(rgb.numpy()).resize((45, 32), Image.Resampling.BICUBIC)
    wanted = pil_to_tensor(small)[:, :, 6:38].float() / 255.0
    whole = (rgb.float() / 255.0).movedim(-1, 0)[None]
    made = fitted(whole, 32)[0]
    assert made.shape == (3, 32, 32)
    # PIL rounds to 8 bits between rows and columns as well.
    assert float((made - wanted).abs().mean()) < 1.0 / 255.0
    assert float((fitted(whole, 32, mode="bilinear")[0] - wanted).abs().mean()) > 5.0 / 255.0
    assert torch.equal(made, (made * 255).round() / 255)


@pytest.mark.parametrize(
    "name, weights, said",
    [
        ("ViT-Q-99", "openai", "no architecture of open_clip"),
        ("ViT-B-32", "opensesame", "neither a file on this machine nor a tag of ViT-B-32"),
        ("ViT-B-32", "/no/such/file.pt", "neither a file on this machine nor a tag"),
        ("hf-hub:someone/model", "", "not allowed"),
        ("local-dir:/some/folder", "", "not allowed"),
        ("bad\ud800", "openai", r"'bad\\ud800'"),
    ],
)
def test_what_cannot_be_had_is_one_sentence_before_anything_is_fetched(
    name, weights, said, monkeypatch
):
    def fetched(*_, **__):
        raise AssertionError("something was fetched")

    monkeypatch.delenv(SETTING, raising=False)
    monkeypatch.setattr(open_clip, "create_model", fetched)
    with pytest.raises(DarkMinerError, match=said) as caught:
        open_clip_encoder(name, weights)
    str(caught.value).encode("utf-8")


def test_the_owner_of_the_machine_may_allow_other_names(monkeypatch):
    monkeypatch.setenv(SETTING, "1")
    assert _checked("hf-hub:someone/model", "x")["model_name"] == "hf-hub:someone/model"
    monkeypatch.setenv(SETTING, "0")
    with pytest.raises(DarkMinerError, match=SETTING):
        _checked("hf-hub:someone/model", "x")


class Stopped(BaseException):
    """As the host's stop button raises."""


def test_a_wait_for_weights_is_announced_and_can_be_stopped(monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    waits, looks = threading.Event(), []

    def slow(**_):
        waits.wait(60)

    def stop():
        looks.append(1)
        if len(looks) == 2:
            raise Stopped

    monkeypatch.setattr(open_clip, "create_model", slow)
    try:
        with pytest.raises(Stopped):
            open_clip_encoder("ViT-L-14", "openai", waiting=stop)
    finally:
        waits.set()
    assert "fetches the weights 'openai' of ViT-L-14 (QuickGELU" in caplog.text


def test_a_failure_to_fetch_is_one_sentence(monkeypatch):
    def fails(**_):
        raise OSError("no route to host\nsecond line")

    monkeypatch.setattr(open_clip, "create_model", fails)
    with pytest.raises(DarkMinerError) as caught:
        open_clip_encoder("ViT-L-14", "openai")
    assert "'no route to host'" in str(caught.value) and "second" not in str(caught.value)
