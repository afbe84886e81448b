"""Rubbish in a LoRA is refused wherever one is taken, in a sentence that names the key."""

import pytest
import torch
from dark_miner.darkminer.errors import DarkMinerError
from dark_miner.darkminer.files.lora_check import check_numbers, lora_layers
from dark_miner.darkminer.files.lora_file import LoraDict, combine, for_diffusers, from_state_dict

from .test_lora_file import lora

A, B = "lora_unet_a", "lora_unet_b"
UP, DOWN, ALPHA = (f"{A}.{end}" for end in ("lora_up.weight", "lora_down.weight", "alpha"))
NAMES = {"a": A, "b": B}

NUMBERS = [
    (UP, torch.full((6, 2), float("nan")), f"{UP}' that are not finite"),
    (DOWN, torch.full((2, 4), float("inf")), f"{DOWN}' that are not finite"),
    (ALPHA, torch.tensor(0.0), f"{ALPHA}' 0 where one positive"),
    (ALPHA, torch.tensor(-1.0), f"{ALPHA}' -1 where one positive"),
    (ALPHA, torch.tensor(float("nan")), f"{ALPHA}' nan where one positive"),
    (ALPHA, torch.tensor(float("inf")), f"{ALPHA}' inf where one positive"),
    (ALPHA, torch.ones(3), f"{ALPHA}' 3 numbers where one positive"),
    (ALPHA, torch.ones(0), f"{ALPHA}' 0 numbers where one positive"),
]
LAYERS = [
    (UP, None, f"lacks '{UP}'"),
    (DOWN, None, f"lacks '{DOWN}'"),
    (UP, torch.ones(6, 3), r"up of \[6, 3\] and a down of \[2, 4\], which do not make"),
    (UP, torch.ones(6, 2, 1, 1), "which do not make a linear layer"),
    (DOWN, torch.ones(2, 0), "which do not make a linear layer"),
    ("lora_te_a.lora_up.weight", torch.ones(6, 2), "holds 'lora_te_a.lora_up.weight', which no"),
    (f"{A}.diff", torch.ones(6, 4), f"holds '{A}.diff', which no"),
    (f"{A}.dora_scale", torch.ones(6), f"holds '{A}.dora_scale', which no"),
    (UP, "text", f"holds '{UP}', which no"),
]


def spoilt(key, value):
    tensors = dict(lora(0, 2, 2.0))
    tensors[key] = value
    return LoraDict({k: v for k, v in tensors.items() if v is not None})


WAYS = {
    "read": lora_layers,
    "continue": lambda t: from_state_dict(t, NAMES, [list(NAMES)]),
    "combine first": lambda t: combine([t, lora(1, 2, 2.0)]),
    "combine second": lambda t: combine([lora(1, 2, 2.0), t]),
    "for diffusers": for_diffusers,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("key, value, sentence", NUMBERS + LAYERS)
def test_rubbish_is_refused_wherever_a_lora_is_taken(way, key, value, sentence):
    with pytest.raises(DarkMinerError, match=sentence):
        WAYS[way](spoilt(key, value))


@pytest.mark.parametrize("key, value, sentence", NUMBERS)
def test_numbers_of_a_lora_of_any_make_are_checked(key, value, sentence):
    other = {"lora_te_x.lora_mid.weight": torch.ones(2, 2, 1, 1), f"{A}.diff_b": torch.ones(4)}
    check_numbers(other)
    with pytest.raises(DarkMinerError, match=sentence):
        check_numbers(other | spoilt(key, value))


@pytest.mark.parametrize("nothing", [None, {}, [], "lora", LoraDict({})])
def test_what_is_no_lora_is_refused(nothing):
    with pytest.raises(DarkMinerError, match="^lora_2 is empty: connect"):
        lora_layers(nothing, "lora_2")


def test_a_layer_is_read_as_its_file_says():
    tensors = lora(0, 2, 3.0)
    del tensors[f"{B}.alpha"]
    layers = lora_layers(tensors)
    assert (layers[A].alpha, layers[A].scale) == (3.0, 1.5)
    assert (layers[B].alpha, layers[B].scale, layers[B].rank) == (2.0, 1.0, 2)
    assert torch.equal(layers[A].up, tensors[UP]) and layers[A].up is not tensors[UP]


def test_combining_names_the_input_at_fault():
    with pytest.raises(DarkMinerError, match=f"^lora_3 has values at '{UP}'"):
        combine(
            [lora(1, 2, 2.0), spoilt(UP, torch.full((6, 2), float("nan")))], ["lora_1", "lora_3"]
        )


def test_loras_of_two_kinds_of_model_do_not_combine():
    one, two = lora(0, 2, 2.0), lora(1, 2, 2.0)
    one.metadata["ss_base_model_version"] = "sd_v1"
    combine([one, two])  # a file without the note may be of the same kind
    two.metadata["ss_base_model_version"] = "sdxl_base_v1-0"
    with pytest.raises(DarkMinerError, match="are of 'sd_v1' and 'sdxl_base_v1-0': combine"):
        combine([one, two])
