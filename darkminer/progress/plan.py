"""What a run will do, part by part, and what each part costs, before anything is done.

Costs are rows that pass the network: a picture costs as many as its sampling takes, a row with
gradients counts three times. They only have to be right in proportion, and what a run has measured
of itself takes their place (:mod:`.course`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..config import EraseConfig
from ..method.chase import ChaseConfig
from ..method.circumvent import CircumventConfig
from ..method.guard import GuardConfig
from ..method.mine import MineConfig
from ..method.repair import RepairConfig
from ..method.retain import RetainConfig
from ..method.shown import EACH
from ..method.shown import STAGE as SHOWN
from ..method.verify import CALIBRATION_PICTURES, VerifyConfig, reference_pictures
from ..model.sampling import SamplingConfig
from ..types import StepReport

TRAINED = 3.0  # a row with gradients, in rows without
_PROMPT = 0.5  # a prompt through the text encoder
_TEMPLATES = 3  # of the text start, besides those with a word


@dataclass(frozen=True)
class Part:
    """A stretch of a run that counts steps of its own.

    Attributes:
        stage, round, part: as its reports have them (:class:`~..types.StepReport`).
        title: what it is called before a person.
        cost: in rows through the network, at a guess.
        unit: what its steps are.
        about: whose it is, where one run does several things one after the other.
        sure: whether it will come; False where a verdict may end the run before.
    """

    stage: str
    round: int
    part: str
    title: str
    cost: float
    unit: str = "step"
    about: str = ""
    sure: bool = True

    @property
    def kind(self) -> tuple[str, str]:
        """Parts of one kind take the same time for the same cost."""
        return self.stage, self.part

    def answers(self, report: StepReport) -> bool:
        """Whether a report is of this part."""
        return (self.stage, self.round, self.part) == (report.stage, report.round, report.part)


Further = Callable[[int], tuple[Part, ...]]
"""The number of a round -> its parts."""


@dataclass(frozen=True)
class Plan:
    """All parts in their order.

    Attributes:
        further: whose rounds have no end (:attr:`Part.about`) -> what one more of them has.
    """

    parts: tuple[Part, ...] = ()
    further: Mapping[str, Further] = field(default_factory=dict)

    def of(self, about: str) -> Plan:
        """The same plan as one thing among others."""

        def told(parts: Iterable[Part]) -> tuple[Part, ...]:
            return tuple(replace(p, about=about) for p in parts)

        rounds = [lambda number, f=f: told(f(number)) for f in self.further.values()]
        return Plan(told(self.parts), {about: rounds[0]} if rounds else {})


def one_after_another(plans: Iterable[Plan]) -> Plan:
    """Several plans as one; each is :meth:`Plan.of` something else."""
    plans = list(plans)
    further = {about: f for plan in plans for about, f in plan.further.items()}
    return Plan(tuple(p for plan in plans for p in plan.parts), further)


@dataclass(frozen=True)
class Expected:
    """What the parts of an erasure have in common.

    Attributes:
        sampling: how pictures are made.
        retain: how much is retained.
        keep: keep prompts.
        bank: entries of the vocabulary bank.
    """

    sampling: SamplingConfig
    retain: RetainConfig = RetainConfig()
    keep: int = 0
    bank: int = 0

    @property
    def picture(self) -> float:
        """What a picture costs."""
        return self.sampling.steps * (1.0 if self.sampling.cfg == 1.0 else 2.0)

    @property
    def keeps(self) -> int:
        """Keep prompts that count."""
        return self.keep if self.retain.keep_weight > 0 else 0

    @property
    def banked(self) -> int:
        """Entries of the bank that count."""
        return self.bank if self.retain.weight > 0 else 0

    @property
    def retained(self) -> float:
        """What the retained rows of a step cost."""
        rows = min(self.retain.batch, self.keeps) + min(self.retain.batch, self.banked)
        return rows * (1.0 + TRAINED)


def pool_plan(size: int, sampling: SamplingConfig) -> Plan:
    """Pictures of the concept."""
    cost = size * Expected(sampling).picture
    return Plan((Part("pool", 0, "", "pictures of the concept", cost, "picture"),))


def bank_plan(size: int, images: int, sampling: SamplingConfig) -> Plan:
    """The vocabulary bank."""
    return parts_of([
        Part("bank", 0, "contexts", "vocabulary bank · prompts", size * _PROMPT, "prompt"),
        Part("bank", 0, "", "vocabulary bank · pictures",
             size * images * Expected(sampling).picture, "picture"),
    ])  # fmt: skip


def mine_plan(config: MineConfig, round_: int, *, tokens: bool, where: str = "") -> Plan:
    """One round's mining; ``where`` stands before the stage's own name."""
    step = TRAINED * config.steps
    free, spoken = step * config.count * config.batch, step * config.tokens * config.k * tokens
    return parts_of([
        Part("mine", round_, "", _joined(where, "mine"), free),
        Part("mine", round_, "tokens", _joined(where, "mine tokens"), spoken),
    ])  # fmt: skip


def verify_plan(
    config: VerifyConfig, round_: int, entries: int, sampling: SamplingConfig, *, where: str = ""
) -> Plan:
    """One round's verification of ``entries`` embeddings; the threshold is calibrated after it."""
    shown, picture = entries * config.draws, Expected(sampling).picture
    made = shown + reference_pictures(shown, config)
    calibrated = CALIBRATION_PICTURES * picture * (config.threshold == "auto")
    return parts_of([
        Part("verify", round_, "", _joined(where, "verify"), made * picture, "picture"),
        Part("verify", round_, "calibration", _joined(where, "calibrate"), calibrated, "picture"),
    ])  # fmt: skip


