"""A workflow of strangers stops its own run at the most, never the server."""

import asyncio
import importlib
import traceback

import pytest

from .conftest import script
from .test_files_out import FEW, MODELS
from .test_nodes import models_and_pool, node
from .test_pictures import next_prompt

pytestmark = pytest.mark.host

HALF = "a \ud800 *"  # half of a surrogate pair, which JSON can carry and no encoding write
LOOP = ("anchor_prompt", "negative_prompt", "threshold", "exclude_words", "open_clip_model")
POOL = ("concept", "template", "negative", "folder")


@pytest.mark.parametrize("field", [*POOL, *LOOP, "concepts", "filename_prefix"])
def test_half_a_surrogate_pair_in_any_text_leaves_the_server_running(comfy, field):
    pool = {field: HALF} if field in POOL else {}
    vision = {} if field == "open_clip_model" else {"clip_vision": ["m", 3]}
    loop = {**FEW, **vision, **({field: HALF} if field in LOOP else {})}
    work = models_and_pool(**pool)
    if field == "concepts":
        sizes = {"template": "a *", "size": 5, "width": 32, "height": 32}
        work["train"] = node("EraseConcepts", **MODELS, **loop, **sizes, concepts=HALF)
    else:
        work["train"] = node("DarkMinerLoop", **MODELS, **loop, pool=["pool", 0])
    prefix = HALF if field == "filename_prefix" else "loras/strangers_%concept%"
    work["save"] = node("SaveErasureLoRA", lora=["train", 1], filename_prefix=prefix)

    async def to_an_end(client):
        await asyncio.wait_for(client.run(work), 240)

    try:
        comfy.ask(to_an_end)
    except script("comfy_server").ServerError as error:
        str(error).encode()
    next_prompt(comfy)


@pytest.mark.parametrize("chained", [False, True])
def test_what_the_host_logs_of_an_error_can_be_written(hosted, chained):
    """A library's own message quotes what it was given, and the host logs what led to an error."""
    fields = importlib.import_module("dark_miner.nodes.fields")
    errors = importlib.import_module("dark_miner.darkminer.errors")
    for prefix in ("", "Node: "):
        with pytest.raises(errors.DarkMinerError, match="^Node: ") as caught, fields.named("Node"):
            try:
                raise RuntimeError(f"{prefix}a \ud800")
            except RuntimeError as error:
                if not chained:
                    raise
                raise errors.DarkMinerError(f"{prefix}sentence") from error
        "".join(traceback.format_exception(caught.value)).encode()
