"""Turns checkpoints of the training into the weights that the pack ships.

    COMFYUI_PATH=... python -m demo.export FOLDER [--unet unet.pt] [--out demo/weights]

FOLDER holds ae.pt, clip.pt, judge.pt, latents.pt and unet.pt as `python -m demo.train` leaves
them. The files are float16; unet.safetensors carries the scale of the latents and the colours of
its previews as metadata. Each file is replaced in one step, so a reader never sees half of one.
"""

import argparse
import copy
import json
import os
from pathlib import Path

import torch
from safetensors.torch import save_file

from .gallery import OBJECTS, STYLES, load_atlas, place
from .host import use_host

OUT = Path(__file__).with_name("weights")
LIMIT = 24e6  # bytes, all files together

State = dict[str, torch.Tensor]


def flat(state: dict, prefix: str = "") -> State:
    """A state dict of state dicts as one, names joined by dots."""
    out: State = {}
    for name, value in state.items():
        if isinstance(value, dict):
            out.update(flat(value, f"{prefix}{name}."))
        else:
            out[prefix + name] = value
    return out


def read(file: Path, raw: bool = False) -> State:
    """The weights of a checkpoint: averaged ones where it keeps them, unless `raw`.

    A bare state dict is taken as it is.
    """
    saved = torch.load(file, map_location="cpu", weights_only=True)
    net = dict(saved["net"]) if "net" in saved else flat(saved)
    if saved.get("ema") and not raw:
        names = saved.get("parameters") or list(net)
        net.update(zip(names, saved["ema"], strict=True))
    return net


def part(state: State, *prefixes: str) -> State:
    """The entries under the first of the prefixes that occurs, without it."""
    for prefix in prefixes:
        found = {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}
        if found:
            return found
    raise ValueError(f"no weights named {' or '.join(prefixes)}")


def write(state: State, file: Path, metadata: dict[str, str] | None = None) -> int:
    """Saves a float16 copy in one step; returns its bytes."""
    halves = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    if not all(torch.isfinite(v).all() for v in halves.values()):
        raise ValueError(f"{file.name} would hold numbers that are not finite")
    halves = {k: v.detach().contiguous().clone() for k, v in halves.items()}
    draft = file.with_suffix(".tmp")
    save_file(halves, draft, metadata=metadata)
    draft.chmod(0o644)
    os.replace(draft, file)
    return file.stat().st_size


def preview_colours(autoencoder: State, std: float) -> tuple[list, list]:
    """Factors [8, 3] and bias [3] that turn a scaled latent into colours (-1..1).

    Least squares over one drawing of every object of every style and the mean colours of the
    4 x 4 pixels under each latent.
    """
    from comfy.ldm.models.autoencoder import AutoencoderKL

    from .models import AUTOENCODER, DOWNSCALE

    net = AutoencoderKL(**copy.deepcopy(AUTOENCODER)).eval()
    net.load_state_dict(autoencoder)
    index = torch.arange(len(STYLES) * len(OBJECTS))
    gen = torch.Generator().manual_seed(0)
    pictures = place(load_atlas(), index // len(OBJECTS), index % len(OBJECTS), gen) * 2 - 1
    with torch.no_grad():
        latents = net.encode(pictures) / std
    colours = torch.nn.functional.avg_pool2d(pictures, DOWNSCALE).movedim(1, -1).reshape(-1, 3)
    points = latents.movedim(1, -1).flatten(0, 2)
    points = torch.cat([points, torch.ones(len(points), 1)], 1)
    fit = torch.linalg.lstsq(points, colours).solution
    rounded = [[round(v, 4) for v in row] for row in fit.tolist()]
    return rounded[:-1], rounded[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--unet", default="unet.pt", help="the UNet's checkpoint in the folder")
    parser.add_argument("--raw", action="store_true", help="the UNet's last weights, not averaged")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    use_host()
    args.out.mkdir(parents=True, exist_ok=True)

    autoencoder = read(args.folder / "ae.pt")
    std = float(torch.load(args.folder / "latents.pt", weights_only=True, mmap=True)["std"])
    factors, bias = preview_colours(autoencoder, std)
    facts = {
        "latent_std": repr(std),
        "latent_rgb_factors": json.dumps(factors),
        "latent_rgb_factors_bias": json.dumps(bias),
    }
    pair = read(args.folder / "clip.pt")
    text = {f"clip_l.transformer.{k}": v for k, v in part(pair, "text.", "T.").items()}
    text["clip_l.logit_scale"] = pair["scale"]
    sizes = {
        "unet": write(
            read(args.folder / args.unet, args.raw), args.out / "unet.safetensors", facts
        ),
        "vae": write(autoencoder, args.out / "vae.safetensors"),
        "clip_text": write(text, args.out / "clip_text.safetensors"),
        "clip_vision": write(part(pair, "vision.", "V."), args.out / "clip_vision.safetensors"),
        "judge": write(read(args.folder / "judge.pt"), args.out / "judge.safetensors"),
    }
    for name, size in sizes.items():
        print(f"{name:12}{size / 1e6:8.2f} MB")
    print(f"{'together':12}{sum(sizes.values()) / 1e6:8.2f} MB")
    if sum(sizes.values()) > LIMIT:
        raise SystemExit(f"the weights are larger than {LIMIT / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
