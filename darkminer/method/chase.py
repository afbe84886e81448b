"""Chasing: mining while circumventing, in the same steps.

A round of its own for every few embeddings is dear. Here attackers keep descending the mining loss
(equation 5) while the adapters circumvent them where they stand (equation 7), so that every step
meets embeddings which have just adapted to the last one: free adversarial training (Shafahi et al.,
2019). Attackers are soft prompts and, through the text encoder, adversarial tokens under prompts
with other words. Pictures are made before the first step, and the frozen teacher is asked ahead of
all steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..finite import in_stage
from ..model.adapter import Adapters
from ..model.exact import context_layers
from ..model.interface import DiffusionModel, TextSpace
from ..rng import generator
from ..settings import setting
from ..standing import UNKEPT, Checkpoints, StageState, optimizer_state
from ..types import EmbeddingPool, ImagePool, MinedEmbedding, Report, silent
from .attackers import Adversary, Attacker, start_attackers
from .chase_pictures import ChasePictures, PictureRow, TeacherDraws
from .circumvent import TrainResult, with_pictures
from .engine import Targets, join
from .image_pool import check_pool
from .losses import repeated, squared_error
from .mine import reachable_norm
from .optim import LR, LR_LATE, ExtraConfig
from .retain import NOTHING, Retain, restore_sets, state_of_sets
from .trainer import Trainer


@dataclass(frozen=True)
class ChaseConfig(ExtraConfig):
    """Mining while circumventing; the paper has none of it."""

    steps: int = setting(0, "steps of the chase; 0 leaves it out", low=0)
    lr: float = setting(5e-3, LR, above=0)
    lr_late: float = setting(1e-3, LR_LATE, above=0)
    tokens: int = setting(10, "attackers that are adversarial tokens", low=0)
    soft_prompts: tuple[int, ...] = setting(
        (1, 4, 16), "attackers that are soft prompts: the length of each, in tokens", low=1
    )
    token_lr: float = setting(0.05, "Adam's learning rate of the tokens", above=0)
    soft_prompt_lr: float = setting(0.05, "Adam's learning rate of the soft prompts", above=0)
    batch: int = setting(1, "pictures per attacker and step", low=1)
    life: int = setting(
        150, "steps until an attacker starts anew; in the first quarter it only mines", low=1
    )
    replay: int = setting(6, "earlier attackers' last values per step", low=0)
    concept_batch: int = setting(4, "the concept's own prompts per step", low=1)
    images: int = setting(
        3, "pictures the original model makes of a prompt of the concept that has none", low=1
    )
    eta: float = setting(
        1.5, "how far targets on the concept's pictures lie past the anchor", low=0
    )
    concept_eta: float = setting(
        3.0, "the same where the concept's own prompts are asked for", low=0
    )
    unrelated: int = setting(
        6, "unrelated prompts (of the vocabulary bank, on the concept's pictures) per step: no "
        "prompt whatever is to lead further into the concept", low=0,
    )  # fmt: skip
    unrelated_eta: float = setting(1.0, "how far these are led away from the concept", low=0)
    anchor_batch: int = setting(
        12, "pictures of the anchors per step, seen under attackers: an erased model draws those, "
        "and there, too, no attacker may lead it anywhere", low=0,
    )  # fmt: skip
    anchor_images: int = setting(4, "pictures that the original model makes of each anchor", low=1)
    anchor_eta: float = setting(0.0, "how far past the anchor their targets lie", low=0)
    noisy: int = setting(
        768, "noisy pictures of each kind that the teacher is asked about, at the most", low=1
    )

    @property
    def asked(self) -> int:
        """Noisy pictures of each kind to ask the teacher about: no more than steps could use."""
        attackers = (self.tokens + len(self.soft_prompts)) * self.batch
        return min(self.noisy, self.steps * (attackers + self.replay + self.concept_batch))


@in_stage("chase")
def chase(
    model: DiffusionModel,
    adapters: Adapters,
    embeddings: EmbeddingPool,
    pool: ImagePool,
    anchor: Tensor,
    config: ChaseConfig,
    *,
    seed: int,
    text: TextSpace | None = None,
    retain: Retain = NOTHING,
    checkpoints: Checkpoints = UNKEPT,
    report: Report = silent,
) -> TrainResult:
    """Train ``adapters`` in place against attackers that keep mining.

    Args:
        embeddings: holds the concept's own contexts, with or without pictures.
        anchor: context of c0, ``[1, L0, D]``.
        text: where tokens speak; None leaves the tokens out.
        retain: what must not change besides.
        checkpoints: where it goes on from, and where it is kept on the way.

    Returns:
        the pool with every attacker's last value added, and the loss of each step.

    Raises:
        DarkMinerError: if the pool does not fit, or no context of the concept is there.
        DivergedError: if a loss is not finite.
        OutOfTime: if the run's time is up.
    """
    check_pool(pool, 1, model)
    retain.close_exactly(model, adapters)
    embeddings = with_pictures(
        model, adapters, embeddings, config.images, seed=seed, stage="chase", report=report
    )
    round_ = embeddings.round
    gen = generator(seed, round_, "chase")
    attack = _Attack(model, adapters, embeddings, pool, anchor, config, text, gen, report)
    kept = retain.in_training(
        model, adapters, "chase.{}", seed=seed, round_=round_, report=report, ahead="chase"
    )
    if retain.bank is not None and len(retain.bank):
        attack.add_unrelated(retain.bank.contexts)
    attack.start()
    reach = reachable_norm(anchor, embeddings.text_tokens())
    trainer = Trainer(model, adapters, config, stage="chase", round_=round_, report=report)
    before = checkpoints.begun("chase", round_)
    if before is not None:
        trainer.restore(before, gen)
        restore_sets(kept, before.tensors)
        attack.restore(before)
    for step in range(trainer.taken, config.steps):
        rows = attack.rows()
        retained = [entries.targets(step, gen) for entries in kept]
        attack.step(trainer, rows, retained, reach)
        checkpoints.at(lambda: attack.state(trainer.state(gen, state_of_sets(kept))))
    losses = trainer.losses()
    return TrainResult(attack.remembered(embeddings, pool), losses)


class _Attack:
    """Attackers, and the pictures they are seen on."""

    def __init__(
        self,
        model: DiffusionModel,
        adapters: Adapters,
        embeddings: EmbeddingPool,
        pool: ImagePool,
        anchor: Tensor,
        config: ChaseConfig,
        text: TextSpace | None,
        gen: torch.Generator,
        report: Report,
    ):
        self._model, self._config, self._text, self._gen = model, config, text, gen
        self.pictures = ChasePictures(
            model, adapters, embeddings, pool, anchor, text.template if text is not None else "",
            asked=config.asked, eta=config.eta, concept_eta=config.concept_eta, gen=gen,
            anchor_images=config.anchor_images if config.anchor_batch else 0,
            anchor_eta=config.anchor_eta, report=report,
        )  # fmt: skip
        self._repeats = bool(context_layers(model, adapters.names))
        self._unrelated: TeacherDraws | None = None
        self._unrelated_contexts: Sequence[Tensor] = ()
        self._past: list[Adversary] = []
        self.attackers: list[Attacker] = []

    def add_unrelated(self, contexts: Sequence[Tensor]) -> None:
        """Have contexts ``[L_i, D]`` seen on the concept's pictures as well, where asked for."""
        if self._config.unrelated:
            eta = self._config.unrelated_eta
            self._unrelated = self.pictures.unrelated(contexts, eta, self._gen)
            self._unrelated_contexts = contexts

    def start(self) -> None:
        """Place the attackers."""
        config = self._config
        self.attackers = start_attackers(
            config.tokens, config.soft_prompts, (config.token_lr, config.soft_prompt_lr),
            config.life, text=self._text, contexts=self.pictures.anchors,
            device=self._model.device, gen=self._gen,
        )  # fmt: skip

    def state(self, stage: StageState | None) -> StageState | None:
        """The stage's state with that of the attackers, present and past."""
        if stage is None:
            return None
        tensors = {
            "ages": torch.tensor([a.age for a in self.attackers], dtype=torch.int64),
            "past.tokens": torch.tensor([end.token for end in self._past], dtype=torch.bool),
            **{f"attacker.{i}": a.end.value.cpu() for i, a in enumerate(self.attackers)},
            **{f"past.{i}": end.value.cpu() for i, end in enumerate(self._past)},
        }
        own = {f"attacker.{i}": optimizer_state(a.optimizer) for i, a in enumerate(self.attackers)}
        return replace(stage, tensors=stage.tensors | tensors, optimizers=stage.optimizers | own)

    def restore(self, stage: StageState) -> None:
        """Go on from :meth:`state`, once the attackers are placed."""
        tensors, device = stage.tensors, self._model.device
        for i, (attacker, age) in enumerate(
            zip(self.attackers, tensors["ages"].tolist(), strict=True)
        ):
            name = f"attacker.{i}"
            attacker.restore(tensors[name], age, stage.optimizers[name])
        self._past[:] = [
            Adversary(tensors[f"past.{i}"].to(device), bool(token))
            for i, token in enumerate(tensors["past.tokens"])
        ]

    def step(
        self,
        trainer: Trainer,
        rows: Sequence[PictureRow],
        retained: Sequence[Targets],
        reach: float,
    ) -> None:
        """One step of the adapters, and of all attackers.

        Args:
            rows: of :meth:`rows`; retained: rows of the retain sets.
            reach: see :meth:`~.attackers.Attacker.step`.
        """
        unrelated = self.unrelated_targets()
        moves = trainer.step(
            lambda: self.targets(rows, retained, unrelated),
            lambda answers: self.mining_gradients(answers, rows),
        )
        for attacker, gradient in zip(self.attackers, moves, strict=True):
            attacker.step(gradient, reach)

    def rows(self) -> list[PictureRow]:
        """What is erased in one step: attackers first, ``config.batch`` rows each, in order."""
        config, gen, past = self._config, self._gen, self._past
        past += [end for a in self.attackers if (end := a.tick()) is not None]
        rows: list[PictureRow] = []
        for attacker in self.attackers:
            weight = 1.0 if attacker.warm else 0.0
            rows += self.pictures.rows(attacker.adversary, config.batch, gen, weight)
        for _ in range(min(config.replay, len(past))):
            which = int(torch.randint(len(past), (), generator=gen))
            rows += self.pictures.rows(past[which], 1, gen)
        for _ in range(config.concept_batch):
            rows += self.pictures.rows(None, 1, gen)
        warm = [a.adversary for a in self.attackers if a.warm]
        for _ in range(config.anchor_batch if warm or past else 0):
            earlier = bool(torch.rand((), generator=gen) < 0.5)
            ones = (past or warm) if earlier else (warm or past)
            which = int(torch.randint(len(ones), (), generator=gen))
            rows.append(self.pictures.row_of_anchor(ones[which], gen))
        return rows

    def unrelated_targets(self) -> list[Targets]:
        """Unrelated contexts on the concept's pictures; each counts as much as an attacker."""
        seen = self._unrelated
        if seen is None:
            return []
        which = torch.randint(len(seen), (self._config.unrelated,), generator=self._gen)
        contexts = [self._unrelated_contexts[i] for i in seen.owner[which].tolist()]
        return [
            Targets(
                seen.noisy[which], seen.timestep[which], contexts, seen.answer[which],
                torch.ones(len(which)),
            )
        ]  # fmt: skip

    def targets(
        self, rows: Sequence[PictureRow], retained: Sequence[Targets], unrelated: Sequence[Targets]
    ) -> Targets:
        """All rows of a step: what erases shares one weighted mean, what retains has its own."""
        erasing = self._erasing(rows)
        total = sum(float(part.weight.sum()) for part in (erasing, *unrelated))
        return join([erasing.scaled(total), *retained, *(part.scaled(total) for part in unrelated)])

    def _erasing(self, rows: Sequence[PictureRow]) -> Targets:
        """The rows, contexts of one length where repeating them changes nothing."""
        contexts = [c.to(self._model.device) for c in self.pictures.contexts(rows, self._text)]
        if self._repeats:
            longest = max(len(c) for c in contexts)
            contexts = [repeated(c, longest) for c in contexts]
        return Targets(
            torch.stack([r.pictures.noisy[r.index] for r in rows]),
            torch.stack([r.pictures.timestep[r.index] for r in rows]),
            contexts,
            torch.stack([self.pictures.answer(r) for r in rows]),
            torch.tensor([r.weight for r in rows]),
        )

    def mining_gradients(self, answers: Tensor, rows: Sequence[PictureRow]) -> Sequence[Tensor]:
        """The gradient of each attacker's own mean mining loss (equation 5)."""
        if not self.attackers:
            return ()
        own = rows[: len(self.attackers) * self._config.batch]
        truth = torch.stack([r.pictures.truth[r.index] for r in own]).to(answers.device)
        mining = squared_error(answers[: len(own)], truth).sum() / self._config.batch
        return torch.autograd.grad(mining, [a.value for a in self.attackers], retain_graph=True)

    def remembered(self, embeddings: EmbeddingPool, pool: ImagePool) -> EmbeddingPool:
        """The pool with all attackers' last values as embeddings, shown on the pool's pictures."""
        ends = [*self._past, *(a.end for a in self.attackers)]
        with torch.no_grad():
            rows = [PictureRow(self.pictures.alone, 0, end) for end in ends]
            contexts = self.pictures.contexts(rows, self._text)
        pictures = pool.latents[: min(len(pool), 8)]
        chased = tuple(
            MinedEmbedding(
                context.detach().float().cpu().clone(), embeddings.round, latents=pictures,
                kind="token" if end.token else "soft",
            )
            for context, end in zip(contexts, ends, strict=True)
        )  # fmt: skip
        return replace(embeddings, entries=(*embeddings.entries, *chased))
