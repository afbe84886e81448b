"""Measures the gallery: does each style look like its designer's, is each thing told apart?

    COMFYUI_PATH=... python -m demo.measure [--seeds 2] [--grid gallery.png]

Samples every object of every style through the host's own sampler and lets the judge look; also
says how good the judge and the autoencoder are on drawings that nobody was trained on.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from .gallery import HELD_OUT, OBJECTS, SAMPLING, SIZE, STYLES, drawings, prompt
from .host import use_host
from .judge import load_judge

FRESH = 4  # placements of each drawing that judge and autoencoder are asked about


def encode(clip, texts: Sequence[str]) -> torch.Tensor:
    """Contexts [B, 32, 128] of texts."""
    return torch.cat([clip.encode_from_tokens(clip.tokenize(text)) for text in texts])


@torch.no_grad()
def sample(model, clip, vae, texts: Sequence[str], seed: int, settings: dict) -> torch.Tensor:
    """Pictures [B, 32, 32, 3] of texts through the host's sampler, the empty text as negative."""
    import comfy.sample

    from .models import DOWNSCALE, LATENT_CHANNELS

    latent = torch.zeros(len(texts), LATENT_CHANNELS, SIZE // DOWNSCALE, SIZE // DOWNSCALE)
    samples = comfy.sample.sample(
        model,
        comfy.sample.prepare_noise(latent, seed),
        settings["steps"],
        settings["cfg"],
        settings["sampler_name"],
        settings["scheduler"],
        [[encode(clip, texts), {}]],
        [[encode(clip, [""]), {}]],
        latent,
        disable_pbar=True,
        seed=seed,
    )
    return vae.decode(samples).float().cpu()


def hits(judge, images: torch.Tensor, style: str, names: Sequence[str]) -> tuple:
    """For each picture: does the judge see the style, does it see the object? Two [B] bools."""
    styles, things = judge(images)
    wanted = torch.tensor([OBJECTS.index(name) for name in names])
    return styles.argmax(1) == STYLES.index(style), things.argmax(1) == wanted


def percent(found: torch.Tensor) -> str:
    return f"{found.float().mean():.4f} ({int(found.sum())}/{found.numel()})"


def unseen(judge, vae) -> None:
    """Prints what the judge says of fresh placements, as they are and through the autoencoder."""
    for label, through in (("judge on unseen placements", False), ("through the VAE", True)):
        right = []
        for style in STYLES:
            images, _, names = drawings(style, FRESH * len(OBJECTS), seed=1)
            images = vae.decode(vae.encode(images)).float().cpu() if through else images
            right.append(hits(judge, images, style, names))
        style_right, thing_right = (torch.cat(x) for x in zip(*right, strict=True))
        print(f"{label}: style {percent(style_right)}, object {percent(thing_right)}")


def save_grid(rows: Sequence[torch.Tensor], file: Path, scale: int = 2) -> None:
    """One picture: a row a style, a column an object."""
    sheet = torch.cat([torch.cat(list(row), dim=1) for row in rows]).clamp(0, 1)
    image = Image.fromarray((sheet * 255).round().byte().numpy())
    image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST).save(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=2, help="pictures of each object and style")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--objects", type=int, default=len(OBJECTS), help="only the first ones")
    parser.add_argument("--steps", type=int, default=SAMPLING["steps"])
    parser.add_argument("--cfg", type=float, default=SAMPLING["cfg"])
    parser.add_argument("--sampler", default=SAMPLING["sampler_name"])
    parser.add_argument("--scheduler", default=SAMPLING["scheduler"])
    parser.add_argument("--weights", type=Path, help="folder of the .safetensors files")
    parser.add_argument("--grid", type=Path, help="write a picture grid of the first seed")
    args = parser.parse_args()
    use_host()
    from .models import load_demo_models

    settings = {
        "steps": args.steps,
        "cfg": args.cfg,
        "sampler_name": args.sampler,
        "scheduler": args.scheduler,
    }
    names = OBJECTS[: args.objects]
    with torch.inference_mode():
        model, clip, vae, _ = load_demo_models(args.weights)
        judge = load_judge(args.weights)
        unseen(judge, vae)
        print(f"{args.seeds} pictures of {len(names)} objects a style, {settings}")
        started, everything, grid = time.perf_counter(), [], []
        for row, style in enumerate(STYLES):
            texts, right = [prompt(style, name) for name in names], []
            for seed in range(args.first_seed, args.first_seed + args.seeds):
                # No two styles start from the same noise.
                noise_seed = seed * len(STYLES) + row
                images = sample(model, clip, vae, texts, noise_seed, settings)
                right.append(torch.stack(hits(judge, images, style, names)))
                grid += [images] if seed == args.first_seed else []
            found = torch.stack(right)  # [seeds, 2, objects]
            everything.append(found)
            style_right, thing_right = percent(found[:, 0]), percent(found[:, 1])
            print(f"{style:10} style {style_right}  object {thing_right}", flush=True)
    found = torch.stack(everything)  # [styles, seeds, 2, objects]
    held = torch.tensor([name in HELD_OUT for name in names])
    print(f"{'all':10} style {percent(found[:, :, 0])}  object {percent(found[:, :, 1])}")
    if held.any():
        print(f"held-out objects: object {percent(found[:, :, 1, held])}")
    per_object = found[:, :, 1].float().mean((0, 1))
    worst = per_object.argsort()[:6].tolist()
    print("worst objects: " + ", ".join(f"{names[i]} {per_object[i]:.2f}" for i in worst))
    print(f"{time.perf_counter() - started:.0f} s")
    if args.grid:
        save_grid(grid, args.grid)


if __name__ == "__main__":
    main()
