"""The metadata of a LoRA file: one schema, whichever node made it.

Values are strings, as safetensors has them. ``ss_`` and ``modelspec.`` fields are for LoRA
managers; the tensors' hashes come in when the file is written (:mod:`~.lora_hash`). Of the
``darkminer_`` fields ``darkminer_runs`` holds everything: a JSON list with one record (see
:func:`_run`) for each training that went into the file, the oldest first. The others repeat the
newest record's values for readers of single fields; ``darkminer_schema`` counts up when a field of
ours changes its meaning.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from .. import __version__
from ..errors import writable
from ..model.adapter import AdapterState
from ..model.sampling import SamplingConfig
from ..settings import Settings
from ..types import EmbeddingPool

SCHEMA = "1"
_REPEATED = ("anchor", "negative", "sampling", "encoder", "pool", "settings", "history")


@dataclass(frozen=True)
class Origin:
    """What a LoRA was trained from, besides settings and seed; None where it is not known.

    Attributes:
        node: what trained it.
        concept: in words, where the embeddings name none.
        anchor, negative: the prompt, or ``{"context": digest}`` of one that came encoded.
        sampling: how pictures were made.
        encoder: the image encoder: ``{"clip_vision": digest}``, or open_clip's names.
        pool: the pictures: number, size, prompt, seed, model and digest.
        exclude: words that no prompt held.
        keep: digests of the kept prompts.
        bank: prompts of the vocabulary bank, where it was handed in.
        run_folder: the folder below the host's output folder that kept the run; empty for none.
        before: metadata of the LoRA that was continued.
    """

    node: str = ""
    concept: str = ""
    anchor: str | dict[str, str] | None = None
    negative: str | dict[str, str] | None = None
    sampling: SamplingConfig | None = None
    encoder: dict[str, str] | None = None
    pool: dict[str, Any] | None = None
    exclude: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    bank: int | None = None
    run_folder: str = ""
    before: Mapping[str, str] = field(default_factory=dict)


def metadata(
    state: AdapterState,
    embeddings: EmbeddingPool,
    *,
    seed: int,
    settings: Settings | Mapping[str, Any],
    fingerprint: str,
    family: str,
    origin: Origin | None = None,
) -> dict[str, str]:
    """What LoRA managers and people want to know about the file.

    Args:
        settings: all of a loop's, or those stages that ran.
        fingerprint: of the MODEL, with what was on it.
    """
    origin = origin or Origin()
    run = _run(state, embeddings, seed, settings, fingerprint, origin)
    concepts = list(dict.fromkeys([*_concepts(origin.before), run["concept"]]))
    return _fields(
        runs=[*runs_of(origin.before), run], concepts=[c for c in concepts if c],
        seed=str(seed), rounds=str(embeddings.round), rank=state.rank, alpha=state.alpha,
        family=family, fingerprint=fingerprint,
    )  # fmt: skip


def _run(
    state: AdapterState,
    embeddings: EmbeddingPool,
    seed: int,
    settings: Settings | Mapping[str, Any],
    fingerprint: str,
    origin: Origin,
) -> dict[str, Any]:
    """One training: what it was given and what it did."""
    return {
        "node": origin.node,
        "version": __version__,
        "concept": embeddings.concept or origin.concept,
        "seed": seed,
        "rounds": embeddings.round,
        "history": [asdict(record) for record in embeddings.history],
        "settings": asdict(settings) if isinstance(settings, Settings) else dict(settings),
        "rank": state.rank,
        "alpha": state.alpha,
        "anchor": origin.anchor,
        "negative": origin.negative,
        "sampling": None if origin.sampling is None else asdict(origin.sampling),
        "encoder": origin.encoder,
        "pool": origin.pool,
        "exclude": list(origin.exclude),
        "keep": list(origin.keep),
        "bank": origin.bank,
        "run_folder": origin.run_folder,
        "base_fingerprint": fingerprint,
    }


def _fields(
    *,
    runs: Sequence[Mapping[str, Any]],
    concepts: Sequence[str],
    seed: str,
    rounds: str,
    rank: int,
    alpha: float,
    family: str,
    fingerprint: str,
) -> dict[str, str]:
    """All fields of a file."""
    concept = " and ".join(concepts)
    title = f"erase {concept}".strip()
    newest = runs[-1] if runs else {}
    about = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(rank),
        "ss_network_alpha": f"{alpha:g}",
        "ss_base_model_version": family,
        "ss_output_name": title,
        "ss_tag_frequency": "{}",
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{family}/lora",
        "modelspec.title": title,
        "modelspec.usage_hint": f"Strength 1 takes {concept or 'the concept'} out of the model.",
        "darkminer_schema": SCHEMA,
        "darkminer_version": __version__,
        "darkminer_node": str(newest.get("node", "")),
        "darkminer_concept": concept,
        "darkminer_concepts": json.dumps(list(concepts)),
        "darkminer_seed": seed,
        "darkminer_rounds": rounds,
        "darkminer_empty": "false",
        "darkminer_outcome": "",
        "darkminer_base_fingerprint": fingerprint,
        "darkminer_runs": json.dumps(runs, sort_keys=True),
    }
    about |= {f"darkminer_{k}": json.dumps(newest.get(k), sort_keys=True) for k in _REPEATED}
    return {key: writable(value) for key, value in about.items()}


def joint_metadata(parts: Sequence[Mapping[str, str]], rank: int) -> dict[str, str]:
    """Of several LoRAs in one whose rank is ``rank``; the base is the first one's."""
    concepts = [concept for part in parts for concept in _concepts(part)]
    return _fields(
        runs=[run for part in parts for run in runs_of(part)],
        concepts=list(dict.fromkeys(concepts)),
        seed=", ".join(p.get("darkminer_seed", "?") for p in parts),
        rounds=", ".join(p.get("darkminer_rounds", "?") for p in parts),
        rank=rank, alpha=rank,
        family=next((f for p in parts if (f := p.get("ss_base_model_version"))), ""),
        fingerprint=parts[0].get("darkminer_base_fingerprint", ""),
    )  # fmt: skip


def with_newest(about: Mapping[str, str], **values: Any) -> dict[str, str]:
    """The fields with other values in the newest record."""
    runs = runs_of(about)
    if not runs:
        return dict(about)
    newest = {**runs[-1], **values}
    return {**about, "darkminer_runs": json.dumps([*runs[:-1], newest], sort_keys=True)}


def runs_of(about: Mapping[str, str]) -> list[dict[str, Any]]:
    """The records of a file."""
    return [run for run in _list(about, "runs") if isinstance(run, dict)]


def _concepts(about: Mapping[str, str]) -> list[str]:
    """The concepts that a file names; one of before the schema names one."""
    named = [c for c in _list(about, "concepts") if isinstance(c, str)]
    return named or [c for c in [about.get("darkminer_concept", "")] if c]


def _list(about: Mapping[str, str], name: str) -> list[Any]:
    """A field that holds a JSON list; empty where a file has none that can be read."""
    try:
        read = json.loads(about.get(f"darkminer_{name}", "[]"))
    except (TypeError, ValueError, RecursionError):
        return []
    return read if isinstance(read, list) else []
