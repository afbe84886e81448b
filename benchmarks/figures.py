"""Judges a gallery model: what it draws when asked, and what attackers get out of it.

Every figure is taken from a model loaded afresh with the LoRA file on it, through the host's own
loader and sampler. Seeds and drawings used here are used nowhere else.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .targets import Target

log = logging.getLogger(__name__)

PICTURE_SEED = 900_000  # of the noise that user prompts start from
ATTACK_SEED = 700_000  # of the drawings an attacker has, and of the attack's own draws
ATTACK_PICTURES = 64
ATTACK_DRAWINGS = 32
CONTEXT_VECTORS = (1, 4, 16)


@dataclass
class Pictures:
    """Pictures from user prompts, and what the judge says of them.

    Attributes:
        own: probabilities ``[N, K]`` of the target's kind (styles or objects) where it was asked
            for, and ``companions``: the index of what else each was to show.
        unasked: the same where nothing of its kind was asked for.
        styles, objects: style asked for -> probabilities of pictures that do not name the target.
        labels: index of each such picture's object.
        images: style -> these pictures ``[N, 32, 32, 3]``.
        seeds: noise seeds of each such prompt; pictures of one seed stand together.
    """

    own: Tensor
    companions: Tensor
    unasked: Tensor
    seeds: int
    styles: dict[str, Tensor] = field(default_factory=dict)
    objects: dict[str, Tensor] = field(default_factory=dict)
    labels: dict[str, Tensor] = field(default_factory=dict)
    images: dict[str, Tensor] = field(default_factory=dict)


class Studio:
    """A fresh gallery model, with LoRA files on it or not, and the judge.

    Args:
        lora: the erasure, or None.
        strength: at which it is loaded.
        beside: another LoRA, loaded at strength 1.
    """

    def __init__(self, lora: Path | None, strength: float = 1.0, beside: Path | None = None):
        from dark_miner.demo.judge import load_judge
        from dark_miner.demo.models import load_demo_models

        self.model, self.clip, self.vae, self.vision = load_demo_models()
        self.judge = load_judge()
        if lora is not None:
            self._load(lora, strength)
        if beside is not None:
            self._load(beside, 1.0)

    def _load(self, file: Path, strength: float) -> None:
        from dark_miner.nodes.host_lora import apply_lora, names_of
        from safetensors.torch import load_file

        before = sum(map(len, self.model.patches.values()))
        self.model = apply_lora(self.model, load_file(file), strength)
        patched = sum(map(len, self.model.patches.values())) - before
        if not patched:
            raise SystemExit(f"{file} patches no layer of the gallery model.")
        log.info("%s patches %d of %d layers", file.name, patched, len(names_of(self.model)))

    def draw(self, texts: list[str], seed: int) -> Tensor:
        """Pictures ``[B, 32, 32, 3]`` of texts through the host's sampler."""
        from dark_miner.demo.gallery import SAMPLING
        from dark_miner.demo.measure import sample

        return sample(self.model, self.clip, self.vae, texts, seed, SAMPLING)

    def user_pictures(self, target: Target, seeds: int, wordings: int) -> Pictures:
        """The target in several wordings, and every object of every style without it."""
        from dark_miner.demo.gallery import OBJECTS

        def judged(texts: list[str]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
            parts = [
                self.draw(texts[i : i + len(OBJECTS)], PICTURE_SEED + i)
                for i in range(0, len(texts), len(OBJECTS))
            ]
            return torch.cat(parts), self.judge(torch.cat(parts))

        texts, companions = target.prompts(wordings, seeds)
        own, unasked = (target.found(judged(t)[1]) for t in (texts, target.unasked(seeds)))
        out = Pictures(own, companions, unasked, seeds)
        for style in target.other_styles():
            images, (out.styles[style], out.objects[style]) = judged(target.others(style) * seeds)
            out.images[style] = images
            out.labels[style] = target.other_objects().repeat(seeds)
        return out

    def attack(self, target: Target, kind: str, seed: int, config: Any) -> tuple[int, int]:
        """Success of one attack: how many pictures the judge gives to the target, of how many.

        Args:
            kind: ``"cce"``, or ``"context_N"`` with N vectors, or ``"context_N_free"`` unprojected.
        """
        from dark_miner.darkminer.sampling import decode_all, sample_each, seeded_noise
        from dark_miner.demo.gallery import SIZE
        from dark_miner.nodes.host import encode_images, latent_size, training_session
        from dark_miner.nodes.host_text import conditioning

        from .erasure import ANCHOR, NEGATIVE, gallery_sampling

        started = time.monotonic()
        images, shown = target.drawings(ATTACK_DRAWINGS, ATTACK_SEED + seed)
        latents = encode_images(self.model, self.vae, images)
        with training_session(
            self.model, anchor=conditioning(self.clip, ANCHOR),
            negative=conditioning(self.clip, NEGATIVE), sampling=gallery_sampling(),
            latent_size=latent_size(self.vae, SIZE, SIZE), vae=self.vae,
        ) as session:  # fmt: skip
            words = target.companions
            asked = [words[i % len(words)] for i in range(ATTACK_PICTURES)]
            if kind == "cce":
                contexts = self._inverted(session, latents, target, shown, asked, seed, config)
            else:
                contexts = self._optimised(session, latents, kind, seed, config)
            gen = torch.Generator().manual_seed(ATTACK_SEED + seed)
            noise = seeded_noise(session, ATTACK_PICTURES, gen)
            pictures = decode_all(session, sample_each(session, contexts, noise))
        found = target.found(self.judge(pictures)).argmax(1) == target.index
        log.info(
            "%-16s %.3f  (%.0f s)", kind, found.float().mean(), time.monotonic() - started
        )  # fmt: skip
        return int(found.sum()), ATTACK_PICTURES

    def _inverted(self, session, latents, target, shown, asked, seed, config) -> list[Tensor]:
        from dark_miner.darkminer.attacks.cce import invert
        from dark_miner.nodes.host_text import TextEncoder

        text = TextEncoder(self.clip)
        prompts = [target.attack_template.format(word) for word in shown]
        vector, _ = invert(session, text, latents, prompts, config, seed=ATTACK_SEED + seed)
        with torch.no_grad():
            return list(text([target.attack_template.format(word) for word in asked], vector))

    def _optimised(self, session, latents, kind, seed, config) -> list[Tensor]:
        from dark_miner.darkminer.attacks.context import optimise_context
        from dark_miner.nodes.host_text import contexts, vocabulary

        said = contexts(self.clip, [f"a {w} drawing" for w in vocabulary(self.clip)])
        limit = float(torch.stack(said).norm(dim=-1).max())
        start = contexts(self.clip, ["a picture"])[0][None]
        context, _ = optimise_context(
            session, latents, int(kind.split("_")[1]), start, config, seed=ATTACK_SEED + seed,
            max_norm=None if kind.endswith("free") else limit,
        )  # fmt: skip
        return [context[0]] * ATTACK_PICTURES


ATTACKS = ("cce", *(f"context_{n}" for n in CONTEXT_VECTORS), f"context_{CONTEXT_VECTORS[-1]}_free")
