"""The panel's words in other languages: what it can say is in every table, and nothing else."""

import json
import re
from dataclasses import replace
from itertools import product

import pytest
from dark_miner.benchmarks.hosted import ROOT
from dark_miner.darkminer.attacks.catalogue import ATTACKS
from dark_miner.darkminer.attacks.verdict import AttackVerdictConfig
from dark_miner.darkminer.config import FAST, PAPER
from dark_miner.darkminer.method.outcome import Outcome
from dark_miner.darkminer.progress.attack_plans import attack_plan, red_team_plan
from dark_miner.darkminer.progress.course import Course
from dark_miner.darkminer.progress.plan import (
    Part,
    Plan,
    bank_plan,
    erasure_plan,
    pool_plan,
    shown_part,
)
from dark_miner.darkminer.types import StepReport

PANEL = ROOT / "js" / "panel"
LITERAL = re.compile(r"""\bsay\(\s*(?:"([^"]+)"|`([^`]+)`)\s*\)""")
NAME = "van gogh"


def slot():
    """The panel's own pattern of what is no word."""
    (found,) = re.findall(r"^const SLOT = /(.*)/g;$", (PANEL / "words.js").read_text(), re.M)
    return re.compile(found.replace(r"(?<=^|[\s(])", r"(?:(?<=^)|(?<=[\s(]))"))


def key(text):
    """A phrase as it stands in a table."""
    return slot().sub(lambda m: "*" if m[0].startswith('"') else "#", text)


def keys(texts):
    return {key(part) for text in texts for line in text.split("\n") for part in line.split(" · ")}


def plans():
    """Every kind of plan, with all that a run can be asked for."""
    everything = replace(
        FAST, max_rounds=2, repair=replace(FAST.repair, steps=5),
        guard=replace(FAST.guard, max_drift=0.1), verify=replace(FAST.verify, threshold="auto"),
    )  # fmt: skip
    sampling = FAST.sampling
    yield erasure_plan(everything, sampling, keep=2)
    yield erasure_plan(PAPER, sampling)
    yield pool_plan(8, sampling)
    yield Plan((shown_part(2, sampling),))
    yield bank_plan(8, 1, sampling)
    yield attack_plan(AttackVerdictConfig(), sampling, token=True)
    yield red_team_plan({n: a.short for n, a in ATTACKS.items()}, 2, sampling, unrelated=2)


def parts():
    return [part for plan in plans() for part in plan.parts]


def titles():
    return {part.title for part in parts()}


def places():
    """Where in a part a run is, as the panel puts it together."""
    return {f"{part.unit} 1 of 2" for part in parts()}


def without_a_plan():
    """What a board says of a stage that nothing has foreseen."""
    return {part.stage for part in parts()}


def times():
    """Times left of runs of any length, sure of their end or not, with an end or without."""
    for left, sure, endless in product((2, 40, 300, 3600, 6000), (True, False), (False, True)):
        ones = (Part("a", 1, "", "a", 100), Part("b", 1, "", "b", 1e-3, sure=sure))
        plan = Plan(ones, {"": lambda n: (Part("a", n, "", "a", 100),)} if endless else {})
        clock = [0.0, 0.0, float(left)]
        course = Course(plan, lambda clock=clock: clock.pop(0))
        for step in (0, 50):
            course.take(StepReport("a", 1, step, 100))
        yield course.time_left()


def ends():
    """How a run can end."""
    for there, empty, rounds in product((True, False), (True, False), (0, 1, 2)):
        for far, late in ((None, False), (0.2, False), (None, True)):
            yield Outcome(there, 0.3, 0.2, empty, rounds, NAME, late, far).words


def literals():
    """What stands in the panel's own code."""
    for path in PANEL.glob("*.js"):
        for plain, template in LITERAL.findall(path.read_text(encoding="utf-8")):
            text = plain or re.sub(r"\$\{[^}]*\}", "1", template)
            if "||" not in template:  # a unit's place: see places()
                yield text


OTHERS = ("loading the model", "last look", "The server was started anew.")


def wanted():
    texts = [*titles(), *places(), *without_a_plan(), *times(), *ends(), *literals(), *OTHERS]
    return keys(filter(None, texts))


@pytest.mark.parametrize("language", ["zh", "ja"])
def test_a_table_has_all_that_the_panel_can_say(language):
    table = json.loads((PANEL / "languages" / f"{language}.json").read_text(encoding="utf-8"))
    assert sorted(wanted() - set(table)) == [], "missing"
    assert sorted(set(table) - wanted()) == [], "nothing says it"
    for said, phrase in table.items():
        slots = re.findall(r"[#*]", said)
        used = {int(n) for n in re.findall(r"\{(\d)\}", phrase)}
        assert used == set(range(1, len(slots) + 1)), said
        assert not phrase.isascii(), said


def test_numbers_and_names_are_no_words():
    assert key('"ink" is gone (score 0.31, threshold -1.00).') == (
        "* is gone (score #, threshold #)."
    )
    assert key("attack by P4D-N") == "attack by P4D-N"
    assert key("round 1 of 12") == "round # of #"
