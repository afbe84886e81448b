"""Single steps: many embeddings at once, and a training step against the host's own trainer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from .gallery import SEED, World, gallery_world, random_embedding
from .rows import Options, Result, interleaved, medians, row

MANY = 8


@row
def many_at_once(options: Options) -> Result:
    """Gallery model: time per mined embedding, 8 at once / one by one (goal at most 0.35)."""
    from dark_miner.darkminer.config import PAPER
    from dark_miner.darkminer.method.loop import new_adapters
    from dark_miner.darkminer.method.mine import mine

    steps = options.steps or 20
    with gallery_world(options.style) as world:
        adapters = new_adapters(world.session, PAPER.lora, seed=SEED)

        def run(count: int) -> Callable[[], Any]:
            config = replace(PAPER.mine, steps=steps, count=count)
            return lambda: mine(
                world.session, world.pool, world.anchor, config, seed=SEED, round_=1
            )

        try:
            found = medians(
                interleaved({"one": run(1), "many": run(MANY)}, options.repeats)
            )  # fmt: skip
        finally:
            adapters.remove()
    each = {"one by one": found["one"] / steps, "at once": found["many"] / steps / MANY}
    details = {"seconds per embedding and step": each}
    return Result(found["many"] / MANY / found["one"], 0.35, False, details)


def core_trainer(world: World, batch: int, bypass: bool) -> Callable[[int], None]:
    """The host's TrainLoraNode in float32 without checkpointing, for a number of steps."""
    from comfy_extras.nodes_train import TrainLoraNode
    from dark_miner.demo.models import load_demo_models

    model = world.models[0]
    # The node copies a MODEL by loading it once more; ours is told how.
    model.cached_patcher_init = (lambda disable_dynamic=False: load_demo_models()[0], ())
    latents = model.model.process_latent_out(world.pool.latents[:batch])

    def train(steps: int) -> None:
        TrainLoraNode.execute(
            model=[model], latents=[{"samples": latents}], positive=[[[world.anchor, {}]]],
            batch_size=[batch], steps=[steps], grad_accumulation_steps=[1],
            learning_rate=[1e-5], rank=[8], optimizer=["SGD"], loss_function=["MSE"], seed=[0],
            training_dtype=["fp32"], lora_dtype=["fp32"], quantized_backward=[False],
            algorithm=["LoRA"], gradient_checkpointing=[False], checkpoint_depth=[1],
            offloading=[False], existing_lora=["[None]"], bucket_mode=[False],
            bypass_mode=[bypass],
        )  # fmt: skip

    return train


def per_step(train: Callable[[int], None], few: int, many: int, repeats: int) -> float:
    """Seconds of a step without what a run costs once."""
    found = medians(interleaved({"few": lambda: train(few), "many": lambda: train(many)}, repeats))
    return (found["many"] - found["few"]) / (many - few)


@row
def train_step(options: Options) -> Result:
    """Gallery model: core TrainLoraNode's step / ours at equal batch, the faster mode (goal 2)."""
    from dark_miner.darkminer.config import PAPER
    from dark_miner.darkminer.method.circumvent import circumvent
    from dark_miner.darkminer.method.loop import new_adapters
    from dark_miner.darkminer.types import EmbeddingPool

    batch, many = 4, options.steps or 24
    few = max(1, many // 6)
    with gallery_world(options.style) as world:
        pool = EmbeddingPool((random_embedding(world),), round=1, concept=options.style)

        def ours(steps: int, **changes: Any) -> None:
            config = replace(PAPER.circumvent, steps=steps, **changes)
            adapters = new_adapters(world.session, PAPER.lora, seed=SEED)
            try:
                circumvent(world.session, adapters, pool, world.anchor, config, seed=SEED)
            finally:
                adapters.remove()

        trainers = {
            # Four samples in the student's pass: the paper's step, with its three teacher answers.
            "ours, paper's step (batch 1, four terms)": ours,
            "ours, four embeddings (one term)": lambda n: ours(n, batch=batch, alpha_p=0.0),
            "core, weight mode": core_trainer(world, batch, bypass=False),
            "core, bypass mode": core_trainer(world, batch, bypass=True),
        }
        turns: dict[str, list[float]] = {name: [] for name in trainers}
        for _ in range(max(1, options.repeats // 2)):
            for name, train in trainers.items():
                turns[name].append(per_step(train, few, many, 1))
    found = medians(turns)
    core = min(found["core, weight mode"], found["core, bypass mode"])
    mine = max(v for k, v in found.items() if k.startswith("ours"))
    note = "the core node adapts every layer and bias, as it always does; setting up is left out"
    return Result(core / mine, 2.0, True, {"seconds per step": found}, note)
