"""A ComfyUI server of our own: started, talked to, stopped.

The process runs in a folder of its own (``--base-directory``), so that models, settings and custom
nodes of an existing install stay out of it and untouched.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import struct
import subprocess
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp

Prompt = dict[str, dict[str, Any]]
Watch = Callable[[str, dict[str, Any]], None]
"""Called with the type and the data of every message that the server sends about a prompt, and of
the texts that nodes write while they run (``"progress_text"``: node and text)."""

_TEXT_EVENT = 3  # the host's number of a node's progress text

START_SECONDS = 300
STOP_SECONDS = 20


class ServerError(RuntimeError):
    """The server could not do what was asked; the message says why."""


def free_port() -> int:
    """A TCP port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def prepare_base(base: Path, pack: Path) -> None:
    """Make the server's own folder, with the pack linked into its ``custom_nodes``."""
    for name in ("custom_nodes", "models", "input", "user", "temp"):
        (base / name).mkdir(parents=True, exist_ok=True)
    link = base / "custom_nodes" / "dark-miner"
    if link.is_symlink() and link.resolve() != pack.resolve():
        link.unlink()
    if not link.exists():
        link.symlink_to(pack, target_is_directory=True)


class Server:
    """Context manager around one server process.

    Args:
        comfyui: folder of the ComfyUI.
        python: interpreter that runs it.
        base: its base directory, see :func:`prepare_base`.
        output: where it writes; LoRA files go to ``loras`` below.
        cpu: keep off the GPU.
    """

    def __init__(self, comfyui: Path, python: str, base: Path, output: Path, *, cpu: bool):
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.log = base / "server.log"
        self._cwd = comfyui
        self._command = [
            python,
            str(comfyui / "main.py"),
            *("--listen", "127.0.0.1", "--port", str(self.port)),
            *("--base-directory", str(base), "--output-directory", str(output)),
            *("--database-url", "sqlite:///:memory:"),
            *("--disable-auto-launch", "--disable-api-nodes"),
            *(["--cpu"] if cpu else []),
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Server:
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        with self.log.open("wb") as log:
            # A session of its own: Ctrl-C reaches this program alone, which then stops the server.
            self._process = subprocess.Popen(
                self._command,
                cwd=self._cwd,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,
            )
        try:
            self._wait()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _wait(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise ServerError(f"ComfyUI did not start; its last words:\n{self.tail()}")
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=1):
                    return
            except OSError:
                time.sleep(0.25)
        raise ServerError(f"ComfyUI did not start within {START_SECONDS} s; see {self.log}.")

    def _stop(self) -> None:
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def tail(self, lines: int = 20) -> str:
        """The last lines of the server's log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


class Client:
    """Talks to a server: ``async with Client(address) as client``."""

    def __init__(self, address: str):
        self._url = f"http://{address}"
        self._id = uuid.uuid4().hex
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Client:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None))
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    @property
    def session(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise ServerError("the client is not connected: use it in an async with block.")
        return self._session

    async def object_info(self) -> dict[str, Any]:
        """Every node's definition."""
        async with self.session.get(f"{self._url}/object_info") as answer:
            return await answer.json()

    async def run(
        self, prompt: Prompt, watch: Watch = lambda *_: None, about: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Queue ``prompt``, wait until it has run and return what its nodes put out, by node id.

        Args:
            about: what a page sends with it, the workflow for one.
        """
        socket_url = f"{self._url}/ws?clientId={self._id}"
        async with self.session.ws_connect(socket_url, max_msg_size=0) as messages:
            prompt_id = await self.queue(prompt, about)
            try:
                await self._follow(messages, prompt_id, prompt, watch)
            except (asyncio.CancelledError, KeyboardInterrupt):
                await self.session.post(f"{self._url}/interrupt")
                raise
        async with self.session.get(f"{self._url}/history/{prompt_id}") as answer:
            return (await answer.json())[prompt_id]["outputs"]

    async def queue(self, prompt: Prompt, about: dict[str, Any] | None = None) -> str:
        """Queue ``prompt`` and return its id; a refused one raises with the server's reasons."""
        body = {"prompt": prompt, "client_id": self._id, "extra_data": about or {}}
        async with self.session.post(f"{self._url}/prompt", json=body) as answer:
            reply = await answer.json()
        if "prompt_id" not in reply or reply.get("node_errors"):
            raise ServerError(f"the server refused the workflow: {refusal(reply, prompt)}")
        return reply["prompt_id"]

    async def _follow(
        self,
        messages: aiohttp.ClientWebSocketResponse,
        prompt_id: str,
        prompt: Prompt,
        watch: Watch,
    ) -> None:
        async for message in messages:
            if message.type == aiohttp.WSMsgType.BINARY:
                said = progress_text(message.data)
                if said is not None:
                    watch("progress_text", said)
            if message.type != aiohttp.WSMsgType.TEXT:
                continue
            event = json.loads(message.data)
            kind, data = event["type"], event.get("data") or {}
            if data.get("prompt_id") != prompt_id:
                continue
            watch(kind, data)
            if kind == "executing" and data.get("node") is None:
                return  # sent once the outputs are in the history; execution_success comes before
            if kind == "execution_error":
                title = node_title(prompt, data["node_id"])
                raise ServerError(f"{title}: {data['exception_message']}")
            if kind == "execution_interrupted":
                raise ServerError("the run was interrupted.")
        raise ServerError("the server closed the connection; see its log.")

    async def picture(self, entry: dict[str, str]) -> bytes:
        """The file behind one entry of a node's ``images`` output."""
        async with self.session.get(f"{self._url}/view", params=entry) as answer:
            answer.raise_for_status()
            return await answer.read()


def progress_text(message: bytes) -> dict[str, str] | None:
    """Node and text of a binary message, if it is one that a node writes its progress with."""
    kind, length = struct.unpack_from(">II", message) if len(message) >= 8 else (0, 0)
    if kind != _TEXT_EVENT:
        return None
    node, text = message[8 : 8 + length], message[8 + length :]
    return {"node": node.decode(), "text": text.decode()}


def node_title(prompt: Prompt, node_id: str) -> str:
    """What to call a node in front of a person."""
    node = prompt.get(node_id, {})
    return node.get("_meta", {}).get("title") or node.get("class_type", f"node {node_id}")


def refusal(reply: dict[str, Any], prompt: Prompt) -> str:
    """A refused prompt's reasons in one line."""
    reasons = [
        f"{node_title(prompt, node_id)}: {error['message']} ({error['details']})"
        for node_id, found in reply.get("node_errors", {}).items()
        for error in found["errors"]
    ]
    error = reply.get("error")
    message = error.get("message", "") if isinstance(error, dict) else str(error or "")
    return "; ".join(reasons) or message
