"""The report card's node: three files of one name, a picture that is readable, one sentence."""

import json
from dataclasses import replace

import pytest
import torch
from PIL import Image

from .conftest import examined, pack

pytestmark = pytest.mark.host


@pytest.fixture
def output(hosted, tmp_path):
    import folder_paths

    before = folder_paths.get_output_directory()
    folder_paths.set_output_directory(str(tmp_path))
    yield tmp_path
    folder_paths.set_output_directory(before)


def save(nodes, **changes):
    given = {"after": examined(), "filename_prefix": "report/card_%concept%", "pictures": 4}
    return nodes["SaveReportCard"].execute(**{**given, **changes})


def test_page_picture_and_record_lie_side_by_side(nodes, output):
    done = save(nodes, before=examined())
    page, picture, record = done.args
    assert done.ui == {"text": ["report/card_ink_00001_.html"]}
    assert sorted(p.suffix for p in (output / "report").iterdir()) == [".html", ".json", ".png"]
    assert page == str(output / "report" / "card_ink_00001_.html")
    assert (output / "report" / "card_ink_00001_.json").read_text("utf-8") == record
    assert list(json.loads(record)["models"]) == ["before", "after"]
    with Image.open(output / "report" / "card_ink_00001_.png") as file:
        assert file.size == (picture.shape[2], picture.shape[1]) == (1600, picture.shape[1])
    assert save(nodes).ui["text"] == ["report/card_ink_00002_.html"]


def findings(attacks, concept="ink", side=32, count=2):
    """Findings of so many attacks with long names."""
    base = examined()
    row = base.found.rows["words"]
    pictures = torch.rand(count, side, side, 3)
    sight = pack("darkminer.judge.detectors").Sight(torch.rand(count), torch.arange(count) % 2 == 0)
    attempts = [replace(row.attempts[0], prompt=concept)] * count
    names = ["words", *list(pack("darkminer.attacks.catalogue").ATTACKS)[:attacks]]
    rows = {
        n: replace(row, title=f"{n} " * 6, attempts=attempts, pictures=pictures, sight=sight)
        for n in names
    }
    return replace(
        base,
        found=replace(base.found, rows=rows),
        protocol=replace(base.protocol, concept=concept, prompts=base.protocol.prompts[:1] * count),
    )


@pytest.mark.parametrize(
    "given, pictures, columns",
    [
        ({"attacks": 0}, 4, 1), ({"attacks": 7}, 4, 3), ({"attacks": 7}, 0, 2),
        ({"attacks": 1, "side": 1}, 1, 1), ({"attacks": 1, "side": 700}, 64, 2),
        ({"attacks": 2, "concept": "x" * 300}, 4, 2), ({"attacks": 2, "count": 1}, 4, 3),
        ({"attacks": 2, "concept": "梵高 🎨 Dalí \ud800 <b>"}, 4, 2),
    ],
)  # fmt: skip
def test_every_card_has_a_picture_of_one_width(hosted, given, pictures, columns):
    one = findings(**given)
    card = pack("darkminer.card.card").card_of(one, *[one] * (columns - 1), pictures=pictures)
    made = pack("nodes.attack.card_picture").card_picture(card)
    assert made.shape[0] == 1 and made.shape[2:] == (1600, 3) and 500 < made.shape[1] < 5000
    for edge in (made[0, :4], made[0, -4:], made[0, :, :4], made[0, :, -4:]):
        assert bool((edge == 1).all()), "nothing reaches the page's edge"


def test_what_does_not_belong_together_is_one_sentence(nodes, output):
    other = examined()
    other = replace(other, protocol=replace(other.protocol, seed=7))
    error = pack("darkminer.errors").DarkMinerError
    with pytest.raises(error, match="^SaveReportCard: before was run with another seed than after"):
        save(nodes, before=other)
    with pytest.raises(error, match="^SaveReportCard: filename_prefix '../out' has a part"):
        save(nodes, filename_prefix="../out")
    assert not list(output.rglob("*.html"))


def test_the_picture_has_a_row_for_each_strength(nodes, output):
    """Bars of four strengths and a line on drift; nothing of it where none was measured."""
    effects, judge = pack("darkminer.attacks.effects"), pack("darkminer.judge.evaluate")

    def with_hits(*hits):
        points = tuple(
            effects.Point(s, judge.Mean(0.5, 0.2, 0.8), judge.Proportion(h, 4))
            for s, h in zip(effects.STRENGTHS, hits, strict=True)
        )
        return replace(examined(), effects=effects.Effects(points, effects.Drift(0.03, ("a", "b"))))

    plain = save(nodes).args[1]
    one, other = (save(nodes, after=with_hits(*hits)).args[1] for hits in ((4, 3, 2, 1), (0,) * 4))
    assert one.shape == other.shape and one.shape[1] > plain.shape[1] and one.shape[2] == 1600
    blue = torch.tensor([0x6F, 0x9B, 0xD8]) / 255
    bars = [int(torch.isclose(p, blue, atol=1e-3).all(-1).sum()) for p in (other, one)]
    unit = (bars[1] - bars[0]) / (4 + 3 + 2 + 1)
    assert unit > 1000 and bars[0] < bars[1]
