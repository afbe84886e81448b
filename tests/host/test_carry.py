"""What hangs on a MODEL: the session predicts what the host's sampler predicts, or says no.

And nothing of a session ever stays in the user's network.
"""

import importlib
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from . import miniature
from .erased import CLOSE, answer, host_tools, hosts_answer, session_on, settings

pytestmark = pytest.mark.host

FAMILY = replace(
    miniature.FAMILIES["sd15"],
    network=miniature.unet(
        channel_mult=[1, 2], num_res_blocks=[1, 1], transformer_depth=[1, 1],
        transformer_depth_output=[1, 1, 1, 1], transformer_depth_middle=1,
    ),
)  # fmt: skip
VALUE = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_v"
BLOCK = "diffusion_model.middle_block"


@pytest.fixture(scope="module")
def tools(hosted):
    return host_tools()


@pytest.fixture(scope="module")
def model(tools, tmp_path_factory):
    file = miniature.checkpoint(FAMILY, tmp_path_factory.mktemp("carry") / "model.safetensors")
    return tools.sd.load_diffusion_model(str(file))


def extra(name):
    return importlib.import_module(f"comfy_extras.{name}")


def numbers(*shape, seed=5, scale=0.3):
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def lora(**more):
    parts = {"lora_up.weight": numbers(320, 2), "lora_down.weight": numbers(2, 768)}
    return {f"{VALUE}.{k}": v for k, v in {**parts, **more}.items()}


def with_lora(model, tensors):
    import comfy.sd

    patched = comfy.sd.load_lora_for_models(model, None, tensors, 1.0, 0)[0]
    assert len(patched.patches) == 1
    return patched


def loha(model):
    names = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
    shapes = ((320, 2), (2, 768), (320, 2), (2, 768))
    pairs = zip(names, shapes, strict=True)
    return with_lora(model, {f"{VALUE}.{n}": numbers(*s, scale=1.0) for n, s in pairs})


def freeu(kind):
    def make(model):
        return getattr(extra("nodes_freelunch"), kind).execute(model, 1.3, 1.4, 0.9, 0.2).args[0]

    return make


def hypernetwork(model):
    """The core's own, from a file, loaded as in a running prompt."""
    import tempfile
    from pathlib import Path

    parts = {"linear.0.weight": numbers(768, 768, scale=0.05), "linear.0.bias": numbers(768)}
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        file = Path(folder) / "hypernetwork.pt"
        torch.save({768: (parts, parts), "activation_func": "linear"}, file)
        patch = extra("nodes_hypernetwork").load_hypernetwork_patch(str(file), 1.0)
        patched = model.clone()
        patched.set_model_attn2_patch(patch)
    return patched


def adapter(model):
    """As IP-Adapter does it: further keys and values, from tensors loaded in inference mode."""
    with torch.inference_mode():
        image, to_k, to_v = numbers(1, 4, 768), numbers(320, 768), numbers(320, 768)

        def attend(q, k, v, options):
            from comfy.ldm.modules.attention import optimized_attention

            if q.shape[-1] != 320:
                return optimized_attention(q, k, v, options["n_heads"])
            if float(options["sigmas"][0]) > 12 or options["cond_or_uncond"] != [0]:
                return optimized_attention(q, k, v, options["n_heads"])
            tokens = image.expand(len(q), -1, -1)
            more = optimized_attention(q, tokens @ to_k.T, tokens @ to_v.T, options["n_heads"])
            return optimized_attention(q, k, v, options["n_heads"]) + more

        patched = model.clone()
        patched.set_model_attn2_replace(attend, "input", 1)
    return patched


def network_wrapper(model):
    from comfy.patcher_extension import WrappersMP

    def louder(executor, *args, **kwargs):
        return executor(*args, **kwargs) * 1.5

    patched = model.clone()
    patched.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "louder", louder)
    return patched


def shift(model):
    node = extra("nodes_model_advanced").ModelSamplingDiscrete()
    return node.patch(model, "v_prediction", True)[0]


