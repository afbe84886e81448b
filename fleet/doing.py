"""One row, from loaded models to files and a result, in the process that was started for it."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import sys
import threading
from pathlib import Path
from typing import Any

from ..darkminer.errors import DarkMinerError
from ..darkminer.files.atomic import write_whole
from ..hosting import use_host
from .places import bring_out, here
from .process import Task
from .results import DONE
from .row import GALLERY, Row

log = logging.getLogger(__name__)


def main() -> int:
    """Do the row that comes as the first line of the standard input; say what came of it."""
    task = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    said, sys.stdout = sys.stdout, sys.stderr  # what others print is no result
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    folder = Path(task["folder"])
    result = _before(folder, task["digest"])
    if result is None:
        try:
            use_host()
            result = do(Row.of(task["row"]), folder, task)
            if task["url"]:
                bring_out(folder, [p.name for p in folder.iterdir() if p.is_file()], task["url"])
            text = json.dumps({**result, "digest": task["digest"]}, indent=1) + "\n"
            write_whole(folder / DONE, [text.encode()])  # last: it says that nothing is left to do
        except (Exception, SystemExit) as error:
            log.exception("The row has failed.")
            why = " ".join(str(error).split()) or type(error).__name__
            known = isinstance(error, (DarkMinerError, SystemExit))
            result = {"status": "failed", "why": why if known else f"{type(error).__name__}: {why}"}
    said.write(json.dumps(result) + "\n")
    said.flush()
    return 0


def _end_with_parent() -> None:
    """End this process where the one that has started it is gone: nobody would take the result, and
    another machine is given the row."""
    while os.read(0, 1):  # past Python's own buffer, whose lock would outlive this thread
        pass
    os._exit(3)


def _before(folder: Path, digest: str) -> dict[str, Any] | None:
    """What the same row has come to before, where only its line is missing in the table."""
    try:
        found = json.loads((folder / DONE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if found.get("digest") == digest else None


def do(row: Row, folder: Path, task: Task) -> dict[str, Any]:
    """Erase, save, attack and bake as the row says.

    Args:
        folder: the row's own, in which it may have been begun before.

    Returns:
        the result, with ``status`` "done".

    Raises:
        DarkMinerError: if something of it cannot be done.
    """
    from ..darkminer.method.words import split_words
    from ..nodes.erase.erasing import run_erasure, run_plan
    from ..nodes.erase.image_pool import made
    from ..nodes.erase.kept import Kept
    from ..nodes.erase.origin import encoder_record
    from ..nodes.erase.verify import encoder
    from ..nodes.host.run import Progress
    from ..nodes.host.text import contexts
    from . import host

    host.use_output(folder)
    cache, config = Path(task["cache"]), row.config()
    source = row.source if row.source == GALLERY else str(here(row.source, cache))
    model, clip, vae, vision = host.load(source, row.clip_vision)
    encode = encoder(vision, row.open_clip, row.open_clip_weights, "fleet")
    keep = [c[None] for c in contexts(clip, list(row.keep))]
    progress = Progress("fleet", run_plan(config, config.sampling, keep=keep))
    pool = made(
        model, clip, vae, row.concept, row.template, row.negative, row.pictures, row.width,
        row.height, row.seed, config.sampling, progress,
    )  # fmt: skip
    done, lora = run_erasure(
        model, clip, vae, encode, pool, config, anchor=row.anchor, negative=row.negative,
        sampling=config.sampling, seed=row.seed, exclude=split_words(row.exclude), keep=keep,
        report=progress, kept=Kept(_RUN, elsewhere_over=True),
        origin=_origin(encoder_record(vision, row.open_clip, row.open_clip_weights)),
    )  # fmt: skip
    outcome = done.outcome
    result: dict[str, Any] = {
        "status": "done", "verdict": outcome.verdict, "words": outcome.words,
        "score": outcome.score if math.isfinite(outcome.score) else None, "files": {},
    }  # fmt: skip
    if not outcome.empty:
        _save(row, folder, lora, done, result)
    if row.attacks:
        _attack(row, folder, (model, clip, vae), pool, None if outcome.empty else lora, result)
    if row.bake and not outcome.empty:
        target = folder / f"{row.name}.checkpoint.safetensors"
        host.save_baked((model, clip, vae), folder / result["files"]["lora"], target)
        result["files"]["checkpoint"] = target.name
    return result


_RUN = "run"


def _origin(encoder: dict[str, Any]) -> Any:
    from ..darkminer.files.lora_metadata import Origin

    return Origin(node="fleet", encoder=encoder)


def _save(row: Row, folder: Path, lora: Any, done: Any, result: dict[str, Any]) -> None:
    """The LoRA, and its report beside it, as Save Erasure LoRA writes them."""
    from ..darkminer.files.lora_file import save_lora
    from ..nodes.erase.report import report_picture
    from ..nodes.erase.save_lora import save_report
    from ..nodes.host.run import save_picture

    path, picture = folder / f"{row.name}.safetensors", report_picture(done)
    save_lora(path, lora, lora.metadata)
    save_picture(path.with_suffix(".png"), picture)
    save_report(path, lora.metadata, lora.told, picture)
    result["files"] |= {"lora": path.name, "report": path.with_suffix(".report.html").name}
    result["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()


def _attack(
    row: Row, folder: Path, models: tuple[Any, Any, Any], pool: Any, lora: Any,
    result: dict[str, Any],
) -> None:  # fmt: skip
    """The report card of the attacks that were asked for, as the nodes make it."""
    from ..darkminer.attacks.catalogue import ATTACKS
    from ..darkminer.card.card import card_of
    from ..nodes.attack.card import write_card
    from ..nodes.attack.red_team import RedTeam
    from ..nodes.host.text import conditioning

    model, clip, vae = models
    sampling = row.config().sampling

    def findings(erasure: Any) -> Any:
        attacked = {"original": model} if erasure is None else {"lora": erasure}
        return RedTeam.execute(
            model=model, clip=clip, vae=vae, pool=pool, anchor=conditioning(clip, row.anchor),
            seed=row.seed, sampling_steps=sampling.steps, cfg=sampling.cfg,
            sampler_name=sampling.sampler, scheduler=sampling.scheduler,
            batch_size=sampling.batch, detector=row.detector, effort=row.effort,
            count=row.prompts, exclude_words=row.exclude,
            negative=conditioning(clip, row.negative), open_clip_model=row.open_clip,
            open_clip_weights=row.open_clip_weights, **attacked,
            **{name.replace("-", "_"): name in row.attacks for name in ATTACKS},
        ).args[6]  # fmt: skip

    after = findings(lora)
    before = findings(None) if row.before and lora is not None else None
    page = folder / f"{row.name}.card.html"
    write_card(card_of(after, before), page)
    result["files"]["card"] = page.name
    result["attacks"] = {
        name: {"share": found.success.value, "hits": found.success.hits,
               "count": found.success.count}
        for name, found in after.found.rows.items()
    }  # fmt: skip
    result["worst"] = after.found.worst
