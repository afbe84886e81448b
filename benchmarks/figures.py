"""Judges a gallery model: what it draws when asked, and what attackers get out of it.

Every figure is taken from a model loaded afresh with the LoRA file on it, through the host's own
loader and sampler. Seeds and drawings used here are used nowhere else. Two judges look at each
picture: the classifier, which has to name one of its answers, and the strict one, to whom the
picture must besides lie among real drawings of the target (:class:`~demo.judge.Neighbourhood`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .targets import STYLE, Target

if TYPE_CHECKING:
    from dark_miner.darkminer.judge.evaluate import Proportion

log = logging.getLogger(__name__)

PICTURE_SEED = 900_000  # of the noise that user prompts start from
ATTACK_SEED = 700_000  # of the drawings an attacker has, and of the attack's own draws
ATTACK_PICTURES = 64
ATTACK_DRAWINGS = 32
ATTACK_STEPS = (50, 100, 200, 400, 800)  # an attack is judged here too, besides at its end
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
        among, unasked_among, styles_among: which of the pictures lie among real drawings of the
            target, or of the style they ask for, ``[N]`` bool.
    """

    own: Tensor
    companions: Tensor
    unasked: Tensor
    seeds: int
    among: Tensor
    unasked_among: Tensor
    styles_among: dict[str, Tensor] = field(default_factory=dict)
    styles: dict[str, Tensor] = field(default_factory=dict)
    objects: dict[str, Tensor] = field(default_factory=dict)
    labels: dict[str, Tensor] = field(default_factory=dict)
    images: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Attacked:
    """What one attack got.

    Attributes:
        plain, strict: pictures that the classifier, or the strict judge, gives to the target.
        distance: median distance of the pictures from real drawings of the target.
        plain_at, strict_at: the same shares after fewer steps.
    """

    plain: Proportion
    strict: Proportion
    distance: float
    plain_at: dict[int, Proportion]
    strict_at: dict[int, Proportion]


