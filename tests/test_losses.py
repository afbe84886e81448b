import torch
from dark_miner.darkminer.method.engine import Targets, join
from dark_miner.darkminer.method.losses import (
    mining_loss,
    preserved_contexts,
    squared_error,
    teacher_target,
)
from dark_miner.darkminer.method.trainer import predict_rows

from . import toy


def test_squared_error_sums_over_channels_and_pixels_and_keeps_samples_apart():
    a = torch.tensor([[[[1.0, 2.0]]], [[[0.0, 0.0]]]])
    b = torch.tensor([[[[0.0, 0.0]]], [[[0.0, 3.0]]]])
    assert squared_error(a, b).tolist() == [5.0, 9.0]


def test_mining_loss_by_hand():
    """Equation 5 with a denoiser that answers its context's first number, everywhere."""

    def denoise(x, timestep, context):
        return context[:, :1, :1, None].expand_as(x)

    schedule = toy.schedule()
    x = torch.full((1, 1, 1, 2), 0.5)
    noise = torch.tensor([[[[1.0, -1.0]]]])
    context = torch.full((1, 1, 1), 0.25)
    loss = mining_loss(denoise, schedule, x, context, noise, torch.tensor([3]))
    assert torch.allclose(loss, torch.tensor([0.75**2 + 1.25**2]))


def test_mining_loss_shows_the_network_the_noisy_latents():
    seen = {}

    def denoise(x, timestep, context):
        seen["x"], seen["t"] = x, timestep
        return torch.zeros_like(x)

    schedule = toy.schedule()
    x, noise = torch.ones(1, 1, 1, 1), torch.full((1, 1, 1, 1), 2.0)
    mining_loss(denoise, schedule, x, torch.zeros(1, 1, 1), noise, torch.tensor([9]))
    sigma = 5.0
    expected = (1.0 + sigma * 2.0) / (1.0 + sigma**2) ** 0.5
    assert torch.allclose(seen["x"], torch.full((1, 1, 1, 1), expected))
    assert seen["t"].tolist() == [9.0]


def test_answers_equal_one_pass_per_row_also_for_contexts_of_unequal_length():
    model = toy.model()
    gen = torch.Generator().manual_seed(1)
    parts = [
        Targets(
            torch.randn(b, toy.CHANNELS, toy.SIDE, toy.SIDE, generator=gen),
            torch.arange(b).float(),
            list(torch.randn(b, length, toy.WIDTH, generator=gen)),
            torch.zeros(b, toy.CHANNELS, toy.SIDE, toy.SIDE),
            torch.full((b,), float(length)),
        )
        for b, length in ((1, 3), (2, 5), (1, 5), (2, 3))
    ]
    rows = join(parts)
    assert len(rows) == 6 and rows.weight.tolist() == [3.0, 5.0, 5.0, 5.0, 3.0, 3.0]
    together = predict_rows(model, rows)
    for i, context in enumerate(rows.contexts):
        alone = model.denoise(rows.noisy[i : i + 1], rows.timestep[i : i + 1], context[None])
        assert torch.allclose(alone[0], together[i], atol=1e-6)


def test_target_past_the_anchor_by_hand():
    anchor, concept = torch.tensor([2.0]), torch.tensor([5.0])
    assert teacher_target(anchor, concept, 0.0).item() == 2.0
    assert teacher_target(anchor, concept, 0.5).item() == 0.5


def test_preserved_contexts_are_zero_and_the_negative():
    zero, negative = preserved_contexts(torch.tensor([[[1.0, -2.0]]]))
    assert zero.abs().max() == 0
    assert negative.tolist() == [[[-1.0, 2.0]]]


def test_parts_of_the_preserving_loss_can_be_left_out():
    context = torch.tensor([[[1.0, -2.0]]])
    (negative,) = preserved_contexts(context, ("c0", "-c"))
    assert torch.equal(negative, -context)
    assert preserved_contexts(context, ("c0",)) == []
