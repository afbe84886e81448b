"""Time and memory of a full-size model with random weights, outside the default tests.

    python -m benchmarks.full_size sd15     peaks at 9.9 GB on a CPU
    python -m benchmarks.full_size sdxl     about three times that; not measured

Writes a UNet file of the family's real size, lets ComfyUI detect and load it, mines one step,
circumvents one step, and prints seconds and the process's peak memory. COMFYUI_PATH names the host.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from .hosted import load_pack
from .speed_rows.full_size import SD15, SDXL

SIZES = {"sd15": SD15, "sdxl": SDXL}


def peak() -> float:
    """Peak memory of this process in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def write(size: str, path: Path) -> None:
    """A file of float16 random weights in the family's layout."""
    import comfy.ops
    import torch
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
    from safetensors.torch import save_file

    with torch.inference_mode():
        network = UNetModel(
            **SIZES[size].shape, dtype=torch.float16, operations=comfy.ops.disable_weight_init
        )
        for name, p in network.named_parameters():
            scale = p[0].numel() ** -0.5 if p.ndim > 1 else 0.02
            p.normal_(0.0, scale).add_(float(p.ndim == 1 and name.endswith("weight")))
        save_file({k: v.contiguous() for k, v in network.state_dict().items()}, path)


def erase_a_step(model: Any, width: int, pooled: bool, side: int) -> None:
    """One step of mining and one of circumventing; prints each one's seconds."""
    import torch
    from dark_miner.darkminer import config, types
    from dark_miner.darkminer.method import circumvent, image_pool, loop, mine
    from dark_miner.nodes.host.session import training_session

    extra = {"pooled_output": torch.randn(1, 1280)} if pooled else {}
    anchor = torch.randn(1, 77, width)
    sampling = config.SamplingConfig(1, 1.0, "euler", "normal", 1)
    few = {"steps": 1, "lr_drop": 1, "batch": 1, "images": 1}
    with training_session(
        model, anchor=[[anchor, extra]], sampling=sampling, latent_size=(side, side)
    ) as session:
        start = time.monotonic()
        mining = replace(config.PAPER.mine, steps=1, lr_drop=1, count=1, k=1, batch=1, length=8)
        pool = types.ImagePool(
            torch.randn(1, *session.latent_shape), torch.zeros(1, 8, 8, 3, dtype=torch.uint8),
            "c", "", 0, session.fingerprint,
        )  # fmt: skip
        image_pool.check_pool(pool, 1, session)
        found = mine.mine(session, pool, anchor, mining, seed=0, round_=1).embeddings
        print(f"mining, one step: {time.monotonic() - start:.1f} s")
        adapters = loop.new_adapters(session, config.PAPER.lora, seed=0)
        start = time.monotonic()
        training = replace(config.PAPER.circumvent, **few)
        embeddings = types.EmbeddingPool(concept="c").opened(found)
        circumvent.circumvent(session, adapters, embeddings, anchor, training, seed=0)
        seconds = time.monotonic() - start
        print(f"circumventing, one picture and one step: {seconds:.1f} s")
        print(f"layers adapted: {len(adapters.names)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("size", choices=list(SIZES))
    parser.add_argument("--side", type=int, default=32, help="height and width in latents")
    options = parser.parse_args()
    load_pack()
    import comfy.sd

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        write(options.size, path)
        print(f"file: {path.stat().st_size / 1e9:.2f} GB")
        start = time.monotonic()
        model = comfy.sd.load_diffusion_model(str(path))
        print(f"loaded as {type(model.model.model_config).__name__}: "
              f"{time.monotonic() - start:.1f} s")  # fmt: skip
        width = SIZES[options.size].shape["context_dim"]
        erase_a_step(model, width, options.size == "sdxl", options.side)
    print(f"peak memory: {peak():.1f} GB")


if __name__ == "__main__":
    main()
