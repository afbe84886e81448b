"""Every template runs to its end on a real server, on stand-ins for the files it asks for.

The wiring is the template's; values are few and small. By default each runs once, in UI format;
``pytest -m templates`` runs both formats with a CLIP_VISION and with open_clip.
"""

import importlib
import io
import itertools
import json
import os
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from . import standins
from .conftest import ROOT, Running, script
from .frontend import to_api, with_values
from .miniature import FAMILIES

pytestmark = pytest.mark.host

WORKFLOWS = ROOT / "workflows"
FEW = {
    "size": 3, "pictures": 1, "width": 32, "height": 32, "sampling_steps": 2, "steps": 2,
    "max_rounds": 1, "mine_steps": 2, "count": 1, "length": 5, "words": 2, "draws": 1,
    "circumvent_steps": 2, "chase_steps": 2, "bank_size": 3, "threshold": "-1",
    "run_folder": "off",
}  # fmt: skip
AT_ONCE = {"batch_size": 64}  # of the pictures that our nodes make; the host's own stay one
PAPER = {
    "preset": "paper", "layers": "blocks", "sampling_steps": 1, "chase_steps": 0, "bank_size": 0,
}  # fmt: skip
"""For SDXL in UI format, so that the default run stays short: ``fast`` takes 8 GB there."""
ENCODERS = ("open_clip", "clip_vision")
FORMS = ("ui", "api")
NAMES = sorted(path.stem for path in WORKFLOWS.glob("*.json"))
ERASURE = "erase_van_gogh_00001_.safetensors"
STYLE = [name for name in NAMES if name.startswith("erase_style")]
OTHERS = [name for name in NAMES if name not in STYLE]
DEFAULT = {  # the demo's own run in test_workflows.py, in API format
    ("erase_style", "ui", "open_clip"), ("erase_style_as_graph", "ui", "clip_vision"),
    ("erase_style_flux", "ui", "open_clip"), ("erase_style_sdxl", "ui", "clip_vision"),
    ("use_erasure", "ui", "its own"), ("bake_erasure", "ui", "its own"),
}  # fmt: skip


def cases(names, encoders):
    """Every template in every way, marked with whether it runs unasked."""
    for case in itertools.product(names, FORMS, encoders):
        mark = pytest.mark.templates(by_default=case in DEFAULT)
        yield pytest.param(*case, marks=mark, id="-".join(case))


@pytest.fixture(scope="module")
def server(hosted, tmp_path_factory):
    module, base = script("comfy_server"), tmp_path_factory.mktemp("templates")
    module.prepare_base(base, ROOT)
    host = standins.host_of_few_layers(Path(os.environ["COMFYUI_PATH"]), base / "host")
    with (
        standins.placed(base / "models"),
        module.Server(host, sys.executable, base, base / "output", cpu=True) as server,
    ):
        running = Running(server.address, base / "output")
        running.definitions = running.ask(lambda client: client.object_info())
        running.log, running.models = server.log, base / "models"
        yield running


def template(server, name, form):
    """What is queued for a template in one of its two formats, with few and small values."""
    path = WORKFLOWS / ("api" if form == "api" else "") / f"{name}.json"
    prompt = json.loads(path.read_text("utf-8"))
    if form == "ui":
        prompt = to_api(prompt, server.definitions)
    paper = PAPER if (name, form) == ("erase_style_sdxl", "ui") else {}
    return with_values(with_values(prompt, {**FEW, **paper}), AT_ONCE, left_out="Empty")


def with_encoder(prompt, encoder, models):
    """The prompt with the image encoder of the verification: a connected one, or open_clip's."""
    weights = str(models / "clip_vision" / standins.OPEN_CLIP_FILE)
    values = {"open_clip_model": standins.OPEN_CLIP, "open_clip_weights": weights}
    prompt = with_values(prompt, values)
    if encoder == "clip_vision":
        loader = {"class_type": "CLIPVisionLoader", "inputs": {"clip_name": standins.VISION}}
        for node in prompt.values():
            if "open_clip_model" in node["inputs"]:
                node["inputs"]["clip_vision"] = ["vision", 0]
        prompt = {**prompt, "vision": loader}
    return prompt


