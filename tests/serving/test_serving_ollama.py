"""The server that stands before Ollama, with a fake one behind it."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from quantop_ollama.engine import NO_TEMPLATE, Ollama, OllamaError, link
from quantop_ollama.front import LOADING, create_app
from quantop_serving.drain import Drain
from quantop_serving.settings import Settings

from tests.serving.rolling_load import Plan, measure
from tests.serving.test_serving_drain import free_ports

RUNNING = "quantop_ollama_requests_running"
ASKED: dict[str, Any] = {"model": "m", "prompt": "a"}


@dataclass
class Running:
    """A server under test."""

    http: httpx.AsyncClient
    failures: list[BaseException]

    async def until(self, condition: Callable[[], Awaitable[bool]]) -> None:
        """Wait for a condition, a minute at most."""
        for _ in range(3000):
            if await condition():
                return
            await asyncio.sleep(0.02)
        raise TimeoutError("the condition did not come true")

    async def ready(self) -> None:
        """Wait until the model answers."""

        async def healthy() -> bool:
            return (await self.http.get("/health")).status_code == 200

        await self.until(healthy)

    async def sample(self, name: str) -> str:
        """A metric's line without its name; empty when there is none."""
        lines = (await self.http.get("/metrics")).text.splitlines()
        return next((line.removeprefix(name) for line in lines if line.startswith(name)), "")


Serve = Callable[..., Awaitable[Running]]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The folder of a model."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.gguf").write_bytes(b"GGUF and weights")
    return folder


