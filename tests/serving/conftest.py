"""A server in the test's own event loop, on a real port, with the fake engine."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import uvicorn
from prometheus_client import CollectorRegistry
from quantop_serving.app import create_app
from quantop_serving.drain import Drain
from quantop_serving.metrics import Metrics
from quantop_serving.service import ModelService
from quantop_serving.settings import Settings
from quantop_serving.text_service import TextService

from tests.serving.fake_engine import FakeEngine
from tests.serving.fake_reader import FakeReader


@dataclass
class Running:
    """A server under test."""

    url: str
    http: httpx.AsyncClient
    openai: openai.AsyncOpenAI
    drain: Drain
    registry: CollectorRegistry
    failures: list[BaseException]

    def sample(self, name: str, **labels: str) -> float:
        """A metric's value; 0 when it has no such sample."""
        labels = {"model_name": "fake-model", **labels}
        return self.registry.get_sample_value(f"quantop_serving_{name}", labels) or 0.0

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition, 10 s at most."""
        for _ in range(2000):
            if condition():
                return
            await asyncio.sleep(0.005)
        raise TimeoutError("the condition did not come true")

    async def ready(self) -> None:
        """Wait until the model is loaded, 10 s at most."""
        for _ in range(2000):
            if (await self.http.get("/v2/health/ready")).status_code == 200:
                return
            await asyncio.sleep(0.005)
        raise TimeoutError("the server did not become ready")


Serve = Callable[..., Awaitable[Running]]

ARTIFACT = {
    "format": "ONNX",
    "precision": "INT4",
    "bits_per_weight": "5.125",
    "artifact_key": "k1",
    "source": "hf://owner/naïve",
}


@asynccontextmanager
async def running(
    load: Callable[[], Any], drain_file: Path, *, texts: bool = False, **options: Any
) -> AsyncIterator[Running]:
    settings = Settings(
        model_dir=Path("/nowhere"),
        model_name="fake-model",
        artifact=ARTIFACT,
        **options,
    )
    metrics = Metrics(settings.model_name)
    drain = Drain(drain_file, linger=0.0, timeout=5.0)
    failures: list[BaseException] = []
    kind = TextService if texts else ModelService
    app = create_app(kind(settings, load, metrics), metrics, drain, failures.append)
    # It listens from here on, so that clients need not wait for the server to start.
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    async with (
        httpx.AsyncClient(base_url=url, trust_env=False) as http,
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield Running(url, http, client, drain, metrics.registry, failures)
    server.should_exit = True
    await serving


@pytest.fixture
async def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Serve]:
    """Start a server: `await serve(engine, max_running=1)`; it is ready unless `load` is given."""
    drain_file = tmp_path / "draining"
    monkeypatch.setenv("QUANTOP_DRAIN_FILE", str(drain_file))
    async with AsyncExitStack() as stack:

        async def start(
            engine: FakeEngine | FakeReader | None = None,
            load: Callable[[], Any] | None = None,
            **options: Any,
        ) -> Running:
            fake = engine or FakeEngine()
            server = await stack.enter_async_context(
                running(
                    load or (lambda: fake),
                    drain_file,
                    texts=isinstance(fake, FakeReader),
                    **options,
                )
            )
            if load is None:
                await server.ready()
            return server

        yield start
