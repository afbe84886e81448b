"""A whole run: every stage's settings together, and the two presets.

Each stage's own settings stand beside the stage. ``PAPER`` holds the values of the Dark Miner
preprint and nothing else. ``FAST`` is the recipe that the gallery's benchmark found best; what goes
beyond the paper is off by default everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from .method.bank import BankConfig
from .method.chase import ChaseConfig
from .method.circumvent import CircumventConfig
from .method.guard import GuardConfig
from .method.mine import MineConfig
from .method.repair import RepairConfig
from .method.retain import RetainConfig
from .method.verify import VerifyConfig
from .model.adapter import LoraConfig
from .model.sampling import SamplingConfig
from .settings import Settings, setting, stage


@dataclass(frozen=True)
class EraseConfig(Settings):
    """A whole run: every stage's settings and how many rounds.

    The rules of all fields are their own (:mod:`~.settings`).
    """

    max_rounds: int | None = setting(
        None,
        "rounds of mine, verify and circumvent at the most; none: until verification finds nothing",
        low=0,
    )
    text_start: bool = setting(
        False, "whether the concept's own prompts are circumvented first, as round 0"
    )
    text_words: int = setting(
        0,
        "further prompts of the text start: the concept with a word of the vocabulary, each with "
        "the same prompt without the concept as its anchor",
        low=0,
    )
    reference_prompt: str = setting(
        "", "what verification compares with (c_r); empty: the anchor prompt"
    )
    lora: LoraConfig = stage(LoraConfig, "the LoRA that is trained")
    sampling: SamplingConfig = stage(SamplingConfig, "how pictures are made")
    mine: MineConfig = stage(MineConfig, "mining (equation 5)")
    verify: VerifyConfig = stage(VerifyConfig, "verification (equation 6)")
    start: CircumventConfig = stage(CircumventConfig, "circumventing in the text start, round 0")
    chase: ChaseConfig = stage(ChaseConfig, "mining while circumventing, before the first round")
    repair: RepairConfig = stage(RepairConfig, "bringing back what else was moved, after the chase")
    circumvent: CircumventConfig = stage(CircumventConfig, "circumventing (equations 7 and 8)")
    bank: BankConfig = stage(BankConfig, "the vocabulary bank")
    retain: RetainConfig = stage(RetainConfig, "the retain sets (what must not change)")
    guard: GuardConfig = stage(GuardConfig, "the guard of what is retained")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(
            self.text_start or not self.chase.steps,
            "text_start",
            "on where a chase is asked for (chase.steps above 0)",
        )
        self.require(
            self.text_start or not self.repair.steps,
            "text_start",
            "on where repairing is asked for (repair.steps above 0)",
        )


PAPER = EraseConfig()

_FAST_CIRCUMVENT = CircumventConfig(
    optimizer="adam",
    steps=60,
    batch=8,
    lr=1e-4,  # a round only mends what the chase has left: more would undo its margins
    lr_late=5e-5,
    lr_drop=40,
    clip=3200.0,
    r=0.5,
    alpha_p=0.0,
    images=3,
    eta=1.5,
)

FAST = EraseConfig(
    max_rounds=1,
    text_start=True,
    text_words=48,
    lora=LoraConfig(rank=16, alpha=16.0, layers="blocks", spread=3.0),
    sampling=SamplingConfig(steps=20, cfg=7.0, sampler="euler"),
    mine=MineConfig(
        optimizer="adam",
        steps=100,
        lr=0.05,
        lr_late=0.02,
        lr_drop=70,
        clip=320.0,
        count=2,
        tokens=3,
        reachable=True,
    ),
    verify=VerifyConfig(draws=2),
    circumvent=_FAST_CIRCUMVENT,
    start=replace(_FAST_CIRCUMVENT, steps=100, lr=5e-3, lr_drop=100, eta=2.0),
    chase=ChaseConfig(steps=450, lr_drop=315),
    bank=BankConfig(size=160),
    retain=RetainConfig(weight=4.0, batch=8, keep_weight=2.0, keep_images=3),
)

PRESETS: dict[str, EraseConfig] = {"fast": FAST, "paper": PAPER}
