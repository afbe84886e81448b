"""The plan of a session's passes: the same results from less memory."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from dark_miner.darkminer.errors import DarkMinerError
from dark_miner.darkminer.method.circumvent import CircumventConfig, circumvent
from dark_miner.darkminer.method.loop import new_adapters
from dark_miner.darkminer.method.mine import MineConfig, mine
from dark_miner.darkminer.model.memory import Memory, blocks, in_halves, kept_bytes
from dark_miner.darkminer.model.sampling import sample_each
from dark_miner.darkminer.types import EmbeddingPool, MinedEmbedding
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef

from . import toy


class Block(nn.Module):
    """Adds to its input in place, as the host's transformer blocks do."""

    def __init__(self):
        super().__init__()
        self.inward, self.outward = nn.Linear(4, 64), nn.Linear(64, 4)

    def forward(self, x, scale):
        x += self.outward(torch.tanh(self.inward(2.0 * x))) * scale
        return x


class Stack(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.head = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 4))

    def forward(self, x, timestep, context):
        x = x + context
        for block in self.blocks:
            x = block(x, scale=timestep.view(-1, 1))
        return self.head(x)


class Limited(nn.Module):
    """Room for so many samples in a pass; more is what a GPU without memory says."""

    def __init__(self, network, room):
        super().__init__()
        self.network, self.room = network, room

    def forward(self, x, *rest):
        if len(x) > self.room:
            raise torch.OutOfMemoryError(f"{len(x)} samples do not fit")
        return self.network(x, *rest)


def inputs(count=6, dtype=torch.float32):
    gen = torch.Generator().manual_seed(3)
    x, context = (torch.randn(count, 4, generator=gen).to(dtype) for _ in range(2))
    return x, torch.rand(count, generator=gen).to(dtype), context.requires_grad_(True)


def gradient(memory, network=None):
    """In double precision: parts of another size are summed in another order."""
    network = (network or Stack()).double()
    x, t, context = inputs(dtype=torch.float64)
    loss = memory.denoiser(network, network)(x, t, context).square().sum()
    return torch.autograd.grad(loss, context)[0]


@pytest.mark.parametrize(
    "plan", [{"trained": 1}, {"trained": 4}, {"by_block": True}, {"trained": 2, "by_block": True}]
)
def test_parts_and_blocks_give_the_same_gradients(plan):
    assert torch.allclose(gradient(Memory(**plan)), gradient(Memory()), rtol=1e-12, atol=1e-12)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="only a GPU's sessions hold operators so")
def test_a_pass_that_failed_leaves_no_operator_held_to_its_repeatable_algorithm():
    torch.use_deterministic_algorithms(True)
    try:
        in_halves([0, 1], lambda rows: Limited(nn.Identity(), 1)(torch.zeros(len(rows), 1)))
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


def test_blocks_are_the_innermost_items_with_several_layers():
    network = Stack()
    assert blocks(network) == list(network.blocks)
    assert blocks(nn.ModuleList([network])) == list(network.blocks)


def test_what_a_pass_keeps_is_counted_and_blocks_keep_less():
    x = torch.ones(5, 7, requires_grad=True)
    assert kept_bytes(lambda: x.exp()) == 5 * 7 * 4
    assert kept_bytes(lambda: (x * x).sin()) == 2 * 5 * 7 * 4
    memory, network = Memory(), Stack()
    denoise, given = memory.denoiser(network, network), inputs()
    whole = kept_bytes(lambda: denoise(*given))
    memory.by_block = True
    assert kept_bytes(lambda: denoise(*given)) < 0.5 * whole


def test_counting_what_a_pass_keeps_keeps_nothing():
    x, gone = torch.randn(5, 7, requires_grad=True), []

    def forward():
        y = x
        for _ in range(3):
            y = y.exp()
            gone.append(StorageWeakRef(y.untyped_storage()))
        assert [g.expired() for g in gone] == [True, True, False]
        return y

    assert kept_bytes(forward) == 3 * 5 * 7 * 4


def test_the_plan_is_made_from_what_is_free():
    def plan(free):
        memory, network = Memory(lambda: int(free)), Stack()
        memory.denoiser(network, network)(*inputs())
        return memory.trained, memory.by_block

    network = Stack()
    one = kept_bytes(lambda: network(*(t[:1] for t in inputs())))
    assert plan(1000 * one)[1] is False and plan(1000 * one)[0] > 500
    assert plan(4 * one) == (2, False)
    samples, by_block = plan(one)
    assert by_block and samples >= 1


def test_nothing_is_cut_where_everything_fits():
    assert torch.equal(gradient(Memory(lambda: 10**12)), gradient(Memory()))


