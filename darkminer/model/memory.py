"""How much a session computes at once, so that training fits the memory at hand.

Passes with gradients are cut into parts of as many samples as fit; a part keeps its inputs only and
is computed once more on the way back (Chen et al., 2016, "Training Deep Nets with Sublinear Memory
Cost"). Where not even one sample fits, every block of the network does the same within. Nothing is
cut where everything fits, so that results do not depend on the plan there; cut passes differ by
rounding.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.checkpoint import checkpoint

from ..errors import DarkMinerError

P = ParamSpec("P")
T = TypeVar("T")
Network = Callable[[Tensor, Tensor, Tensor], Tensor]

_SHARE = 0.8  # of the free memory, the rest is for what backward holds for a moment
WITHIN = {False: 1.25, True: 3.0}
"""Room for a pass, forward and back, over the bytes it keeps; by block or not.

Measured on a full-size SD 1.5 in float32 on a CPU: 0.81, and by block, where what a single operator
takes for a moment weighs more, 2.86.
"""

_CPU_MESSAGES = ("can't allocate memory", "not enough memory", "bad_alloc")

log = logging.getLogger(__name__)


class Memory:
    """The plan of one session: made at its first pass with gradients, lowered when memory runs out.

    Args:
        free: tells how many bytes are free; None plans nothing and only steps down. It is asked
            once.
        trained, asked: samples per pass with and without gradients; None sets no limit.
        by_block: blocks keep their inputs only.
    """

    def __init__(
        self,
        free: Callable[[], int] | None = None,
        *,
        trained: int | None = None,
        asked: int | None = None,
        by_block: bool = False,
    ):
        self.trained, self.asked, self.by_block = trained, asked, by_block
        self.free = free
        self._seen = 1  # samples in the largest part of the newest attempt
        self._block_bytes: int | None = None  # the largest block's while measuring

    def denoiser(self, denoise: Network, network: nn.Module) -> Network:
        """``denoise`` in parts as the plan says; ``network``'s blocks learn to obey it, too."""
        for block in blocks(network):
            block.forward = partial(self._block, block.forward)  # type: ignore[method-assign]

        def cut(x: Tensor, timestep: Tensor, context: Tensor) -> Tensor:
            if not torch.is_grad_enabled():
                return self._ask(denoise, x, timestep, context)
            if self.free is not None:
                self._plan(denoise, x, timestep, context)
            size = min(self.trained or len(x), len(x))
            self._seen = max(self._seen, size)
            if size == len(x):
                return denoise(x, timestep, context)
            parts = zip(*(t.split(size) for t in (x, timestep, context)), strict=True)
            return torch.cat([_again(denoise, *part) for part in parts])

        return cut

    def attempt(self, step: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What ``step`` returns; it is tried anew with a lower plan each time memory runs out.

        Args:
            step: computes a loss and its gradients, and draws nothing at random.
            args, kwargs: its arguments.

        Raises:
            DarkMinerError: if one sample at a time, block by block, is still too much.
        """
        while True:
            self._seen = 1
            try:
                return step(*args, **kwargs)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
            # Beyond the handler: its traceback would keep alive what did not fit.
            self.step_down()

    def step_down(self) -> None:
        """The next lower plan."""
        if self._seen > 1:
            self.trained = self._seen // 2
        elif not self.by_block:
            self.trained, self.by_block = 1, True
        else:
            raise DarkMinerError(
                "Memory ran out while training on one picture at a time, block by block: make "
                "the pool's pictures smaller, or free memory and run again."
            )
        self.free = None
        release()
        log.warning(
            "Memory ran out: training goes on with %d samples a pass%s.",
            self.trained, ", block by block" if self.by_block else "",
        )  # fmt: skip

    def _ask(self, denoise: Network, *inputs: Tensor) -> Tensor:
        """Without gradients, halved as often as it takes."""
        size = min(self.asked or len(inputs[0]), len(inputs[0]))
        rows = list(range(len(inputs[0])))
        parts = [rows[i : i + size] for i in range(0, len(rows), size)]
        made = [
            answer
            for part in parts
            for answer in in_halves(part, lambda some: denoise(*(t[some] for t in inputs)))
        ]
        if len(made) > len(parts):
            self.asked = max(1, size * len(parts) // len(made))
        return torch.cat(made) if len(made) > 1 else made[0]

    def _block(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if not (self.by_block and torch.is_grad_enabled()):
            return forward(*args, **kwargs)

        def fresh(*args: Any, **kwargs: Any) -> Any:
            # Blocks add to their input in place; what is computed again must find it as it was.
            return forward(*map(_own, args), **{k: _own(v) for k, v in kwargs.items()})

        if self._block_bytes is not None:
            size = kept_bytes(lambda: fresh(*args, **kwargs))
            self._block_bytes = max(self._block_bytes, size)
        return _again(fresh, *args, **kwargs)

    def sample_bytes(self, forward: Callable[[], Tensor], *, by_block: bool) -> int:
        """Bytes that a pass holds for its gradients, weights not counted.

        By block these are every block's inputs and, while one is computed again, all that the
        largest one keeps.
        """
        before, self.by_block, self._block_bytes = self.by_block, by_block, 0
        try:
            return kept_bytes(forward) + self._block_bytes
        finally:
            self.by_block, self._block_bytes = before, None

    def _plan(self, denoise: Network, *inputs: Tensor) -> None:
        """Measure one sample, with blocks and without, and choose."""
        assert self.free is not None
        free, self.free = self.free() * _SHARE, None
        one = [t[:1] for t in inputs]
        for self.by_block in (False, True):
            kept = self.sample_bytes(lambda: denoise(*one), by_block=self.by_block)
            size = WITHIN[self.by_block] * kept
            if size <= free:
                break
        self.trained = max(1, int(free // size)) if size else None
        log.info(
            "A sample takes %.0f MiB for its gradients, %.0f MiB may be used: up to %s samples a "
            "pass%s.", size / 2**20, free / 2**20, self.trained,
            ", block by block" if self.by_block else "",
        )  # fmt: skip


def _again(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Keep the inputs only and compute once more on the way back."""
    return checkpoint(function, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)


def _own(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def blocks(network: nn.Module) -> list[nn.Module]:
    """The smallest items of module lists and sequences that hold several layers with weights.

    Those are residual blocks and transformer blocks, whatever a family calls them.
    """
    found: list[nn.Module] = []
    for module in network.modules():
        if isinstance(module, (nn.ModuleList, nn.Sequential)):
            found += [item for item in module if len(_layers(item)) > 1]
    outer = {m for item in found for m in found if m is not item and item in set(m.modules())}
    return [item for item in dict.fromkeys(found) if item not in outer]


def _layers(module: nn.Module) -> list[nn.Module]:
    """Layers that multiply: their weights have two axes or more."""
    return [
        m
        for m in module.modules()
        if isinstance(weight := getattr(m, "weight", None), Tensor) and weight.ndim > 1
    ]


def kept_bytes(forward: Callable[[], Tensor]) -> int:
    """Bytes of all that a pass would keep for its gradients, weights not counted.

    Nothing is kept: counting takes no more memory than a pass without gradients.
    """
    seen: dict[int, tuple[StorageWeakRef, int]] = {}

    def count(tensor: Tensor) -> None:
        if not isinstance(tensor, nn.Parameter):
            # A weak reference, so that no later storage can be taken for this one.
            storage = tensor.untyped_storage()
            reference = StorageWeakRef(storage)
            seen.setdefault(reference.cdata, (reference, storage.nbytes()))

    with saved_tensors_hooks(count, _not_kept):
        forward()
    return sum(size for _, size in seen.values())


def _not_kept(_: None) -> Tensor:
    raise RuntimeError("a pass that was only counted has no gradients")


def in_halves(rows: Sequence[int], make: Callable[[Sequence[int]], T]) -> list[T]:
    """``make(rows)``; where memory runs out, of the halves of ``rows`` instead, and so on."""
    try:
        return [make(rows)]
    except (RuntimeError, MemoryError) as error:
        if len(rows) < 2 or not out_of_memory(error):
            raise
    release()
    middle = (len(rows) + 1) // 2
    return [*in_halves(rows[:middle], make), *in_halves(rows[middle:], make)]


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, of a GPU or of the machine."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return any(text in str(error) for text in _CPU_MESSAGES)


def release() -> None:
    """Let go of what a failed pass has left, and give cached memory back to the device."""
    gc.collect()
    if torch.cuda.is_available():
        if torch.are_deterministic_algorithms_enabled():
            # It may have ended where an operator was held to its one repeatable algorithm.
            torch.use_deterministic_algorithms(True, warn_only=True)
        torch.cuda.empty_cache()