def precision(model):
    return extra("nodes_model_advanced").ModelComputeDtype().patch(model, "bf16")[0]


def plain_value(model):
    patched = model.clone()
    patched.add_object_patch("diffusion_model.dropout", 0.25)
    return patched


def guidance(model):
    return extra("nodes_model_advanced").RescaleCFG().patch(model, 0.7)[0]


def attachments(model):
    patched = model.clone()
    patched.set_attachments("note", {"a": 1})
    return patched


CARRIED = {
    "lora": lambda m: with_lora(m, lora()),
    "dora": lambda m: with_lora(m, lora(dora_scale=numbers(320, 1).abs() + 1)),
    "loha": loha,
    "freeu": freeu("FreeU"),
    "freeu_v2": freeu("FreeU_V2"),
    "hypernetwork": hypernetwork,
    "adapter": adapter,
    "network_wrapper": network_wrapper,
    "shift": shift,
    "precision": precision,
    "plain_value": plain_value,
    "guidance": guidance,
    "attachments": attachments,
}
SAME = {"plain_value", "guidance", "attachments"}  # predict as without


def state_of(network):
    """Everything there is to a network: modules, what hangs on them, tensors and their values."""
    found = {}
    for path, module in network.named_modules():
        found[path] = (id(module), type(module), sorted(vars(module)))
        found[path, "forward"] = getattr(vars(module).get("forward"), "__func__", None)
        for name, value in vars(module).items():
            if name.endswith("hooks") or name in ("_modules", "_parameters", "_buffers"):
                found[path, name] = [(key, id(each)) for key, each in value.items()]
            elif not isinstance(value, (dict, list)):
                found[path, name] = id(value)
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        numbers = tensor.detach().double()
        found[name] = (id(tensor), tensor.data_ptr(), tensor.dtype, tensor.requires_grad)
        found[name, "values"] = (float(numbers.sum()), float(numbers.square().sum()))
        found[name, "grad"] = tensor.grad
    return found


def train(tools, model, stop=None):
    """A session with adapters, a step of training, a picture."""
    vae = miniature.autoencoder(FAMILY)
    with session_on(tools, model, FAMILY, vae=vae) as session:
        context, anchor = (miniature.prompt(FAMILY, n)[0][0] for n in (1, 7))
        pool = tools.image_pool.build_pool(
            session, context, size=2, seed=0, concept="c", prompt="a c photo"
        )
        adapters = tools.loop.new_adapters(session, settings(tools).lora, seed=0)
        found = tools.types.EmbeddingPool(concept="c").opened(
            [tools.types.MinedEmbedding(context[0], 1)]
        )
        if stop is not None:
            raise stop
        tools.circumvent.circumvent(
            session, adapters, found, anchor, settings(tools).circumvent, seed=0
        )
        assert any(float(up.abs().max()) > 0 for up in adapters.state().up.values())
        return pool


@pytest.mark.parametrize("kind", CARRIED)
def test_the_session_predicts_what_the_hosts_sampler_predicts(tools, model, kind):
    carrying = CARRIED[kind](model)
    with session_on(tools, carrying, FAMILY) as session:
        ours = answer(session, FAMILY)
    theirs = hosts_answer(tools, carrying, FAMILY)
    plain = hosts_answer(tools, model, FAMILY)
    if kind == "precision":  # a session on a CPU computes in float32 whatever the host infers in
        assert torch.allclose(ours, plain, **CLOSE)
        assert (ours - theirs).norm() < 0.02 * theirs.norm()
    else:
        assert torch.allclose(ours, theirs, **CLOSE)
        assert torch.allclose(theirs, plain, **CLOSE) == (kind in SAME)


@pytest.mark.parametrize("kind", CARRIED)
def test_nothing_stays_in_the_network_after_success_error_and_cancel(tools, model, kind):
    import comfy.model_management as management

    carrying = CARRIED[kind](model)
    before = state_of(model.model)
    train(tools, carrying)
    assert state_of(model.model) == before
    for stop in (RuntimeError("in the middle"), management.InterruptProcessingException()):
        with pytest.raises(type(stop)):
            train(tools, carrying, stop)
        assert state_of(model.model) == before


