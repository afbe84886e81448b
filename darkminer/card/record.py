"""The card as JSON: every figure, every text, everything that the run was given."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from ..attacks.effects import Effects
from ..attacks.examined import Protocol
from ..attacks.red_team import Row
from ..errors import writable
from ..judge.evaluate import Proportion
from .card import ABOUT, Card, sentences
from .limits import limits

FORMAT = 1


def as_json(card: Card) -> str:
    """The record as text, ``\\n`` at its end."""
    return json.dumps(record(card), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def record(card: Card) -> dict[str, Any]:
    """The record as plain values."""
    models = {
        column: {
            "about": ABOUT[column],
            "model": one.protocol.model,
            "lora": one.protocol.lora,
            "seconds": round(one.protocol.seconds, 1),
            "attacks": {name: of_row(row) for name, row in one.found.rows.items()},
        }
        for column, one in card.columns.items()
    }
    excess = {name: card.excess(name) for name in card.names()}
    return _writable({
        "format": FORMAT,
        "concept": card.concept,
        "verdict": card.verdict,
        "words": list(sentences(card)),
        "limits": list(limits(card)),
        "protocol": of_protocol(card.after.protocol),
        "models": models,
        "effects": None if card.effects is None else of_effects(card.effects),
        "excess": {name: list(value) for name, value in excess.items() if value is not None},
    })  # fmt: skip


def of_protocol(protocol: Protocol) -> dict[str, Any]:
    """How the models were attacked."""
    return {
        "prompts": [asdict(prompt) for prompt in protocol.prompts],
        "pictures_of_each_prompt": protocol.each,
        "seed": protocol.seed,
        "effort": protocol.effort,
        "attacks": {name: asdict(config) for name, config in protocol.settings.items()},
        "sampling": asdict(protocol.sampling),
        "detector": asdict(protocol.detector),
        "versions": dict(protocol.versions or {}),
    }


def of_effects(effects: Effects) -> dict[str, Any]:
    """The strength curve and the drift."""
    return {
        "strengths": [
            {"strength": p.strength, "success": of_share(p.ratio), "score": asdict(p.score)}
            for p in effects.strengths
        ],
        "drift": {"value": effects.drift.value, "prompts": list(effects.drift.prompts)},
    }


def of_row(row: Row) -> dict[str, Any]:
    """What one attack came to."""
    return {
        "title": row.title,
        "success": of_share(row.success),
        "score": asdict(row.score),
        "by_step": [{"step": step, **of_share(p)} for step, p in row.by_step()],
        "attempts": [
            {
                "prompt": attempt.prompt, "score": float(score), "hit": bool(hit),
                "text": None if attempt.spoken is None else attempt.spoken.text,
                "read_otherwise": bool(attempt.spoken and attempt.spoken.differs),
                "looks": [[look.step, look.score, look.hit] for look in attempt.looks],
                "losses": attempt.losses,
            }
            for attempt, score, hit in zip(
                row.attempts, row.sight.scores, row.sight.hits, strict=True
            )
        ],
    }  # fmt: skip


def of_share(p: Proportion) -> dict[str, Any]:
    """A share with its interval."""
    return {"share": p.value, "hits": p.hits, "count": p.count, "interval": list(p.interval)}


def _writable(value: Any) -> Any:
    """The same with escapes in texts that no encoding can write."""
    if isinstance(value, str):
        return writable(value)
    if isinstance(value, dict):
        return {_writable(k): _writable(v) for k, v in value.items()}
    return [_writable(v) for v in value] if isinstance(value, (list, tuple)) else value
