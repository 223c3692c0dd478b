"""`ollama serve` as a child of this process, with one model in its store."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
from quantop_serving.settings import Settings

log = logging.getLogger(__name__)

GGUF = "model.gguf"
NO_TEMPLATE = "{{ .Prompt }}"
"""Ollama's template for a model whose chat template it does not know."""
START_SECONDS = 120
"""What `ollama serve` is given to listen; it looks for GPUs first."""
END_SECONDS = 10
"""What `ollama serve` is given to end before it is killed."""


class OllamaError(Exception):
    """Ollama did not take the model, or has ended."""


class Ollama:
    """Ollama's server on a port of the loopback interface that only this process is told."""

    def __init__(self, settings: Settings, store: Path) -> None:
        """`store` is where Ollama keeps its models; the weights are not copied into it."""
        self._settings = settings
        self._store = store
        self._address = f"127.0.0.1:{_free_port()}"
        self.url = f"http://{self._address}"
        self.ready = False
        """Whether the model has answered."""
        self.knows_template = False
        """Whether Ollama can lay out a conversation for the model."""

    async def run(self) -> None:
        """Start the server, load the model, and go on until cancelled.

        Raises:
            OllamaError: the model cannot be loaded, or the server has ended.
        """
        process = await asyncio.create_subprocess_exec(
            "ollama",
            "serve",
            env={**os.environ, **self.environment()},
            # A signal to the group, as a terminal sends, is this process's to handle.
            start_new_session=True,
        )
        ending = asyncio.create_task(process.wait())
        loading = asyncio.create_task(self._load())
        try:
            await asyncio.wait({ending, loading}, return_when=asyncio.FIRST_COMPLETED)
            if loading.done():
                await loading
                self.ready = True
            raise OllamaError(f"ollama serve ended with exit code {await ending}")
        finally:
            self.ready = False
            loading.cancel()
            await _end(process)

    def environment(self) -> Mapping[str, str]:
        """What Ollama is told: one model, which stays loaded."""
        return {
            "OLLAMA_HOST": self._address,
            "OLLAMA_MODELS": str(self._store),
            "OLLAMA_KEEP_ALIVE": "-1",
            "OLLAMA_MAX_LOADED_MODELS": "1",
            "OLLAMA_NUM_PARALLEL": str(self._settings.max_running),
            "OLLAMA_MAX_QUEUE": str(self._settings.max_waiting),
            "OLLAMA_CONTEXT_LENGTH": str(self._settings.max_context),
            "OLLAMA_NO_CLOUD": "1",
        }

    async def _load(self) -> None:
        """Put the model into the store, and have it answer once."""
        begin = time.perf_counter()
        settings = self._settings
        async with httpx.AsyncClient(base_url=self.url, timeout=None, trust_env=False) as http:
            await _listening(http)
            digest = await asyncio.to_thread(link, settings.model_dir / GGUF, self._store)
            named = {"model": settings.model_name, "stream": False}
            await _post(
                http,
                "/api/create",
                {**named, "files": {GGUF: digest}, "parameters": {"num_thread": settings.threads}},
            )
            once = {"prompt": "The", "raw": True, "options": {"num_predict": 1}}
            await _post(http, "/api/generate", {**named, **once})
            shown = await _post(http, "/api/show", named)
        log.info(
            "model %s loaded in %.2f s: context of %d tokens for each of %d requests, %d threads",
            settings.model_name,
            time.perf_counter() - begin,
            settings.max_context,
            settings.max_running,
            settings.threads,
        )
        self.knows_template = shown["template"] != NO_TEMPLATE
        if not self.knows_template:
            log.warning("Ollama knows no template like the model's: conversations are refused")


def link(model: Path, store: Path) -> str:
    """Make a file a blob of Ollama's store by a link; its digest.

    Ollama asks only that there is a blob of this name, and neither checks nor writes it.

    Raises:
        OllamaError: the file is not there.
    """
    if not model.is_file():
        raise OllamaError(
            f"there is no {model.name}: Ollama reads one file, so the model must be made without "
            "spec.quantization.maxFileSize, or be served by llama-cpp"
        )
    with model.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    blob = store / "blobs" / f"sha256-{digest}"
    blob.parent.mkdir(parents=True, exist_ok=True)
    # A container that restarts finds the /tmp of the one before it.
    blob.unlink(missing_ok=True)
    blob.symlink_to(model.resolve())
    return f"sha256:{digest}"


async def _post(http: httpx.AsyncClient, path: str, body: Mapping[str, Any]) -> Any:
    """What Ollama answers.

    Raises:
        OllamaError: it refused, or broke off.
    """
    try:
        answer = await http.post(path, json=body)
    except httpx.TransportError as error:
        raise OllamaError(f"POST {path}: {error!r}") from error
    if answer.is_error:
        raise OllamaError(f"POST {path}: {answer.text.strip()}")
    return answer.json()


async def _listening(http: httpx.AsyncClient) -> None:
    """Wait until Ollama answers anything; its end is for others to notice."""
    for _ in range(START_SECONDS * 20):
        with suppress(httpx.TransportError):
            await http.get("/")
            return
        await asyncio.sleep(0.05)
    raise OllamaError(f"ollama serve does not listen after {START_SECONDS} s")


async def _end(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), END_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port