def test_a_plain_value_is_set_on_the_copy_alone(tools, model):
    with session_on(tools, plain_value(model), FAMILY) as session:
        assert session.network.dropout == 0.25
    with session_on(tools, model, FAMILY) as session:
        assert session.network.dropout == 0 == model.model.diffusion_model.dropout


def test_guidance_functions_act_in_the_pictures(tools, model):
    """The host's own picture of the MODEL with Rescale CFG, guided by an empty prompt."""
    import comfy.sample

    carrying, empty = guidance(model), miniature.prompt(FAMILY, 2)
    noise, anchor = numbers(1, 4, 8, 8, scale=1.0), miniature.prompt(FAMILY, 7)
    how = tools.config.SamplingConfig(4, 6.0, "euler", "normal", 1)

    def ours(model):
        with tools.session.training_session(
            model, anchor=anchor, negative=empty, sampling=how, latent_size=(8, 8)
        ) as session:
            return session.sample(anchor[0][0], noise)

    host = comfy.sample.sample(
        carrying, noise, 4, 6.0, "euler", "normal", anchor, empty, torch.zeros_like(noise),
        disable_pbar=True, seed=0,
    )  # fmt: skip
    host = model.model.process_latent_in(host)
    assert torch.allclose(ours(carrying), host, rtol=1e-2, atol=1e-2)
    assert not torch.allclose(ours(model), host, rtol=1e-2, atol=1e-2)


def bypass(model):
    import comfy.sd

    return comfy.sd.load_bypass_lora_for_models(model, None, lora(), 1.0, 0)[0]


def own_block(model):
    """As compiling and caching nodes do: a layer replaced by something that holds it."""

    class Holding(nn.Sequential):
        pass

    patched = model.clone()
    patched.add_object_patch(BLOCK, Holding(model.model.diffusion_model.middle_block))
    return patched


def layer_function(model):
    patched = model.clone()
    patched.add_object_patch(BLOCK + ".forward", lambda *args: args[0])
    return patched


def function_wrapper(model):
    patched = model.clone()
    patched.set_model_unet_function_wrapper(lambda apply, given: apply(given["input"]))
    return patched


def compiled(model):
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    patched = model.clone()
    set_torch_compile_wrapper(patched, backend="eager")
    return patched


def callback(model):
    from comfy.patcher_extension import CallbacksMP

    patched = model.clone()
    patched.add_callback_with_key(CallbacksMP.ON_PRE_RUN, "prepare", lambda patcher: None)
    return patched


def weight_wrapper(model):
    patched = model.clone()
    patched.add_weight_wrapper(VALUE + ".weight", lambda weight: weight)
    return patched


def hooked(model):
    import comfy.hooks

    patched, hook = model.clone(), comfy.hooks.WeightHook(1.0, 0.0)
    patched.add_hook_patches(hook, {VALUE + ".weight": (numbers(320, 768),)})
    return patched


def attended(function):
    def make(model):
        patched = model.clone()
        patched.set_model_attn2_output_patch(function)
        return patched

    return make


