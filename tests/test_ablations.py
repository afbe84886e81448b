"""The paper's tables on the gallery: each varies one thing, and the paper's own value is a row."""

from dataclasses import asdict

import pytest
from dark_miner.benchmarks.ablations import TITLES, base, cases
from dark_miner.benchmarks.erasure import Given
from dark_miner.darkminer.config import PAPER


def differences(one, other):
    """Paths of the settings that differ."""
    flat = []
    for key, value in one.items():
        if isinstance(value, dict):
            flat += [f"{key}.{d}" for d in differences(value, other[key])]
        elif value != other[key]:
            flat.append(key)
    return flat


@pytest.mark.parametrize("name", TITLES)
def test_a_table_varies_one_thing(name):
    varied = {
        *(d for c in cases(name, 5) for d in differences(asdict(c.config), asdict(base(5)))),
        *(d for c in cases(name, 5) for d in differences(asdict(c.given), asdict(Given()))),
    }
    assert [v.rpartition(".")[2] for v in varied] == [name]


@pytest.mark.parametrize("name", TITLES)
def test_rows_differ_and_the_papers_own_is_among_them(name):
    rows = cases(name, 5)
    assert len({(c.config, c.given) for c in rows}) == len(rows)
    given = {Given(), Given(pool_seed=0)}
    assert any(c.config == base(5) and c.given in given for c in rows)


def test_only_the_optimiser_is_not_the_papers():
    changed = differences(asdict(base(PAPER.max_rounds)), asdict(PAPER))
    settings = {"optimizer", "steps", "batch", "lr", "lr_late", "lr_drop"}
    assert {c.rpartition(".")[2] for c in changed} <= settings
