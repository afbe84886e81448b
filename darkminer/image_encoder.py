"""An image encoder for verification when the host has no CLIP vision model at hand.

open_clip builds an architecture by its name and loads weights into it, whichever function they were
trained with. Here the weights' own configuration says it: their activation (CLIP's QuickGELU or
GELU), and how pictures are brought to their size.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import warnings
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from .errors import DarkMinerError
from .libraries import library
from .model.interface import ImageEncoder

SETTING = "DARKMINER_ALLOW_DOWNLOADS"
"""Environment variable of the machine's owner: 1 also allows model names from outside the list."""

_SCHEMAS = ("hf-hub:", "local-dir:")
_SECONDS_BETWEEN_LOOKS = 0.25

log = logging.getLogger(__name__)


def open_clip_encoder(
    name: str,
    weights: str,
    device: torch.device | str = "cpu",
    waiting: Callable[[], None] | None = None,
) -> ImageEncoder:
    """CLIP's image encoder through open_clip, as an :data:`~.model.interface.ImageEncoder`.

    Args:
        name: architecture, e.g. ``"ViT-B-32"``; with a file as weights its ending ``-quickgelu`` or
            ``-gelu`` says their activation. ``hf-hub:`` and ``local-dir:`` names bring weights of
            their own, and are taken where :data:`SETTING` allows it.
        weights: a tag of open_clip's own list (downloaded once) or the path of a weights file.
        waiting: called again and again while weights are fetched; an exception of it ends the wait.

    Raises:
        DarkMinerError: if name or weights are unknown or not allowed, the weights cannot be had, or
            nothing says which function a file was trained with.
    """
    return _image_side(_loaded(name, weights, device, waiting), device)


@dataclass(frozen=True)
class OpenClip:
    """Both sides of a CLIP.

    Attributes:
        images: its image encoder, features ``[B, F]``.
        texts: features ``[K, F]`` float32 CPU of K texts.
        scale: what cosines are multiplied with before a softmax.
        name: architecture and weights.
    """

    images: ImageEncoder
    texts: Callable[[Sequence[str]], Tensor]
    scale: float
    name: str


def open_clip_pair(
    name: str,
    weights: str,
    device: torch.device | str = "cpu",
    waiting: Callable[[], None] | None = None,
) -> OpenClip:
    """Image and text encoder of one CLIP; arguments and errors as of :func:`open_clip_encoder`."""
    model = _loaded(name, weights, device, waiting)
    plain = name.replace("/", "-")
    known = library("open_clip").list_models()
    tokenize = library("open_clip").get_tokenizer(
        plain if plain.startswith(_SCHEMAS) or plain in known else plain.removesuffix("-gelu")
    )

    @torch.no_grad()
    def texts(prompts: Sequence[str]) -> Tensor:
        return model.encode_text(tokenize(list(prompts)).to(device)).float().cpu()

    scale = float(model.logit_scale.exp())
    return OpenClip(_image_side(model, device), texts, scale, f"{name}, {Path(weights).name}")


def _loaded(
    name: str, weights: str, device: torch.device | str, waiting: Callable[[], None] | None
) -> Any:
    """The open_clip model."""
    open_clip = library("open_clip")

    found = _checked(name, weights)
    _announce(found)
    try:
        model = _beside(lambda: open_clip.create_model(device=device, **found), waiting)
    except Exception as error:  # open_clip raises many kinds, also of its download libraries
        why = str(error).strip().partition("\n")[0][:200]
        raise DarkMinerError(
            f"open_clip could not load {name!r} with weights {weights!r} ({why!r}): connect a "
            "CLIP_VISION (Load CLIP Vision) to clip_vision instead, or name a weights file that is "
            "on this machine."
        ) from error
    return model.eval().requires_grad_(False)


def _image_side(model: Any, device: torch.device | str) -> ImageEncoder:
    visual: Any = model.visual  # typed as a plain Module, it knows its own size and statistics
    how = dict(visual.preprocess_cfg)
    side = visual.image_size if isinstance(visual.image_size, int) else visual.image_size[0]
    mean, std = (torch.tensor(how[k]).view(-1, 1, 1).to(device) for k in ("mean", "std"))
    mode, squash = how.get("interpolation", "bicubic"), how.get("resize_mode") == "squash"

    @torch.no_grad()
    def encode(images: Tensor) -> Tensor:
        x = fitted(images.movedim(-1, 1).float().to(device), side, mode=mode, squash=squash)
        return visual((x - mean) / std).float().cpu()

    return encode


def fitted(x: Tensor, side: int, *, mode: str = "bicubic", squash: bool = False) -> Tensor:
    """Pictures ``[B, 3, H, W]`` in 0..1 as an encoder was trained to see them, ``side`` square.

    The shorter side is brought to ``side`` (antialiased), the middle is cut out, and values are
    those of 8-bit pictures, since the resampling overshoots.

    Args:
        mode: ``"bicubic"``, as CLIP has it, or ``"bilinear"``.
        squash: bring both sides to ``side`` instead of cutting.
    """
    height, width = x.shape[-2:]
    scale = side / min(height, width)
    size = (side, side) if squash else (round(scale * height), round(scale * width))
    mode = "bilinear" if mode == "bilinear" else "bicubic"
    x = interpolate(x, size=size, mode=mode, antialias=True)
    top, left = (size[0] - side) // 2, (size[1] - side) // 2
    x = x[..., top : top + side, left : left + side]
    return (x * 255.0).clamp(0.0, 255.0).round() / 255.0