def circumvent_plan(
    config: CircumventConfig, round_: int, new: int, run: Expected, *, where: str = ""
) -> Plan:
    """Circumventing, with pictures of ``new`` embeddings; keep prompts' pictures come with it."""
    others = len(set(config.preserved) - {"c0"}) if config.alpha_p else 0
    again = int(bool(config.alpha_p) and "c0" in config.preserved)
    asked = 1 + bool(config.eta) + others
    each = asked + TRAINED * (1 + again + others) + run.picture * config.fresh
    pictures = 0 if config.fresh else new * config.images * run.picture
    return parts_of([
        Part("circumvent", round_, "pictures", _joined(where, "pictures"), pictures, "picture"),
        *_keep_pictures(run),
        Part("circumvent", round_, "", where if where == "text start" else
             _joined(where, "circumvent"), config.steps * (config.batch * each + run.retained)),
    ])  # fmt: skip


def chase_plan(config: ChaseConfig, round_: int, subjects: int, new: int, run: Expected) -> Plan:
    """A chase: pictures and the teacher's answers first.

    Args:
        subjects: prompts that join the concept with a word.
        new: the concept's contexts that have no pictures yet.
    """
    attackers = (config.tokens + len(config.soft_prompts)) * config.batch
    unrelated = config.unrelated if run.bank else 0
    rows = attackers + config.replay + config.concept_batch + config.anchor_batch + unrelated
    anchors = (1 + subjects) * config.anchor_images if config.anchor_batch else 0
    answered = config.asked * (2 if config.anchor_eta else 1) if anchors else 0

    def part(name: str, title: str, cost: float, unit: str = "answer") -> Part:
        return Part("chase", round_, name, _joined("chase", title), cost, unit)

    noisy = run.retain.noisy
    return parts_of([
        part("pictures", "pictures", new * config.images * run.picture, "picture"),
        part("concept", "the concept's answers", config.asked * (4 if subjects else 2)),
        part("anchors", "pictures of anchors", anchors * run.picture, "picture"),
        part("anchor answers", "the anchors' answers", answered),
        *_keep_pictures(run),
        part("keep", "keep prompts' answers", noisy * run.keeps),
        part("bank", "the bank's answers", noisy * run.banked),
        part("unrelated", "unrelated answers", config.asked * bool(unrelated)),
        part("", "", config.steps * (TRAINED * rows + attackers + run.retained), "step"),
    ])  # fmt: skip


def repair_plan(config: RepairConfig, round_: int, run: Expected) -> Plan:
    """Repairing: guards, and more of every retain set than other stages take."""
    guards = config.batch + config.replay + (config.unrelated if run.bank else 0)
    kept = min(config.retain_batch, run.keeps) + min(config.retain_batch, run.banked)
    step = guards * (2.0 + TRAINED) + kept * (1.0 + TRAINED)
    return parts_of([Part("repair", round_, "", "repair", config.steps * step)])


