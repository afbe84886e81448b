"""What names a MODEL, and pools that are refused or taken for it."""

from dataclasses import replace

import pytest
import torch

from . import miniature
from .erased import host_tools, session_on
from .miniature import FAMILIES

pytestmark = pytest.mark.host

KINDS = ("sd15", "ssd_1b")


@pytest.fixture(scope="module")
def tools(hosted):
    return host_tools()


@pytest.fixture(scope="module")
def models(tools, tmp_path_factory):
    """MODELs of two families with as many latent channels."""
    folder = tmp_path_factory.mktemp("two")
    files = {n: miniature.checkpoint(FAMILIES[n], folder / f"{n}.safetensors") for n in KINDS}
    return {n: tools.sd.load_diffusion_model(str(file)) for n, file in files.items()}


def lora(scale, name="lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_v"):
    gen = torch.Generator().manual_seed(3)
    return {
        f"{name}.lora_up.weight": scale * torch.randn(320, 2, generator=gen),
        f"{name}.lora_down.weight": torch.randn(2, 768, generator=gen),
        f"{name}.alpha": torch.tensor(2.0),
    }


def test_patches_are_in_the_fingerprint_and_the_plain_models_part_stays(tools, models):
    from dark_miner.nodes.host.fingerprint import fingerprint

    model = models["sd15"]
    plain = fingerprint(model)
    assert len(plain) == 12 and int(plain, 16) >= 0
    one, same, other = (tools.lora.apply_lora(model, lora(scale)) for scale in (1.0, 1.0, 2.0))
    assert len(one.patches) == 1
    named = fingerprint(one)
    assert named.partition("+")[0] == plain and len(named) == 25
    assert fingerprint(same) == named != fingerprint(other)
    half = tools.lora.apply_lora(model, lora(1.0), strength=0.5)
    assert fingerprint(half) not in (named, plain)
    assert fingerprint(tools.lora.apply_lora(one, lora(1.0))) not in (named, plain)
    assert fingerprint(model) == plain != fingerprint(models["ssd_1b"])


def test_the_fingerprint_does_not_depend_on_what_is_loaded(tools, models):
    import comfy.model_management as management
    from dark_miner.nodes.host.fingerprint import fingerprint

    model = models["sd15"]
    patched = tools.lora.apply_lora(model, lora(1.0))
    before = fingerprint(model), fingerprint(patched)
    management.load_models_gpu([patched])
    assert (fingerprint(model), fingerprint(patched)) == before
    management.unload_all_models()


def made_by(tools, model, family):
    with session_on(tools, model, family, vae=miniature.autoencoder(family)) as session:
        context = miniature.prompt(family, 1)[0][0]
        return tools.image_pool.build_pool(
            session, context, size=2, seed=0, concept="c", prompt="a c photo"
        )


def on(tools, model, family, pool):
    return tools.stages.stage(
        model, node="MineEmbedding", anchor=miniature.prompt(family, 7), pool=pool,
        sampling=tools.config.SamplingConfig(2, 1.0, "euler", "normal", 2),
        config=tools.config.FAST.lora, seed=0,
    )  # fmt: skip


def test_a_pool_of_another_family_is_refused_though_its_latents_have_the_same_shape(tools, models):
    pool = made_by(tools, models["sd15"], FAMILIES["sd15"])
    family = FAMILIES["ssd_1b"]
    with (
        pytest.raises(tools.image_pool.DarkMinerError, match="MineEmbedding: The pool is of an"),
        on(tools, models["ssd_1b"], family, pool),
    ):
        raise AssertionError("the session has begun")
    own = replace(pool, prompt="")
    with (
        pytest.raises(tools.image_pool.DarkMinerError, match="SD15 latents.*SDXL latents"),
        on(tools, models["ssd_1b"], family, own),
    ):
        raise AssertionError("the session has begun")


def test_an_erased_model_takes_pools_of_its_own_and_of_the_original(tools, models):
    family, model = FAMILIES["sd15"], models["sd15"]
    erased = tools.lora.apply_lora(model, lora(1.0))
    for maker, trained in [(model, erased), (erased, erased), (erased, model)]:
        with on(tools, trained, family, made_by(tools, maker, family)) as (session, _):
            assert "+" in session.fingerprint or trained is model


def test_what_else_is_on_a_model_has_a_name_that_tells_its_values_apart(tools, models):
    import node_helpers  # noqa: F401  (the host's own nodes import it)
    from comfy_extras.nodes_freelunch import FreeU
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete
    from dark_miner.nodes.host.fingerprint import options_fingerprint

    model = models["sd15"]
    assert options_fingerprint(model) == options_fingerprint(model.clone()) == ""

    def free(b1):
        made = FreeU.execute(model, b1, 1.2, 0.9, 0.2)
        return options_fingerprint(made.args[0] if hasattr(made, "args") else made[0])

    assert len(free(1.1)) == 12 and free(1.1) == free(1.1) != free(1.3)

    def sampled(kind):
        return options_fingerprint(ModelSamplingDiscrete().patch(model, kind, False)[0])

    assert sampled("eps") == sampled("eps") != sampled("v_prediction") != free(1.1)


def test_text_encoders_and_autoencoders_have_names(hosted):
    from dark_miner.demo.models import load_demo_models
    from dark_miner.nodes.host.fingerprint import text_fingerprint, vae_fingerprint

    _, clip, vae, _ = load_demo_models()
    skipped = clip.clone()
    skipped.clip_layer(-2)
    assert text_fingerprint(clip) == text_fingerprint(clip.clone()) != text_fingerprint(skipped)
    before = text_fingerprint(clip), vae_fingerprint(vae)
    with torch.no_grad():
        next(vae.patcher.model.parameters()).add_(1.0)
    assert text_fingerprint(clip) == before[0] and vae_fingerprint(vae) != before[1]