def limited(room, **plan):
    """The toy model with room for so many samples a pass."""
    network, memory = toy.Denoiser(), Memory(**plan)
    denoise = memory.denoiser(Limited(network, room), network)
    return replace(toy.model(network=network), denoise=denoise, memory=memory)


def mined(model, **changes):
    config = MineConfig(length=2, k=4, batch=4, count=2, steps=6, lr_drop=3, **changes)
    return mine(model, toy.pool(), toy.context(1), config, seed=0, round_=1)


def circumvented(model):
    entries = (MinedEmbedding(toy.context(2)[0], 1), MinedEmbedding(toy.context(3, 2)[0], 1))
    config = CircumventConfig(steps=6, batch=4, lr=1e-2, lr_drop=4)
    adapters = new_adapters(model, toy.LORA, seed=0)
    try:
        circumvent(model, adapters, EmbeddingPool(entries, round=1), toy.context(1), config, seed=0)
        return adapters.state()
    finally:
        adapters.remove()


def test_mining_goes_on_with_smaller_passes_when_memory_runs_out():
    plenty, scarce = toy.model(), limited(3)
    expected, found = mined(plenty), mined(scarce)
    assert scarce.memory.trained == 2
    assert torch.allclose(torch.tensor(found.losses), torch.tensor(expected.losses), rtol=1e-4)
    for one, other in zip(expected.embeddings, found.embeddings, strict=True):
        assert torch.allclose(one.context, other.context, rtol=1e-4, atol=1e-5)


def test_circumventing_goes_on_with_smaller_passes_when_memory_runs_out():
    scarce = limited(2)
    expected, found = circumvented(toy.model()), circumvented(scarce)
    assert scarce.memory.trained == 2 and scarce.memory.asked is not None
    for name, up in expected.up.items():
        assert bool(up.any()) and torch.allclose(up, found.up[name], rtol=1e-3, atol=1e-6)


def test_what_never_fits_is_refused_with_one_sentence():
    with pytest.raises(DarkMinerError, match="one picture at a time.*smaller"):
        mined(limited(0))


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    def broken(*_):
        raise RuntimeError("shapes do not fit")

    memory = Memory()
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        memory.attempt(broken)
    assert memory.trained is None


def test_pictures_are_made_in_smaller_batches_when_memory_runs_out():
    plenty = toy.model()
    sizes = []

    def sample(context, noise):
        if len(noise) > 1:
            raise torch.OutOfMemoryError("too many")
        sizes.append(len(noise))
        return plenty.sample(context, noise)

    contexts = [toy.context(i)[0] for i in range(4)]
    noise = torch.randn(4, *plenty.latent_shape, generator=torch.Generator().manual_seed(0))
    made = sample_each(replace(plenty, sample=sample), contexts, noise)
    assert sizes == [1, 1, 1, 1]
    assert torch.allclose(made, sample_each(plenty, contexts, noise), atol=1e-6)


def test_halves_keep_their_order():
    def make(rows):
        if len(rows) > 2:
            raise MemoryError
        return list(rows)

    assert in_halves(range(5), make) == [[0, 1], [2], [3, 4]]


REAL = """
import resource, time, torch
from torch import nn
from dark_miner.darkminer.model.memory import Memory

torch.set_num_threads(1)
torch.manual_seed(0)
network = nn.Sequential(*[nn.Sequential(nn.Linear(256, 8192), nn.Tanh(), nn.Linear(8192, 256))
                          for _ in range(6)]).requires_grad_(False)
x = torch.randn(2048, 256)
context = torch.zeros(2048, 256, requires_grad=True)

def run(memory):
    denoise = memory.denoiser(lambda x, t, c: network(x + c), network)

    def step():
        context.grad = None
        loss = denoise(x, x[:, 0], context).square().mean()
        loss.backward()
        return float(loss.detach()), context.grad.clone()

    return memory.attempt(step)

run(Memory(trained=16))  # what is imported at first use is imported now

def mapped():
    time.sleep(0.1)  # threads that importing began may still be ending, their stacks with them
    return int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()

used = min(mapped() for _ in range(10))
before = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (used + 100 * 2**20, before[1]))
memory = Memory()
found, gradient = run(memory)
assert memory.trained is not None and memory.trained < 2048, memory.trained
resource.setrlimit(resource.RLIMIT_AS, before)
expected, wanted = run(Memory())
assert abs(found - expected) < 1e-6, (found, expected)
assert float((gradient - wanted).abs().max()) < 1e-5 * float(wanted.abs().max())
print("went on with", memory.trained)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space of a process")
def test_a_process_that_really_has_no_more_memory_goes_on():
    done = subprocess.run(
        [sys.executable, "-c", f"import tests.conftest\n{REAL}"], capture_output=True, text=True,
        check=False, cwd=Path(__file__).parents[1],
        env={**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "went on with" in done.stdout