@pytest.fixture(autouse=True)
def fake_ollama(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program `ollama` on the path."""
    program = tmp_path / "bin" / "ollama"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m tests.serving.fake_ollama "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setenv("QUANTOP_DRAIN_FILE", str(tmp_path / "draining"))


@asynccontextmanager
async def running(model: Path, store: Path, drain_file: Path) -> AsyncIterator[Running]:
    settings = Settings(model_dir=model, model_name="m", threads=3, artifact={"precision": "Q8_0"})
    failures: list[BaseException] = []
    drain = Drain(drain_file, linger=0, timeout=5)
    app = create_app(settings, Ollama(settings, store), drain, failures.append)
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=20) as http:
        yield Running(http, failures)
    server.should_exit = True
    await serving


@pytest.fixture
async def serve(model: Path, tmp_path: Path) -> AsyncIterator[Serve]:
    """Start a server; it is ready unless `wait=False`."""
    async with AsyncExitStack() as stack:

        async def start(*, wait: bool = True) -> Running:
            server = await stack.enter_async_context(
                running(model, tmp_path / "store", tmp_path / "draining")
            )
            if wait:
                await server.ready()
            return server

        yield start


def test_the_weights_are_not_copied(model: Path, tmp_path: Path) -> None:
    digest = hashlib.sha256(b"GGUF and weights").hexdigest()
    for _ in range(2):
        assert link(model / "model.gguf", tmp_path / "store") == f"sha256:{digest}"
    (blob,) = (tmp_path / "store" / "blobs").iterdir()
    assert blob.name == f"sha256-{digest}"
    assert blob.is_symlink()
    assert blob.samefile(model / "model.gguf")


def test_a_model_in_several_files_is_refused_with_the_way_out(model: Path, tmp_path: Path) -> None:
    (model / "model.gguf").rename(model / "model-00001-of-00001.gguf")
    with pytest.raises(OllamaError, match="maxFileSize"):
        link(model / "model.gguf", tmp_path / "store")


async def test_it_is_ready_when_the_model_has_answered(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_PAUSE", "0.1")
    server = await serve(wait=False)
    assert (await server.http.get("/health")).status_code == 503
    early = await server.http.post("/v1/completions", json=ASKED)
    assert early.status_code == 503
    assert early.json()["error"]["message"] == "The model is still loading."
    await server.ready()
    answer = await server.http.post("/v1/completions", json=ASKED)
    assert answer.json()["asked"] == ASKED


async def test_ollama_is_told_of_one_model_that_stays(serve: Serve) -> None:
    told = (await (await serve()).http.get("/api/version")).json()
    expected = {
        "OLLAMA_KEEP_ALIVE": "-1",
        "OLLAMA_MAX_LOADED_MODELS": "1",
        "OLLAMA_NUM_PARALLEL": "4",
        "OLLAMA_MAX_QUEUE": "64",
        "OLLAMA_CONTEXT_LENGTH": "4096",
        "OLLAMA_NO_CLOUD": "1",
    }
    assert told.items() >= expected.items()


async def test_a_stream_passes_piece_by_piece_and_is_counted_while_it_runs(serve: Serve) -> None:
    server = await serve()
    counts: list[str] = []
    text = ""
    async with server.http.stream(
        "POST", "/v1/completions?x=y", json={**ASKED, "stream": True}
    ) as answer:
        assert answer.headers["X-Quantop-Precision"] == "Q8_0"
        async for piece in answer.aiter_text():
            text += piece
            if len(counts) < 3:
                counts.append(await server.sample(RUNNING))
    assert counts == ['{model_name="m"} 1.0'] * 3
    assert text.count("data: ") == 41
    assert text.endswith("data: [DONE]\n\n")
    assert await server.sample(RUNNING) == '{model_name="m"} 0.0'
    ended = 'quantop_ollama_requests_total{code="200",model_name="m",route="/v1/completions"}'
    assert await server.sample(ended) == " 1.0"


async def test_a_client_that_leaves_ends_the_work(serve: Serve) -> None:
    server = await serve()
    async with server.http.stream("POST", "/api/chat", json={**ASKED, "stream": True}) as answer:
        await anext(answer.aiter_text())

    async def noticed() -> bool:
        return "/api/chat" in (await server.http.get("/api/ps")).text

    await server.until(noticed)
    assert await server.sample(RUNNING) == '{model_name="m"} 0.0'


async def test_no_request_has_the_model_loaded_anew(serve: Serve) -> None:
    server = await serve()
    refused: list[tuple[dict[str, Any], str]] = [
        *(({"options": {name: 1}}, f"options.{name}") for name in LOADING),
        ({"keep_alive": 0}, "keep_alive"),
        ({"Keep_Alive": "5m"}, "keep_alive"),
    ]
    for more, field in refused:
        answer = await server.http.post("/api/generate", json={**ASKED, **more})
        assert answer.status_code == 400
        assert answer.json()["error"].startswith(f"'{field}' is for everybody")
    asked = {**ASKED, "options": {"temperature": 0}, "keep_alive": None}
    answer = await server.http.post("/api/generate", json=asked)
    assert answer.json()["asked"] == asked


async def test_a_body_that_is_no_json_goes_no_further(serve: Serve) -> None:
    server = await serve()
    for body in (b"{", b'{"model": "\xff"}'):
        answer = await server.http.post("/v1/completions", content=body)
        assert answer.status_code == 400
        assert answer.json()["error"]["message"] == "The body is not valid JSON."


async def test_another_model_is_ollamas_to_refuse(serve: Serve) -> None:
    answer = await (await serve()).http.post("/api/generate", json={**ASKED, "model": "other"})
    assert answer.status_code == 404
    assert answer.json() == {"error": "model 'other' not found"}


async def test_no_client_changes_what_is_served(serve: Serve) -> None:
    server = await serve()
    for method, path, status in (
        ("POST", "/api/pull", 404),
        ("POST", "/api/push", 404),
        ("POST", "/api/create", 404),
        ("POST", "/api/copy", 404),
        ("DELETE", "/api/delete", 404),
        ("POST", "/api/blobs/sha256:0", 404),
        ("GET", "/debug/pprof/", 404),
        ("DELETE", "/api/tags", 405),
        ("POST", "/v1/images/generations", 404),
    ):
        answer = await server.http.request(method, path)
        assert answer.status_code == status
        assert f"{method} {path} is not served." in answer.text
        assert isinstance(answer.json()["error"], str if path.startswith("/api/") else dict)


async def test_what_tells_of_the_model_is_ollamas_own(serve: Serve) -> None:
    server = await serve()
    for path in ("/", "/api/tags", "/v1/models", "/v1/models/m:latest"):
        assert (await server.http.get(path)).json() == {"path": path}
    shown = await server.http.post("/api/show", json={"model": "m"})
    assert shown.json() == {"template": "{{ .Messages }}"}


async def test_conversations_are_refused_where_ollama_knows_no_template(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_TEMPLATE", NO_TEMPLATE)
    server = await serve()
    for path in ("/api/chat", "/v1/chat/completions", "/v1/messages", "/v1/responses"):
        answer = await server.http.post(path, json=ASKED)
        assert answer.status_code == 400
        assert "Ollama knows no template like this model's chat template." in answer.text
    assert (await server.http.post("/v1/completions", json=ASKED)).status_code == 200


async def test_draining_closes_connections_and_is_not_ready(serve: Serve, tmp_path: Path) -> None:
    server = await serve()
    assert "Connection" not in (await server.http.get("/v1/models")).headers
    (tmp_path / "draining").touch()
    assert (await server.http.get("/v1/models")).headers["Connection"] == "close"
    assert (await server.http.get("/health")).status_code == 503


async def test_a_model_that_ollama_refuses_is_told(serve: Serve, model: Path) -> None:
    (model / "model.gguf").write_bytes(b"something else")
    server = await serve(wait=False)

    async def failed() -> bool:
        return bool(server.failures)

    await server.until(failed)
    assert "/api/create" in str(server.failures[0])
    assert "not in GGUF format" in str(server.failures[0])


async def test_the_end_of_ollama_is_told(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_ENDS_AFTER", "2")
    server = await serve()
    await server.http.post("/api/generate", json=ASKED)

    async def failed() -> bool:
        return bool(server.failures)

    await server.until(failed)
    assert str(server.failures[0]) == "ollama serve ended with exit code 7"
    assert (await server.http.get("/health")).status_code == 503
    gone = await server.http.get("/api/version")
    assert (gone.status_code, gone.json()) == (502, {"error": "Ollama does not answer."})


async def test_a_rolling_update_under_load_fails_no_request(
    model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Clients without retries that keep their connections."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    plan = Plan(
        command=(
            *(sys.executable, "-m", "quantop_ollama", f"--model-dir={model}", "--model-name=m"),
            *("--host=127.0.0.1", "--port={port}", "--drain-linger=2"),
        ),
        model="m",
        gauges=(RUNNING,),
        retries=0,
        endpoint_delay=0.5,
        spread=1.5,
        warm_up=0.5,
    )
    result = await measure(plan, free_ports(4))
    assert result.failed == 0, result
    assert result.complete > 8
    assert [line.split("process ")[1][0] for line in result.per_server] == ["0", "0"]