def _checked(name: str, weights: str) -> dict[str, Any]:
    """The arguments for open_clip's ``create_model``, nothing fetched or loaded yet."""
    open_clip = library("open_clip")

    if name.startswith(_SCHEMAS):
        if os.environ.get(SETTING, "0").strip() in ("", "0"):
            raise DarkMinerError(
                f"open_clip_model {name!r} brings a model from outside open_clip's list, which the "
                f"owner of this machine has not allowed ({SETTING}=1): name an architecture of the "
                "list, e.g. ViT-L-14, or connect a CLIP_VISION to clip_vision."
            )
        return {"model_name": name, "pretrained": None}
    name = name.replace("/", "-")
    known = open_clip.list_models()
    architecture = name if name in known else name.removesuffix("-gelu")
    if architecture not in known:
        raise DarkMinerError(
            f"open_clip_model {name!r} is no architecture of open_clip: write one of its list, "
            "e.g. ViT-L-14 or ViT-B-32."
        )
    tag = open_clip.get_pretrained_cfg(architecture, weights)
    if tag:
        quick = bool(tag.get("quick_gelu", False))
        return {"model_name": architecture, "pretrained": weights, **_activation(quick)}
    if not os.path.isfile(weights):
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(architecture)) or "none"
        raise DarkMinerError(
            f"open_clip_weights {weights!r} is neither a file on this machine nor a tag of "
            f"{architecture} (it has {tags}): write one of these, or connect a CLIP_VISION to "
            "clip_vision."
        )
    if _holds_code(Path(weights)):
        raise DarkMinerError(
            f"open_clip_weights {weights!r} is a TorchScript archive (OpenAI's own .pt files are), "
            "which holds code and is not run here: write the tag openai, or name the same weights "
            "as safetensors with open_clip_model ending in -quickgelu."
        )
    config = _companion(Path(weights))
    quick = _activation_of_file(name, architecture, Path(weights), config)
    shown = {k: v for k, v in config.get("preprocess_cfg", {}).items() if k != "size"}
    return {
        "model_name": architecture, "pretrained": weights, "force_preprocess_cfg": shown,
        **_activation(quick),
    }  # fmt: skip


def _activation(quick: bool) -> dict[str, Any]:
    """Arguments that every open_clip since 2.30 takes for QuickGELU and for GELU."""
    return {"force_quick_gelu": True} if quick else {"quick_gelu": False}


def _companion(file: Path) -> dict[str, Any]:
    """What the configuration beside a weights file says, as repositories of models hold it."""
    beside = file.with_name("open_clip_config.json")
    if not beside.is_file():
        return {}
    try:
        config = json.loads(beside.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DarkMinerError(
            f"{str(beside)!r} beside the weights cannot be read ({error}): repair or remove it."
        ) from error
    return config if isinstance(config, dict) else {}


def _activation_of_file(name: str, architecture: str, file: Path, config: dict[str, Any]) -> bool:
    """Whether a file's weights want QuickGELU.

    Its companion configuration says it, or the name that the user has given; an architecture that
    exists in one form only has no choice.

    Raises:
        DarkMinerError: if nothing says it.
    """
    open_clip = library("open_clip")

    if "model_cfg" in config:
        return bool(config["model_cfg"].get("quick_gelu", False))
    own = bool((open_clip.get_model_config(architecture) or {}).get("quick_gelu", False))
    said = own or name != architecture
    if not said and f"{architecture}-quickgelu" in open_clip.list_models():
        raise DarkMinerError(
            f"Nothing says with which activation {str(file)!r} was trained: write open_clip_model "
            f"as {architecture}-quickgelu (weights of OpenAI, DFN and MetaCLIP) or as "
            f"{architecture}-gelu (LAION, DataComp), or put open_clip_config.json beside the file."
        )
    return own


def _holds_code(file: Path) -> bool:
    """Whether a file is a TorchScript archive, as which OpenAI published CLIP."""
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return any("/code/" in entry for entry in archive.namelist())


def _announce(arguments: dict[str, Any]) -> None:
    """Say before it happens what may be fetched, and what a file is taken for."""
    name, weights = arguments["model_name"], arguments["pretrained"]
    quick = "QuickGELU" if arguments.get("force_quick_gelu") else "GELU"
    if weights is None:
        log.info("open_clip: fetches %r, unless it is in the cache.", name)
    elif os.path.isfile(weights):
        log.info("open_clip: %s with %s, weights from %r.", name, quick, weights)
    else:
        log.info(
            "open_clip: fetches the weights %r of %s (%s; up to some GB), unless they are in the "
            "cache.", weights, name, quick,
        )  # fmt: skip


def _beside(make: Callable[[], Any], waiting: Callable[[], None] | None) -> Any:
    """``make()`` in a thread of its own, so that whoever waits for a network can be told to stop.

    A download that nobody waits for any more ends on its own.
    """
    result: list[Any] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*QuickGELU.*")
                result.append(make())
        except Exception as error:  # carried over to the thread that waits
            errors.append(error)

    thread = threading.Thread(target=run, name="open_clip", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(_SECONDS_BETWEEN_LOOKS)
        if waiting is not None:
            waiting()
    if errors:
        raise errors[0]
    return result[0]
