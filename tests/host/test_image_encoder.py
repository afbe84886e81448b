"""open_clip and the host's CLIP vision see the same on the same weights."""

import importlib
import json

import pytest
import torch
from safetensors.torch import save_file

pytestmark = pytest.mark.host

NAME = "tiny-vision"
SIDE, WIDTH, LAYERS, PATCH, HEADS, OUT = 64, 64, 3, 16, 4, 32


def config(quick):
    return {
        "embed_dim": OUT, "quick_gelu": quick,
        "vision_cfg": {
            "image_size": SIDE, "layers": LAYERS, "width": WIDTH, "head_width": WIDTH // HEADS,
            "patch_size": PATCH,
        },
        "text_cfg": {"context_length": 8, "vocab_size": 16, "width": 16, "heads": 1, "layers": 1},
    }  # fmt: skip


@pytest.fixture(scope="module")
def weights(hosted, tmp_path_factory):
    """Random weights of an open_clip model; the configuration beside them says QuickGELU."""
    import open_clip

    from .miniature import fill

    folder = tmp_path_factory.mktemp("configs")
    (folder / f"{NAME}.json").write_text(json.dumps(config(False)))
    (folder / f"{NAME}-quickgelu.json").write_text(json.dumps(config(True)))
    open_clip.add_model_config(folder)
    model = fill(open_clip.create_model(NAME), 4)
    path = folder / "weights.safetensors"
    save_file({k: v.contiguous().clone() for k, v in model.state_dict().items()}, path)
    return path


def hosts(weights, quick):
    """The same weights in the host's own CLIP vision, by the host's own conversion of names."""
    from safetensors.torch import load_file

    vision = importlib.import_module("comfy.clip_vision")
    made = vision.ClipVisionModel(
        {
            "hidden_act": "quick_gelu" if quick else "gelu", "hidden_size": WIDTH,
            "image_size": SIDE, "intermediate_size": 4 * WIDTH, "model_type": "clip_vision_model",
            "num_attention_heads": HEADS, "num_channels": 3, "num_hidden_layers": LAYERS,
            "patch_size": PATCH, "projection_dim": OUT,
        }
    )  # fmt: skip
    own = {k: v for k, v in load_file(weights).items() if k.startswith("visual.")}
    missing, unexpected = made.load_sd(vision.convert_to_transformers(own, "visual."))
    assert not [k for k in missing if "position_ids" not in k] and not unexpected
    return made


def pictures(height, width):
    """Sharp edges, on which resampling shows."""
    gen = torch.Generator().manual_seed(height)
    coarse = torch.rand(4, 3, height // 8, width // 8, generator=gen).round()
    return torch.nn.functional.interpolate(coarse, scale_factor=8).movedim(1, -1)


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("size", [(64, 64), (128, 128), (96, 200), (40, 32)])
def test_features_equal_the_hosts_clip_vision(weights, quick, size):
    encoder = importlib.import_module("dark_miner.darkminer.image_encoder")
    vision = importlib.import_module("dark_miner.nodes.host.vision")
    name = f"{NAME}-quickgelu" if quick else f"{NAME}-gelu"
    ours = encoder.open_clip_encoder(name, str(weights))(pictures(*size))
    theirs = vision.vision_encoder(hosts(weights, quick), "test")(pictures(*size))
    assert float((ours - theirs).abs().max()) < 1e-3 * float(theirs.abs().max())


def test_the_wrong_activation_and_bilinear_pictures_move_the_score(weights):
    """What the faults did to s(c) on these random weights (three layers, scores .26 to .63): .0005
    to .003 by the activation, and .004 to .015 by bilinear pictures.
    """
    encoder = importlib.import_module("dark_miner.darkminer.image_encoder")
    verify = importlib.import_module("dark_miner.darkminer.method.verify")
    target, reference, concept = pictures(128, 128), pictures(120, 120), pictures(136, 136)

    def score(name):
        encode = encoder.open_clip_encoder(name, str(weights))
        return verify.delta_score(*(encode(p) for p in (target, reference)), encode(concept))

    right, wrong = score(f"{NAME}-quickgelu"), score(f"{NAME}-gelu")
    assert float((right - wrong).abs().max()) > 1e-3
    host = hosts(weights, True)
    theirs = [host.encode_image(p).image_embeds.detach() for p in (target, reference, concept)]
    assert float((right - verify.delta_score(*theirs)).abs().max()) < 1e-3
