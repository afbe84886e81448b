"""Figure 3: pictures of scaled contexts on one noise."""

import torch
from dark_miner.darkminer.attacks.gamma import GAMMAS, gamma_curve
from dark_miner.darkminer.attacks.scene import Attempt

from .test_attacks_text import Bright, scene


def test_every_gamma_draws_its_scaled_contexts():
    reports = []
    whole = scene(detector=Bright(), report=reports.append)
    points = gamma_curve(whole, (1.0, 0.0, -0.5))
    assert [p.gamma for p in points] == [1.0, 0.0, -0.5] and GAMMAS[0] == 1.0 and GAMMAS[-1] < 0
    for point in points:
        by_hand = [
            whole.picture(i, Attempt(p, point.gamma * whole.contexts[i]))
            for i, p in enumerate(whole.prompts)
        ]
        assert torch.equal(point.pictures, torch.cat(by_hand))
        assert point.ratio.count == 2
        assert abs(point.score.value - float(point.pictures.mean())) < 1e-6
    assert not torch.equal(points[0].pictures, points[1].pictures)
    assert (reports[-1].step, reports[-1].steps) == (6, 6)
