"""What every training of the gallery shares: budget, schedule, averaging, checkpoints."""

import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

SAVE_EVERY = 180.0  # seconds
SHOW_EVERY = 100  # steps
FLOOR = 0.01  # added to the cosine: the last steps still learn a little


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes:
        rate: highest learning rate; a cosine over the budget brings it down.
        warmup: steps until the rate is reached.
        decay: weight decay of AdamW.
        betas: of AdamW.
        average: decay of the averaged weights; None keeps none.
        clip: largest norm of the gradients; None for no limit.
        seed: of the order of the pictures and of the noise.
    """

    rate: float
    warmup: int
    decay: float
    betas: tuple[float, float] = (0.9, 0.999)
    average: float | None = None
    clip: float | None = None
    seed: int = 0


def save(value: object, file: Path) -> None:
    """torch.save in one step: an interruption leaves the old file whole."""
    draft = file.with_suffix(".tmp")
    torch.save(value, draft)
    os.replace(draft, file)


def outdated(file: Path, source: Path) -> bool:
    """Whether what was made from `source` is missing or older than it."""
    return not file.exists() or file.stat().st_mtime < source.stat().st_mtime


class Run:
    """The training of one network, resumed where it stopped.

    The checkpoint holds net, averaged weights ("ema", in the order of "parameters"), optimiser,
    step and seconds used. A run that has used up its budget does nothing; a larger budget goes on
    with it. `again` starts a new schedule from the (averaged) weights of the checkpoint; when
    such a run is interrupted, resume it without `again`.

    Args:
        file: the checkpoint.
        net: the network; moved to `device` and made trainable.
        recipe: see Recipe.
        minutes: time budget; interruptions do not count.
        total: a budget in steps instead, so that the schedule is the same on every machine.
        device: where to train.
        again: see above.
        factor: multiplies the recipe's rate.
    """

    def __init__(
        self,
        file: Path,
        net: nn.Module,
        recipe: Recipe,
        *,
        minutes: float = 0.0,
        total: int = 0,
        device: torch.device,
        again: bool = False,
        factor: float = 1.0,
    ) -> None:
        if (minutes > 0) == (total > 0):
            raise ValueError("a training needs a budget: either minutes or a total of steps")
        self.file, self.recipe, self.device = file, recipe, device
        self.seconds, self.total, self.rate = minutes * 60, total, recipe.rate * factor
        self.net = net.to(device).train().requires_grad_(True)
        self.names = [name for name, _ in net.named_parameters()]
        self.parameters = list(net.parameters())
        self.optimiser = torch.optim.AdamW(
            self.parameters, lr=self.rate, weight_decay=recipe.decay, betas=recipe.betas
        )
        self.step, self.used, self.restarts = 0, 0.0, 0
        self.average = [p.detach().clone() for p in self.parameters] if recipe.average else []
        if file.exists():
            self._resume(torch.load(file, map_location=device, weights_only=True), again)
        # A resumed run goes on with other numbers than those it began with.
        seed = recipe.seed + 1000 * self.step + 10**9 * self.restarts
        self.gen = torch.Generator().manual_seed(seed)
        self._shown: list[dict[str, float]] = []

    def _resume(self, saved: dict, again: bool) -> None:
        self.net.load_state_dict(saved["net"])
        with torch.no_grad():
            for mine, theirs in zip(self.average, saved["ema"], strict=True):
                mine.copy_(theirs)
            if again:
                for parameter, averaged in zip(self.parameters, self.average, strict=False):
                    parameter.copy_(averaged)
        self.restarts = saved["restarts"] + again
        if not again:
            self.optimiser.load_state_dict(saved["opt"])
            self.step, self.used = saved["step"], saved["used"]

    def save(self) -> None:
        """Writes the checkpoint."""
        state = {
            "net": self.net.state_dict(),
            "ema": self.average,
            "parameters": self.names,
            "opt": self.optimiser.state_dict(),
            "step": self.step,
            "used": self.used,
            "restarts": self.restarts,
        }
        save(state, self.file)

    def _part(self) -> float:
        """How much of the budget is used up, 1 when all of it is."""
        return self.step / self.total if self.total else self.used / self.seconds

    def steps(self) -> Iterator[int]:
        """Yields the number of each step until the budget is used up, and keeps checkpoints."""
        before = saved = time.monotonic()
        first = self.step
        while (part := self._part()) < 1:
            cosine = 0.5 * (1 + math.cos(math.pi * part)) + FLOOR
            rate = self.rate * min(1.0, (self.step + 1) / self.recipe.warmup) * cosine
            for group in self.optimiser.param_groups:
                group["lr"] = rate
            yield self.step
            now = time.monotonic()
            self.used, before = self.used + now - before, now
            if now - saved > SAVE_EVERY:
                self.save()
                saved = now
        if self.step > first:
            self.save()
        print(f"{self.file.name}: {self.step} steps, {self.used / 60:.1f} minutes", flush=True)

    def update(self, loss: torch.Tensor, **shown: torch.Tensor) -> None:
        """One step of the optimiser; `shown` are further figures for the log.

        Raises:
            FloatingPointError: the loss is not finite.
        """
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if self.recipe.clip:
            nn.utils.clip_grad_norm_(self.parameters, self.recipe.clip)
        self.optimiser.step()
        self.step += 1
        if self.average:
            # Short memory at first: the average must not remember the random start.
            memory = min(self.recipe.average or 0.0, (1 + self.step) / (10 + self.step))
            torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - memory)
        figures = {"loss": loss, **shown}
        self._shown.append({name: float(value.detach()) for name, value in figures.items()})
        if not math.isfinite(self._shown[-1]["loss"]):
            raise FloatingPointError(f"{self.file.name}: the loss is not finite at {self.step}")
        if self.step % SHOW_EVERY == 0:
            self._show()

    def _show(self) -> None:
        means = {k: sum(row[k] for row in self._shown) / len(self._shown) for k in self._shown[0]}
        text = "  ".join(f"{name} {value:.4f}" for name, value in means.items())
        print(f"{self.file.stem:6} step {self.step:6} {self.used:6.0f} s  {text}", flush=True)
        self._shown = []