def guard_plan(config: GuardConfig, round_: int, run: Expected, *, where: str = "") -> list[Part]:
    """Measuring drift after a round; the original model is asked once, which is left out here."""
    if config.max_drift is None:
        return []
    rows = min(config.prompts, run.keep + run.bank or 1) * config.draws
    return [Part("guard", round_, "", _joined(where, "drift"), rows, "answer")]


def shown_part(prompts: int, sampling: SamplingConfig) -> Part:
    """The report's pictures before and after, at a run's end."""
    cost = 2 * EACH * prompts * Expected(sampling).picture
    return Part(SHOWN, 0, "", "pictures before and after", cost, "picture")


def erasure_plan(
    config: EraseConfig,
    sampling: SamplingConfig,
    *,
    done: int = 0,
    new: int = 0,
    keep: int = 0,
) -> Plan:
    """A whole erasure.

    Args:
        config: as the run will have it, without an opening where none is to come.
        done: rounds behind it.
        new: embeddings it begins with that have no pictures yet.
        keep: keep prompts.
    """
    run = Expected(sampling, config.retain, keep, config.bank.size)
    texts = (_TEMPLATES + config.text_words) * config.text_start
    prompts = texts + config.text_words * config.text_start
    parts = [
        Part("contexts", 0, "", "the concept's prompts", prompts * _PROMPT, "prompt"),
        *bank_plan(config.bank.size, config.bank.images, sampling).parts,
    ]
    if config.text_start:
        opening = circumvent_plan(config.start, done, texts + new, run, where="text start")
        parts += opening.parts
    if config.chase.steps:
        parts += chase_plan(config.chase, done, config.text_words, 0, run).parts
    parts += repair_plan(config.repair, done, run).parts
    parts += guard_plan(config.guard, done, run) * config.text_start
    unlimited = config.max_rounds is None
    last = done + (config.max_rounds or 0)

    def round_parts(number: int) -> tuple[Part, ...]:
        where = f"round {number}" if unlimited else f"round {number} of {last}"
        found = _round(config, number, run, where, number == done + 1)
        return tuple(p for p in found if p.stage != "keep" or number == done + 1)

    if unlimited:
        parts += round_parts(done + 1)
        return Plan(tuple(_once(parts_of(parts).parts)), {"": round_parts})
    for number in range(done + 1, last + 1):
        parts += round_parts(number)
    parts += _look(config, last + 1, run, "last look", last == done)
    return Plan(tuple(_once(parts_of(parts).parts)))


def _round(
    config: EraseConfig, number: int, run: Expected, where: str, first: bool
) -> Iterator[Part]:
    """Mine, verify, circumvent; only the first verdict is sure to come."""
    for part in _look(config, number, run, where, first):
        yield replace(part, sure=first)
    trained = circumvent_plan(config.circumvent, number, _entries(config.mine), run, where=where)
    for part in (*trained.parts, *guard_plan(config.guard, number, run, where=where)):
        yield replace(part, sure=False)


def _look(
    config: EraseConfig, number: int, run: Expected, where: str, first: bool
) -> Sequence[Part]:
    """Mining and its verdict; a run calibrates once, before its first verdict."""
    mined = mine_plan(config.mine, number, tokens=True, where=where).parts
    entries = _entries(config.mine)
    judged = verify_plan(config.verify, number, entries, run.sampling, where=where).parts
    before = [p for p in judged if p.part and first]
    return [replace(p, sure=first) for p in (*mined, *before, *(p for p in judged if not p.part))]


def _entries(config: MineConfig) -> int:
    """Embeddings that a round mines."""
    return config.count + config.tokens * (1 + config.token_words)


def _keep_pictures(run: Expected) -> list[Part]:
    cost = run.keeps * run.retain.keep_images * run.picture
    return [Part("keep", 0, "", "pictures of keep prompts", cost, "picture")]


def _once(parts: Sequence[Part]) -> Iterator[Part]:
    """The parts, pictures of keep prompts only where they come first: they are made once a run."""
    seen = False
    for part in parts:
        if part.stage != "keep" or not seen:
            yield part
        seen = seen or part.stage == "keep"


def parts_of(parts: Iterable[Part]) -> Plan:
    """Those that cost anything."""
    return Plan(tuple(p for p in parts if p.cost))


def _joined(where: str, name: str) -> str:
    return " · ".join(filter(None, (where, name)))
