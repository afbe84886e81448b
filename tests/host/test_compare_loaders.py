"""The compared methods' files in the host's own loaders, as test_families.py has ours."""

from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from .conftest import pack
from .erased import CLOSE, host_tools, load
from .test_compare_nodes import GIVEN
from .test_families import LOADERS

pytestmark = pytest.mark.host

FAST = {"learning_rate": 0.02}  # so that two steps are seen


@pytest.fixture(scope="module")
def tools(hosted):
    return host_tools()


@pytest.fixture(scope="module", params=GIVEN)
def made(request, nodes, sockets, tools, tmp_path_factory):
    """A method's erased MODEL, its LoRA and the LoRA's file, and the original."""
    folder, given = tmp_path_factory.mktemp("compared"), GIVEN[request.param]
    shared = {"model": sockets["MODEL"], "clip": sockets["CLIP"], "pool": sockets["DARKMINER_POOL"]}
    own = given | (FAST if "learning_rate" in given else {})
    erased, lora, *_ = nodes[request.param].execute(**shared, **own).args
    tools.folder_paths.add_model_folder_path("loras", str(folder))
    path = folder / f"{request.param}.safetensors"
    pack("darkminer.files.lora_file").save_lora(path, lora, lora.metadata)
    return SimpleNamespace(model=sockets["MODEL"], erased=erased, lora=lora, path=path)


@pytest.fixture(scope="module")
def sampled(sockets):
    """What the host's sampler makes of a MODEL."""
    import comfy.sample

    noise = torch.randn(1, 8, 8, 8, generator=torch.Generator().manual_seed(1))
    said = pack("nodes.host.text").conditioning(sockets["CLIP"], "a ink drawing of a cat")

    def run(model):
        with torch.inference_mode():
            return comfy.sample.sample(
                model, noise, 2, 1.0, "euler", "normal", said, said, torch.zeros_like(noise),
                disable_pbar=True, seed=0,
            ).clone()  # fmt: skip

    return run


@pytest.mark.parametrize("how", LOADERS)
def test_the_file_is_the_erased_model_in_every_loader(made, sampled, tools, how, caplog):
    loaded = load(tools, made, how, 1.0)
    assert "lora key not loaded" not in caplog.text and "not in model" not in caplog.text
    if how == "bypass":
        assert len(loaded.injections["bypass_lora"]) > 0
    else:
        assert len(loaded.patches) == len(made.lora) // 3
    erased, plain, changed = sampled(made.erased), sampled(made.model), sampled(loaded)
    assert float((erased - plain).abs().max()) > 20 * CLOSE["atol"], "the picture must change"
    assert torch.allclose(changed, erased, **CLOSE)
    assert torch.equal(sampled(load(tools, made, how, 0.0)), plain)
    half, toward = sampled(load(tools, made, how, 0.5)) - plain, changed - plain
    assert 0.05 < float((half * toward).sum() / toward.square().sum()) < 0.95


def test_the_keys_are_kohyas_and_the_file_is_what_the_node_gave(made):
    stems = {key.partition(".")[0] for key in made.lora}
    ends = {key.partition(".")[2] for key in made.lora}
    assert ends == {"lora_up.weight", "lora_down.weight", "alpha"}
    assert all(stem.startswith("lora_unet_") for stem in stems)
    file = load_file(made.path)
    assert file.keys() == made.lora.keys()
    assert all(torch.equal(file[k].float(), made.lora[k].float()) for k in file)


def test_it_adds_up_with_another_lora(made, tools):
    """A weight with both is the original's plus both differences."""
    import comfy.lora
    import comfy.utils

    key = next(iter(made.erased.patches))
    weight = comfy.utils.get_attr(made.model.model, key).detach().float()
    gen = torch.Generator().manual_seed(4)
    path = key.removeprefix("diffusion_model.").removesuffix(".weight")
    stem = f"lora_unet_{path.replace('.', '_')}"
    up = torch.randn(weight.shape[0], 3, generator=gen)
    down = torch.randn(3, weight.flatten(1).shape[1], generator=gen)
    other = {f"{stem}.lora_up.weight": up, f"{stem}.lora_down.weight": down,
             f"{stem}.alpha": torch.tensor(3.0)}  # fmt: skip

    def difference(model):
        return comfy.lora.calculate_weight(model.patches[key], weight.clone(), key) - weight

    both = difference(tools.lora.apply_lora(load(tools, made, "LoraLoader", 1.0), other))
    theirs = (up @ down).reshape(weight.shape)
    assert torch.allclose(both, difference(made.erased) + theirs, atol=1e-4, rtol=1e-3)