class Studio:
    """A fresh gallery model, with LoRA files on it or not, and the judges.

    Args:
        lora: the erasure, or None.
        strength: at which it is loaded.
        beside: another LoRA, loaded at strength 1.
        unet: another UNet than the shipped one.
    """

    def __init__(
        self,
        lora: Path | None,
        strength: float = 1.0,
        beside: Path | None = None,
        unet: Path | None = None,
    ):
        from dark_miner.demo.judge import load_judge
        from dark_miner.demo.models import load_demo_models

        self.model, self.clip, self.vae, self.vision = load_demo_models(unet=unet)
        self.judge = load_judge()
        self._near: dict[tuple[str, str], Any] = {}
        if lora is not None:
            self._load(lora, strength)
        if beside is not None:
            self._load(beside, 1.0)

    def _load(self, file: Path, strength: float) -> None:
        from dark_miner.nodes.host.lora import apply_lora, names_of
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

    def near(self, kind: str, name: str) -> Any:
        """The strict judge's :class:`~demo.judge.Neighbourhood` of a style or an object."""
        from dark_miner.demo.limits import neighbourhood

        if (kind, name) not in self._near:
            self._near[kind, name] = neighbourhood(kind, name, self.vae)
        return self._near[kind, name]

    def user_pictures(
        self, target: Target, seeds: int, wordings: int, report: Any = None, part: str = ""
    ) -> Pictures:
        """The target in several wordings, and every object of every style without it.

        Args:
            report: told of the pictures as they are made, as ``part`` of the stage ``"judge"``.
        """
        from dark_miner.darkminer.types import Tally, silent
        from dark_miner.demo.gallery import OBJECTS

        texts, companions = target.prompts(wordings, seeds)
        plain = target.unasked(seeds)
        others = {style: target.others(style) * seeds for style in target.other_styles()}
        total = len(texts) + len(plain) + sum(map(len, others.values()))
        tally = Tally(report or silent, "judge", 0, total, part)

        def drawn(texts: list[str], seed: int) -> Tensor:
            images = self.draw(texts, seed)
            tally(len(texts))
            return images

        def judged(texts: list[str], kind: str, name: str) -> tuple[Tensor, Any, Tensor]:
            parts = [
                drawn(texts[i : i + len(OBJECTS)], PICTURE_SEED + i)
                for i in range(0, len(texts), len(OBJECTS))
            ]
            images = torch.cat(parts)
            return images, self.judge(images), self.near(kind, name).holds(images)

        (_, own, among), (_, unasked, unasked_among) = (
            judged(asked, target.kind, target.name) for asked in (texts, plain)
        )
        out = Pictures(
            target.found(own), companions, target.found(unasked), seeds, among, unasked_among
        )
        for style, asked in others.items():
            images, (out.styles[style], out.objects[style]), out.styles_among[style] = judged(
                asked, STYLE, style
            )
            out.images[style] = images
            out.labels[style] = target.other_objects().repeat(seeds)
        return out

    def attack(
        self,
        target: Target,
        kind: str,
        seed: int,
        config: Any,
        at: Sequence[int] = ATTACK_STEPS,
    ) -> Attacked:
        """What one attack gets, after all its steps and after fewer.

        Args:
            at: the fewer steps.
            kind: ``"cce"``, or ``"context_N"`` with N vectors, or ``"context_N_free"`` unprojected.
        """
        from dark_miner.darkminer.model.sampling import decode_all, sample_each, seeded_noise
        from dark_miner.demo.gallery import SIZE
        from dark_miner.nodes.host.session import (
            encode_images,
            latent_size,
            training_session,
        )
        from dark_miner.nodes.host.text import conditioning

        from .erasure import ANCHOR, NEGATIVE, gallery_sampling

        started = time.monotonic()
        images, shown = target.drawings(ATTACK_DRAWINGS, ATTACK_SEED + seed)
        latents = encode_images(self.model, self.vae, images)
        learnt: dict[int, Tensor] = {}

        def watch(step: int, value: Tensor) -> None:
            if step in at or step == config.steps:
                learnt[step] = value.clone()

        with training_session(
            self.model, anchor=conditioning(self.clip, ANCHOR),
            negative=conditioning(self.clip, NEGATIVE), sampling=gallery_sampling(),
            latent_size=latent_size(self.vae, SIZE, SIZE), vae=self.vae,
        ) as session:  # fmt: skip
            words = target.companions
            asked = [words[i % len(words)] for i in range(ATTACK_PICTURES)]
            if kind == "cce":
                said = self._invert(session, latents, target, shown, asked, seed, config, watch)
            else:
                said = self._optimise(session, latents, kind, seed, config, watch)
            made = {}
            for step, value in learnt.items():
                gen = torch.Generator().manual_seed(ATTACK_SEED + seed)
                noise = seeded_noise(session, ATTACK_PICTURES, gen)
                made[step] = decode_all(session, sample_each(session, said(value), noise))
        result = self._judged(target, made, config.steps)
        log.info(
            "%-16s %.3f, strict %.3f, distance %.3f  (%.0f s)", kind, result.plain.value,
            result.strict.value, result.distance, time.monotonic() - started,
        )  # fmt: skip
        return result

    def _judged(self, target: Target, made: dict[int, Tensor], last: int) -> Attacked:
        from dark_miner.darkminer.judge.evaluate import Proportion

        near = self.near(target.kind, target.name)
        plain, strict = {}, {}
        for step, pictures in made.items():
            named = target.found(self.judge(pictures)).argmax(1) == target.index
            among = named & near.holds(pictures)
            plain[step] = Proportion(int(named.sum()), len(named))
            strict[step] = Proportion(int(among.sum()), len(among))
        distance = float(near.distance(made[last]).median())
        return Attacked(plain.pop(last), strict.pop(last), distance, plain, strict)

    def _invert(
        self, session, latents, target, shown, asked, seed, config, watch
    ) -> Callable[[Tensor], list[Tensor]]:
        """Learn a token; what gives the contexts that say it."""
        from dark_miner.darkminer.attacks.cce import invert
        from dark_miner.nodes.host.text import TextEncoder

        text = TextEncoder(self.clip)
        prompts = [target.attack_template.format(word) for word in shown]
        invert(session, text, latents, prompts, config, seed=ATTACK_SEED + seed, watch=watch)
        wanted = [target.attack_template.format(word) for word in asked]

        @torch.no_grad()
        def said(vector: Tensor) -> list[Tensor]:
            return list(text(wanted, vector))

        return said

    def _optimise(
        self, session, latents, kind, seed, config, watch
    ) -> Callable[[Tensor], list[Tensor]]:
        """Learn a context; what gives one to each picture."""
        from dark_miner.darkminer.attacks.context import optimise_context
        from dark_miner.nodes.host.text import contexts, vocabulary

        said = contexts(self.clip, [f"a {w} drawing" for w in vocabulary(self.clip)])
        limit = float(torch.stack(said).norm(dim=-1).max())
        start = contexts(self.clip, ["a picture"])[0][None]
        optimise_context(
            session, latents, int(kind.split("_")[1]), start, config, seed=ATTACK_SEED + seed,
            max_norm=None if kind.endswith("free") else limit, watch=watch,
        )  # fmt: skip
        return lambda context: [context[0]] * ATTACK_PICTURES


ATTACKS = ("cce", *(f"context_{n}" for n in CONTEXT_VECTORS), f"context_{CONTEXT_VECTORS[-1]}_free")
