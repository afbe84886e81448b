"""The methods that benchmarks.comparison holds beside one another, and how a node of one is run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

PARTS = ("part", "loss", "layers", "setting")
"""Inputs that make of a node the method of a row."""


@dataclass(frozen=True)
class Method:
    """A node and what it is set to.

    Attributes:
        title: its row's name.
        node: its id; empty for a preset of this pack's own loop, or none at all.
        given: values of its inputs; of a preset, settings that differ from it.
        preset: of this pack's own loop.
    """

    title: str
    node: str = ""
    given: dict[str, Any] = field(default_factory=dict)
    preset: str = ""


METHODS: dict[str, Method] = {
    "none": Method("no erasure"),
    "esd-x": Method("ESD-x", "ErasedStableDiffusion", {
        "part": "x", "eta": 1.0, "steps": 300, "learning_rate": 1e-3, "rank": 16,
        "draw_steps": 20, "guidance": 3.0,
    }),
    "esd-u": Method("ESD-u", "ErasedStableDiffusion", {
        "part": "u", "eta": 1.0, "steps": 300, "learning_rate": 1e-3, "rank": 16,
        "draw_steps": 20, "guidance": 3.0,
    }),
    "uce": Method("UCE", "UnifiedConceptEditing", {
        "preserve_prompts": "", "erase_scale": 1.0, "preserve_scale": 0.1, "lamb": 0.5, "rank": 64,
    }),
    "ca": Method("Concept Ablation", "ConceptAblation", {
        "steps": 300, "learning_rate": 1e-3, "rank": 16, "batch": 8, "prior": 0.0, "prompts": 64,
    }),
    "leco": Method("LECO", "ConceptSlider", {
        "loss": "leco", "layers": "both", "scale": 1.0, "steps": 300, "learning_rate": 1e-3,
        "rank": 16, "draw_steps": 20, "guidance": 3.0, "prompts": 16,
    }),
    "salun": Method("SalUn", "SaliencyUnlearning", {
        "steps": 300, "learning_rate": 1e-3, "rank": 64, "batch": 4, "share": 0.5, "beta": 1.0,
        "prompts": 64,
    }),
    "stereo": Method("STEREO", "StereoErasure", {
        "layers": "both", "rounds": 2, "steps": 200, "learning_rate": 1e-3, "rank": 16,
        "search_steps": 300, "search_rate": 5e-3, "word": "picture", "eta": 1.0, "toward": 1.0,
        "away": 3.0, "draw_steps": 20, "guidance": 3.0, "prompts": 64,
    }),
    **{f"sld-{s}": Method(f"SLD, {s}", "SafeLatentDiffusion", {"setting": s, "strength": 1.0})
       for s in ("medium", "strong", "max")},
    "fast": Method("this pack, `fast`", preset="fast"),
    "paper": Method("this pack, `paper`", given={"max_rounds": 5}, preset="paper"),
}  # fmt: skip
"""Every method with the settings that it is compared at."""


def node_of(name: str) -> Any:
    """The node of an id."""
    import dark_miner.nodes as pack

    return next(n for n in pack.NODES if n.define_schema().node_id == name)


def drawing_inputs(sampling: Any) -> dict[str, Any]:
    """How pictures are made, as a node's inputs."""
    return {
        "sampling_steps": sampling.steps, "cfg": sampling.cfg, "batch_size": sampling.batch,
        "sampler_name": sampling.sampler, "scheduler": sampling.scheduler,
    }  # fmt: skip


def by_node(
    node: Any, model: Any, clip: Any, concept: str, pool: Callable[[], Any],
    own: Mapping[str, Any], shared: Mapping[str, Any],
) -> tuple[Any, Any]:  # fmt: skip
    """The erased MODEL of a method's node, and its LoRA; None where it makes none.

    Args:
        pool: makes the pool, where the node takes one.
        own: what this method is set to; shared: what all methods are given that have such inputs.
    """
    from dark_miner.nodes.host.text import conditioning

    declared = {i.id for i in node.define_schema().inputs}
    given = {"model": model, **{k: v for k, v in shared.items() if k in declared}, **own}
    if "clip" in declared:
        given["clip"] = clip
    else:
        given["concept"] = conditioning(clip, concept)
    if "pool" in declared:
        given["pool"] = pool()
    erased, *rest = node.execute(**given).args
    return erased, rest[0] if rest else None


def widgets(node: Any) -> dict[str, Any]:
    """The inputs of a node that hold a value, by name."""
    return {i.id: i for i in node.define_schema().inputs
            if getattr(i, "default", None) is not None}  # fmt: skip