def finished(server, prompt):
    """Run a prompt: its outputs by node id, after a look at what was run and what was drawn."""
    ran = set()

    def watch(kind, data):
        ran.update(data["nodes"] if kind == "execution_cached" else [data.get("node")])

    async def run(client):
        outputs = await client.run(prompt, watch)
        entries = [e for o in outputs.values() for e in o.get("images", ())]
        return outputs, [await client.picture(entry) for entry in entries]

    outputs, pictures = server.ask(run)
    assert set(prompt) <= ran, "a node of the template never ran"
    previews = {i for i, node in prompt.items() if node["class_type"] == "PreviewImage"}
    assert previews and previews <= set(outputs)
    for data in pictures:
        low, high = Image.open(io.BytesIO(data)).convert("L").getextrema()
        assert low < high, "a picture of one colour: what was drawn is no number"
    log = server.log.read_text(errors="replace")
    assert "lora key not loaded" not in log and "clip missing" not in log
    return outputs


def saved_lora(server, prompt, outputs):
    """The tensors of the one LoRA file that a run has saved."""
    (saver,) = (i for i, node in prompt.items() if node["class_type"] == "SaveErasureLoRA")
    (name,) = outputs[saver]["text"]
    return load_file(server.output / name)


@pytest.mark.parametrize("name, form, encoder", cases(STYLE, ENCODERS))
def test_an_erasing_template_runs_to_its_end(server, name, form, encoder):
    prompt = with_encoder(template(server, name, form), encoder, server.models)
    lora = saved_lora(server, prompt, finished(server, prompt))
    ups = [t for key, t in lora.items() if key.endswith("lora_up.weight")]
    family = {"erase_style_sdxl": "sdxl", "erase_style_flux": "flux_dev"}.get(name, "sd15")
    assert len(ups) == FAMILIES[family].adapted and all(up.any() for up in ups)
    assert all(torch.isfinite(t).all() for t in lora.values())


@pytest.fixture(scope="module")
def erasure(server):
    """The file that erase_style leaves, by the name under which use_erasure asks for it."""
    if not (server.output / "loras" / ERASURE).is_file():
        prompt = with_encoder(template(server, "erase_style", "api"), "open_clip", server.models)
        finished(server, prompt)
    assert (server.output / "loras" / ERASURE).is_file()


@pytest.mark.usefixtures("erasure")
@pytest.mark.parametrize("name, form, encoder", cases(OTHERS, ["its own"]))
def test_a_template_without_an_open_choice_of_encoder_runs_to_its_end(server, name, form, encoder):
    finished(server, template(server, name, form))


@pytest.mark.usefixtures("erasure")
def test_a_baked_checkpoint_draws_what_its_lora_draws(server):
    prompt = template(server, "bake_erasure", "api")
    server.run(prompt)
    (baked,) = sorted((server.output / "checkpoints").glob("erased_*.safetensors"))[-1:]
    (server.models / "checkpoints" / "baked.safetensors").symlink_to(baked)
    again = {i: prompt[i] for i in ("1", "4", "5", "6", "7", "8", "9")}
    loader = {"ckpt_name": "baked.safetensors"}
    again["1"] = {**prompt["1"], "inputs": loader}
    before, after = drawn(server, prompt, "9"), drawn(server, prompt, "12")
    assert before != after and drawn(server, again, "9") == after


def drawn(server, prompt, node):
    """The pixels that a preview shows, of pictures drawn anew."""
    outputs = server.run(prompt)
    (entry,) = outputs[node]["images"]
    data = server.ask(lambda client: client.picture(entry))
    return Image.open(io.BytesIO(data)).tobytes()


@pytest.mark.parametrize("file, family, width", [(standins.SD15, "sd15", 768),
                                                 (standins.SDXL, "sdxl", 2048)])  # fmt: skip
def test_a_stand_in_is_shaped_like_what_it_stands_for(server, caplog, file, family, width):
    """The host finds the family, every weight in its place, prompts of 77 tokens, the real VAE."""
    sd = importlib.import_module("comfy.sd")
    sizes = {f"clip_{n}_model_config": standins.CONFIGS[n][1] for n in ("l", "g")}
    path = str(server.models / "checkpoints" / file)
    model, clip, vae, _ = sd.load_checkpoint_guess_config(path, te_model_options=sizes)
    assert type(model.model.model_config).__name__ == FAMILIES[family].config
    assert not [r for r in caplog.records if "missing" in r.getMessage()]
    for text in ("", "a van gogh painting of a village at night"):
        ((context, extra),) = clip.encode_from_tokens_scheduled(clip.tokenize(text))
        assert context.shape == (1, 77, width) and torch.isfinite(context).all()
    assert extra["pooled_output"].shape[-1] == (FAMILIES[family].pooled or 768)
    kinds = importlib.import_module("comfy.ldm.models.autoencoder")
    assert isinstance(vae.first_stage_model, kinds.AutoencoderKL)
    assert (vae.latent_channels, vae.downscale_ratio) == (4, 8)
