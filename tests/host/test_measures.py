"""The nodes of the paper's figure 3 and table 12."""

import pytest
import torch

from .conftest import pack

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def drawn(hosted):
    """Real drawings of three styles, and the gallery's image encoder."""
    images = {s: pack("demo.gallery").drawings(s, 12, seed=5)[0] for s in ("ink", "noto", "flat")}
    return images, pack("demo.models").load_demo_models()[3]


def test_the_verification_tells_ink_from_noto_and_leaves_flat(nodes, drawn):
    images, vision = drawn
    given = {"concept": images["ink"], "plain": images["noto"], "clip_vision": vision}
    auc, cut, table = nodes["MeasureVerification"].execute(**given, kept=images["flat"]).args
    assert 0.8 < auc < 1 and -1 < cut < 1
    assert f"{auc:.4f} (3168 scores)" in table and "above 0.200 of what must stay" in table
    means = nodes["MeasureVerification"].execute(**given, against="means", threshold="auto").args
    assert means[0] >= auc and f"above {means[1]:.3f} with the concept" in means[2]
    same = {**given, "plain": images["ink"]}
    assert nodes["MeasureVerification"].execute(**same).args[0] < 0.7
    error = pack("darkminer.errors").DarkMinerError
    with pytest.raises(error, match="^MeasureVerification: plain holds 2 pictures: connect 4"):
        nodes["MeasureVerification"].execute(**{**given, "plain": images["noto"][:2]})
    with pytest.raises(error, match="^MeasureVerification: threshold is 'x'"):
        nodes["MeasureVerification"].execute(**given, threshold="x")


def test_scaling_multiplies_every_context_and_leaves_what_comes_with_it(nodes):
    pooled = torch.ones(1, 4)
    first = [torch.randn(1, 3, 4), {"pooled_output": pooled}]
    mined = [torch.randn(2, 3, 4), {"mask": torch.ones(2, 1, 1)}]
    (scaled,) = nodes["ScaleConditioning"].execute(mined=[first, mined], gamma=-0.5).args
    assert torch.equal(scaled[0][0], -0.5 * first[0]) and scaled[0][1]["pooled_output"] is pooled
    assert torch.equal(scaled[1][0], -0.5 * mined[0]) and scaled[1][1]["mask"] is mined[1]["mask"]
    scaled[0][1]["more"] = 1
    assert "more" not in first[1]
