"""Erase one style from the demo model through a real ComfyUI server and show what happened.

Run by ``scripts/demo.sh``, which sees to the environment. Leaves a LoRA file under
``output/loras``, a picture grid made with that file, and a table of figures.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import importlib.util
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = ROOT / "output"
BASE = ROOT / ".host" / "base"
JUDGING = "judging: "  # what a line of benchmarks.quality begins with that says how far it is
STYLES = ("twemoji", "noto", "blob", "emojione", "flat", "fluent", "ink")
CELL, EDGE, HEAD, GAP = 96, 96, 64, 32  # pixels of the picture grid


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/demo.sh", description=__doc__.splitlines()[0])
    parser.add_argument("--style", choices=STYLES, default="ink", help="style to erase")
    parser.add_argument("--seed", type=int, default=0, help="seed of the erasure")
    parser.add_argument("--grid", type=Path, help="where the picture grid goes")
    parser.add_argument("--rows", type=int, default=3, help="things shown in the grid")
    parser.add_argument("--no-figures", action="store_true", help="leave out the table of figures")
    parser.add_argument("--cpu", action="store_true", help="keep off the GPU")
    return parser.parse_args(arguments)


class Progress:
    """Prints which node of a prompt runs, how far it is and what it says of itself.

    One line that is written over on a terminal; elsewhere a line every ten seconds.
    """

    def __init__(self, titles: dict[str, str]):
        self._titles = titles
        self._live = sys.stdout.isatty()
        self._shown = 0.0
        self._start = time.monotonic()
        self._texts: dict[str, str] = {}

    def __call__(self, kind: str, data: dict[str, Any]) -> None:
        if kind == "progress_text":
            self._texts[data["node"]] = data["text"].splitlines()[0]
        if kind != "progress_state":
            return
        for state in data["nodes"].values():
            if state["state"] == "running":
                self._show(state)

    def _show(self, state: dict[str, Any]) -> None:
        now = time.monotonic()
        if now - self._shown < (0.1 if self._live else 10):
            return
        self._shown = now
        title = self._titles.get(state["display_node_id"], state["display_node_id"])
        share = state["value"] / max(state["max"], 1)
        bar = ("#" * int(share * 24)).ljust(24, ".")
        line = f"  {title[:24]:24} [{bar}] {share:4.0%}  {clock(now - self._start)}"
        if text := self._texts.get(state["display_node_id"]):
            line += f"  {text}"
        if self._live:
            width = shutil.get_terminal_size().columns - 1
            print(f"\r{line[:width]:{width}}", end="", flush=True)
        else:
            print(line, flush=True)

    def close(self) -> None:
        if self._live and self._shown:
            print()


def clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


@contextlib.contextmanager
def stage(text: str) -> Iterator[None]:
    """Print what is being done, and how long it took once it is done."""
    print(f"\033[1m{text}\033[0m" if sys.stdout.isatty() else text, flush=True)
    start = time.monotonic()
    yield
    print(f"  done in {clock(time.monotonic() - start)}", flush=True)


def erasure_prompt(style: str, seed: int) -> dict[str, Any]:
    """``workflows/api/erase_demo.json`` for a style and a seed."""
    prompt = json.loads((ROOT / "workflows" / "api" / "erase_demo.json").read_text("utf-8"))
    written = next(n["inputs"]["concept"] for n in prompt.values() if "concept" in n["inputs"])
    for node in prompt.values():
        for name, value in node["inputs"].items():
            if name == "seed" and not isinstance(value, list):
                node["inputs"][name] = seed
            elif name in ("concept", "text", "prompts", "filename_prefix") and isinstance(
                value, str
            ):
                node["inputs"][name] = value.replace(written, style)
    return prompt


def titles(prompt: dict[str, Any]) -> dict[str, str]:
    from comfy_server import node_title

    return {node_id: node_title(prompt, node_id) for node_id in prompt}


def lora_files() -> dict[Path, int]:
    return {p: p.stat().st_mtime_ns for p in (OUTPUT / "loras").rglob("*.safetensors")}


async def erase(client: Any, style: str, seed: int) -> Path:
    """Queue the erasure and return the LoRA file that it wrote."""
    prompt = erasure_prompt(style, seed)
    before = lora_files()
    progress = Progress(titles(prompt))
    try:
        await client.run(prompt, progress)
    finally:
        progress.close()
    written = [p for p, stamp in lora_files().items() if before.get(p) != stamp]
    if not written:
        raise RuntimeError("the workflow ran but wrote no LoRA file under output/loras.")
    return max(written, key=lambda p: p.stat().st_mtime_ns)


def picture_prompt(lora: str | None, texts: list[str], sampling: dict[str, Any]) -> dict[str, Any]:
    """One picture per text by core nodes, the LoRA loaded by the core LoraLoader."""
    prompt: dict[str, Any] = {
        "1": {"class_type": "DarkMinerDemoModels", "inputs": {}},
        "2": {
            "class_type": "LoraLoader",
            "inputs": {
                "model": ["1", 0],
                "clip": ["1", 1],
                "lora_name": lora,
                "strength_model": 1.0,
                "strength_clip": 1.0,
            },
        },
        "3": {
            "class_type": "EmptyLatentImage",
            "inputs": {"width": 32, "height": 32, "batch_size": 1},
        },
    }
    source = "2" if lora else "1"
    if not lora:
        del prompt["2"]
    prompt["4"] = {"class_type": "CLIPTextEncode", "inputs": {"text": "", "clip": [source, 1]}}
    for number, text in enumerate(texts):
        encode, sample, decode, show = (str(10 + 4 * number + i) for i in range(4))
        prompt[encode] = {
            "class_type": "CLIPTextEncode",
            "inputs": {"text": text, "clip": [source, 1]},
        }
        links = {"model": [source, 0], "positive": [encode, 0], "negative": ["4", 0]}
        prompt[sample] = {
            "class_type": "KSampler",
            "inputs": {**links, "latent_image": ["3", 0], "seed": number, "denoise": 1.0}
            | sampling,
        }
        prompt[decode] = {
            "class_type": "VAEDecode",
            "inputs": {"samples": [sample, 0], "vae": ["1", 2]},
        }
        prompt[show] = {"class_type": "PreviewImage", "inputs": {"images": [decode, 0]}}
    return prompt


async def pictures(client: Any, lora: str | None, texts: list[str]) -> list[Any]:
    """PIL images of ``texts``, in their order."""
    from PIL import Image

    outputs = await client.run(picture_prompt(lora, texts, gallery().SAMPLING))
    found = []
    for node_id in sorted(outputs, key=int):
        for entry in outputs[node_id].get("images", []):
            found.append(Image.open(io.BytesIO(await client.picture(entry))).convert("RGB"))
    return found


@functools.cache
def gallery() -> Any:
    """The demo's words and sampling settings, loaded by path: the root stays off sys.path."""
    spec = importlib.util.spec_from_file_location("gallery", ROOT / "demo" / "gallery.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def grid_objects(count: int) -> list[str]:
    """Things to show: one that the erasure may be told of, the others held out from it."""
    held_out = sorted(gallery().HELD_OUT)
    told = [o for o in gallery().OBJECTS if o not in held_out]
    return [*told[:1], *held_out[: count - 1]]


def draw_grid(before: list[Any], after: list[Any], style: str, rows: list[str]) -> Any:
    """Left the model as it was, right with the LoRA; a column per style, a row per object."""
    from PIL import Image, ImageDraw, ImageFont

    width, columns = len(STYLES) * CELL, len(STYLES)
    page = Image.new("RGB", (EDGE + 2 * width + GAP, HEAD + len(rows) * CELL), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(14)
    for half, (name, images) in enumerate((("before", before), ("after", after))):
        left = EDGE + half * (width + GAP)
        draw.text((left + 4, 6), name, "black", ImageFont.load_default(20))
        for column, word in enumerate(STYLES):
            colour = "#c00000" if word == style else "black"
            label = f"{word} (erased)" if word == style and half else word
            draw.text((left + column * CELL + 4, 38), label, colour, font)
        for number, image in enumerate(images):
            row, column = divmod(number, columns)
            spot = (left + column * CELL, HEAD + row * CELL)
            page.paste(image.resize((CELL - 4, CELL - 4), Image.Resampling.BICUBIC), spot)
    for row, word in enumerate(rows):
        label = f"{word}\n(held out)" if word in gallery().HELD_OUT else word
        draw.text((4, HEAD + row * CELL + CELL // 2 - 16), label, "black", font)
    return page


async def make_grid(client: Any, lora: Path, style: str, things: int, target: Path) -> None:
    """Sample every style before and after and save the page."""
    rows = grid_objects(things)
    texts = [gallery().prompt(word, thing) for thing in rows for word in STYLES]
    before = await pictures(client, None, texts)
    name = lora.relative_to(OUTPUT / "loras").as_posix()
    after = await pictures(client, name, texts)
    target.parent.mkdir(parents=True, exist_ok=True)
    draw_grid(before, after, style, rows).save(target)


def figures(lora: Path, style: str, seed: int, cpu: bool) -> None:
    """Print the short table of ``benchmarks.quality`` for the LoRA file."""
    command = [sys.executable, "-m", "benchmarks.quality", "--short", "--lora", str(lora)]
    command += ["--style", style, "--seed", str(seed)]
    environment = {**os.environ, **({"CUDA_VISIBLE_DEVICES": ""} if cpu else {})}
    log = BASE / "figures.log"
    words = {"stderr": subprocess.PIPE, "encoding": "utf-8", "errors": "replace"}
    # Messages, the host's among them, go to the file; the table comes on standard output.
    with (
        log.open("w", encoding="utf-8") as kept,
        subprocess.Popen(command, cwd=ROOT, env=environment, **words) as done,
    ):
        for line in done.stderr or ():
            kept.write(line)
            if line.startswith(JUDGING):
                print(f"  {line.removeprefix(JUDGING)}", end="", flush=True)
    if done.returncode:
        words = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise RuntimeError(f"the figures could not be made:\n{words}")


async def through_server(server: Any, options: argparse.Namespace) -> tuple[Path, Path]:
    """Everything that needs the server: the erasure and the pictures."""
    from comfy_server import Client

    grid = options.grid or OUTPUT / f"erase_{options.style}_{options.seed}.png"
    async with Client(server.address) as client:
        with stage(f"Erasing the style {options.style!r}"):
            lora = await erase(client, options.style, options.seed)
        with stage("Making pictures before and after, the LoRA loaded by the core LoraLoader"):
            await make_grid(client, lora, options.style, options.rows, grid)
    return lora, grid


def demo(options: argparse.Namespace) -> None:
    import torch
    from comfy_server import Server, prepare_base

    start = time.monotonic()
    cpu = options.cpu or not torch.cuda.is_available()
    prepare_base(BASE, ROOT)
    comfyui = Path(os.environ["COMFYUI_PATH"])
    server = Server(comfyui, sys.executable, BASE, OUTPUT, cpu=cpu)
    with contextlib.ExitStack() as stack:
        with stage(f"Starting ComfyUI ({'CPU' if cpu else 'GPU'})"):
            stack.enter_context(server)
        lora, grid = asyncio.run(through_server(server, options))
    if not options.no_figures:
        with stage("Measuring, with the LoRA file on the demo model (a minute or two)"):
            figures(lora, options.style, options.seed, cpu)
    print(f"\nLoRA file  {lora.relative_to(ROOT)}")
    print(f"pictures   {grid.relative_to(ROOT) if grid.is_relative_to(ROOT) else grid}")
    print(f"in all     {clock(time.monotonic() - start)}")


def main() -> None:
    options = parse()
    if "COMFYUI_PATH" not in os.environ:
        sys.exit("dark-miner: run bash scripts/demo.sh, which finds or installs a ComfyUI first.")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        demo(options)
    except KeyboardInterrupt:
        sys.exit("\ndark-miner: stopped.")
    except RuntimeError as error:
        sys.exit(f"\ndark-miner: {error}")


if __name__ == "__main__":
    main()
