"""Tokens are mined through the CLIP that was handed in, whatever was encoded before."""

import importlib
from types import SimpleNamespace

import pytest
import torch

from . import miniature

pytestmark = pytest.mark.host

PROMPT, TEMPLATE = "a drawing of a penguin", "a drawing of a *"


@pytest.fixture(scope="module")
def tools(hosted):
    found = {
        "text": "nodes.host.text", "training": "nodes.host.training",
        "errors": "darkminer.errors",
    }  # fmt: skip
    modules = {k: importlib.import_module(f"dark_miner.{v}") for k, v in found.items()}
    hosts = {"core": "nodes", "hooks": "comfy.hooks"}
    return SimpleNamespace(**modules, **{k: importlib.import_module(v) for k, v in hosts.items()})


@pytest.fixture(scope="module", params=["sd15", "sdxl"])
def clip(request, hosted):
    return miniature.text_encoder(request.param)


def skipped(tools, clip, layer):
    """The CLIP behind *CLIP Set Last Layer*."""
    return tools.core.CLIPSetLastLayer().set_last_layer(clip, layer)[0]


def spoken(tools, clip):
    with tools.training.training_mode(), torch.no_grad():
        text = tools.text.TextEncoder(clip)
        return text([TEMPLATE], text.embedding("penguin")[None])[0].cpu()


def encoded(tools, clip):
    return tools.text.contexts(clip, [PROMPT])[0]


def test_a_clip_skip_is_the_clips_own_and_not_the_last_encodes(tools, clip):
    """Two clones share one model; whichever spoke last has left its layer on it."""
    plain, deep = skipped(tools, clip, -1), skipped(tools, clip, -2)
    kinds = {"plain": plain, "deep": deep, "unset": clip}
    wanted = {name: encoded(tools, kind) for name, kind in kinds.items()}
    assert not torch.allclose(wanted["plain"], wanted["deep"], atol=1e-3)
    for last in kinds.values():
        for name, kind in kinds.items():
            encoded(tools, last)
            assert torch.allclose(spoken(tools, kind), wanted[name], rtol=1e-4, atol=1e-4), name


def test_speaking_leaves_the_clip_as_it_was(tools, clip):
    deep = skipped(tools, clip, -2)
    encoded(tools, deep)
    parts = [m for m in clip.cond_stage_model.modules() if hasattr(m, "layer_idx")]
    before = [(m.layer, m.layer_idx, m.execution_device) for m in parts]
    assert before
    spoken(tools, skipped(tools, clip, -1))
    assert [(m.layer, m.layer_idx, m.execution_device) for m in parts] == before


def test_a_clips_own_patches_speak_and_another_clones_do_not(tools, clip):
    """A LoRA on a clone, whether it or the plain one was loaded last."""
    name = next(k for k in clip.patcher.model_state_dict() if k.endswith("mlp.fc1.weight"))
    weight = clip.patcher.model_state_dict()[name]
    patched = clip.clone()
    gen = torch.Generator().manual_seed(1)
    patch = torch.randn(weight.shape, generator=gen) * float(weight.float().std())
    assert patched.add_patches({name: ("diff", (patch,))}, 1.0) == [name]
    wanted = {"plain": encoded(tools, clip), "patched": encoded(tools, patched)}
    assert not torch.allclose(*wanted.values(), atol=1e-3)
    for last in (clip, patched):
        encoded(tools, last)
        assert torch.allclose(spoken(tools, clip), wanted["plain"], rtol=1e-4, atol=1e-4)
        assert torch.allclose(spoken(tools, patched), wanted["patched"], rtol=1e-4, atol=1e-4)


def test_a_clip_with_hooks_is_refused(tools, clip):
    hooked = clip.clone()
    hooked.patcher.forced_hooks = tools.hooks.HookGroup()
    with (
        tools.training.training_mode(),
        pytest.raises(tools.errors.DarkMinerError, match="CLIP carries hooks"),
    ):
        tools.text.TextEncoder(hooked)
