"""How near a picture must lie to real drawings of a concept to count as one of it.

    COMFYUI_PATH=... python -m demo.limits                    every style
    COMFYUI_PATH=... python -m demo.limits --object rocket    and an object

Writes `limits.json`: for each concept the distance (`judge.Neighbourhood`) within which 95 % of the
pictures lie that the shipped model draws when it is asked for the concept in plain words. Only the
shipped model and real drawings decide it, never an erased model. The real drawings pass the
autoencoder first, as everything does that a model draws.
"""

import argparse
import json
from pathlib import Path

import torch

from .gallery import OBJECTS, SAMPLING, STYLES, drawings, prompt
from .host import use_host
from .judge import WEIGHTS, Neighbourhood
from .train_run import outdated, save

FILE = Path(__file__).with_name("limits.json")
CACHE = Path(__file__).with_name("runs") / "references"
REFERENCES = 2048  # real drawings of a concept
REFERENCE_SEED = 600_000  # of their placements
PICTURES = 480  # about so many by the shipped model decide the limit
PICTURE_SEED = 800_000  # of their noise
QUANTILE = 0.95


def concept_drawings(kind: str, name: str, count: int, seed: int) -> torch.Tensor:
    """Real drawings [count, 32, 32, 3] of a "style" (all objects) or an "object" (all styles)."""
    if kind == "style":
        return drawings(name, count, seed)[0]
    each = -(-count // len(STYLES))
    parts = [drawings(style, each, seed, objects=[name])[0] for style in STYLES]
    return torch.cat(parts)[:count]


@torch.no_grad()
def through(vae, images: torch.Tensor) -> torch.Tensor:
    """Images [n, H, W, 3] as the autoencoder gives them back, in bounded memory."""
    parts = [vae.decode(vae.encode(part)).float().cpu() for part in images.split(128)]
    return torch.cat(parts)


def references(kind: str, name: str, vae) -> torch.Tensor:
    """Real drawings of a concept as the autoencoder gives them back, [2048, 32, 32, 3].

    Kept in the run folder, since they take the autoencoder some time, until its weights are newer.
    """
    file = CACHE / f"{kind}-{name}.pt"
    if outdated(file, WEIGHTS / "vae.safetensors"):
        made = through(vae, concept_drawings(kind, name, REFERENCES, REFERENCE_SEED))
        file.parent.mkdir(parents=True, exist_ok=True)
        save((made.clamp(0, 1) * 255).round().byte(), file)
    return torch.load(file, weights_only=True).float() / 255


def neighbourhood(kind: str, name: str, vae) -> Neighbourhood:
    """The judge of a concept that may say "none of these".

    Raises:
        ValueError: the concept has no limit yet.
    """
    limit = read().get(kind, {}).get(name)
    if limit is None:
        raise ValueError(
            f"{kind} {name!r} has no limit in {FILE.name}: make it with `python -m demo.limits "
            f"--{kind} {name}`."
        )
    return Neighbourhood(references(kind, name, vae), limit)


def read() -> dict[str, dict[str, float]]:
    """Kind -> name -> limit."""
    return json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}


def asked(kind: str, name: str) -> list[str]:
    """Plain prompts that ask for the concept, about PICTURES of them."""
    texts = [prompt(name, o) for o in OBJECTS] if kind == "style" else [
        prompt(s, name) for s in STYLES
    ]  # fmt: skip
    return texts * -(-PICTURES // len(texts))


def measure(kind: str, name: str, models: tuple) -> float:
    """The limit of one concept."""
    from .measure import sample

    model, clip, vae = models
    near, distances = Neighbourhood(references(kind, name, vae), 0.0), []
    texts = asked(kind, name)
    for start in range(0, len(texts), 48):
        part = texts[start : start + 48]
        images = sample(model, clip, vae, part, PICTURE_SEED + start, SAMPLING)
        distances.append(near.distance(images))
    found = torch.cat(distances)
    limit = float(torch.quantile(found, QUANTILE))
    print(f"{kind} {name:10} median {float(found.median()):.4f}  limit {limit:.4f}", flush=True)
    return limit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--style", choices=STYLES, action="append", default=[])
    parser.add_argument("--object", choices=OBJECTS, action="append", default=[])
    args = parser.parse_args()
    chosen = [("style", s) for s in args.style] + [("object", o) for o in args.object]
    use_host()
    from .models import load_demo_models

    with torch.inference_mode():
        models = load_demo_models()[:3]
        limits = read()
        for kind, name in chosen or [("style", s) for s in STYLES]:
            limits.setdefault(kind, {})[name] = round(measure(kind, name, models), 4)
    FILE.write_text(json.dumps(limits, indent=2, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