DRAWS = torch.Generator().manual_seed(0)
REFUSED = {
    "bypass": (bypass, "a LoRA in bypass mode.*Load LoRA, without bypass"),
    "own_block": (own_block, BLOCK),
    "layer_function": (layer_function, "middle_block.forward"),
    "function_wrapper": (function_wrapper, "model_function_wrapper"),
    "compiled": (compiled, "torch.compile"),
    "callback": (callback, "prepare"),
    "weight_wrapper": (weight_wrapper, "weight wrappers"),
    "hooked": (hooked, "hook LoRAs"),
    "detached": (attended(lambda out, options: out.detach()), "attn2_output_patch.*gradient"),
    "failing": (attended(lambda out, options: options["no such thing"]), "attn2_output_patch"),
    "random": (
        attended(lambda out, options: out + torch.randn(out.shape, generator=DRAWS)),
        "attn2_output_patch.*otherwise each time",
    ),
    "otherwise": (
        attended(lambda out, options: out * (2 if out.requires_grad else 1)),
        "attn2_output_patch.*otherwise where gradients",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_carried_is_refused_by_name_and_leaves_nothing(tools, model, kind):
    make, words = REFUSED[kind]
    carrying = make(model)
    before = state_of(model.model)
    with pytest.raises(tools.image_pool.DarkMinerError, match=words) as refused:
        train(tools, carrying)
    assert "connect the MODEL" in str(refused.value) or "Load LoRA" in str(refused.value)
    assert state_of(model.model) == before


@pytest.mark.parametrize("kind", ["bypass", "own_block", "layer_function", "shift", "lora"])
def test_a_clone_that_is_loaded_lends_nothing_to_the_plain_model(tools, model, kind):
    """Host state at a chance moment: the clone's things lie on the network they share."""
    import comfy.model_management as management

    management.unload_all_models()
    with session_on(tools, model, FAMILY) as session:
        alone = answer(session, FAMILY)
    clone = {**CARRIED, **{k: make for k, (make, _) in REFUSED.items()}}[kind](model)
    management.load_models_gpu([clone])
    with session_on(tools, model, FAMILY) as session:
        assert torch.equal(answer(session, FAMILY), alone)
    management.unload_all_models()


def test_a_function_that_somebody_left_on_the_network_is_refused(tools, model):
    block = model.model.diffusion_model.middle_block
    handle = block.register_forward_hook(lambda module, given, made: made)
    try:
        with pytest.raises(tools.image_pool.DarkMinerError, match="middle_block"):
            train(tools, model)
    finally:
        handle.remove()
    train(tools, model)


def test_a_lora_on_packed_weights_is_refused_by_name(tools, model):
    import comfy.utils

    layer = comfy.utils.get_attr(model.model, VALUE)
    whole = layer.weight
    patched = with_lora(model, lora())
    try:
        layer.weight = nn.Parameter(torch.zeros(320, 432, dtype=torch.uint8), requires_grad=False)
        with pytest.raises(tools.image_pool.DarkMinerError, match="packed.*Load LoRA|LoRA.*packed"):
            train(tools, patched)
    finally:
        layer.weight = whole


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("control", object(), "ControlNet"),
        ("hooks", object(), "hook"),
        ("gligen", object(), "GLIGEN"),
        ("mask", torch.ones(1, 8, 8), "mask"),
        ("area", (8, 8, 0, 0), "area"),
        ("start_percent", 0.2, "range of steps"),
    ],
)
@pytest.mark.parametrize("field", ["anchor", "negative"])
def test_what_a_prompt_carries_besides_its_text_is_refused(tools, model, key, value, words, field):
    prompts = {"anchor": miniature.prompt(FAMILY, 7), "negative": miniature.prompt(FAMILY, 2)}
    context, more = prompts[field][0]
    prompts[field] = [[context, {**more, key: value}]]
    with (
        pytest.raises(tools.image_pool.DarkMinerError, match=f"{field} carries .*{words}"),
        tools.session.training_session(
            model, sampling=tools.config.SamplingConfig(2), latent_size=(8, 8), **prompts
        ),
    ):
        raise AssertionError("the session has begun")


def test_a_text_encoder_with_a_lora_in_bypass_mode_is_refused(tools):
    from dark_miner.demo.models import load_demo_models
    from dark_miner.nodes.host.text import TextEncoder
    from dark_miner.nodes.host.training import training_mode

    clip = load_demo_models()[1].clone()
    hook = SimpleNamespace(inject=lambda patcher: None, eject=lambda patcher: None)
    clip.patcher.set_injections("bypass_lora", [hook])
    with (
        pytest.raises(tools.image_pool.DarkMinerError, match="CLIP carries a LoRA in bypass mode"),
        training_mode(),
    ):
        TextEncoder(clip)
