"""The front's Prometheus metrics: Ollama has none of its own."""

from __future__ import annotations

import time
from collections.abc import Collection

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_PREFIX = "quantop_ollama_"
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
CLIENT_LEFT = 499
"""The status that proxies log for a client that did not wait; nobody receives it."""


class Metrics:
    """Everything on `/metrics`, in a registry of its own; every sample has the model's name."""

    def __init__(self, model_name: str) -> None:
        self.registry = CollectorRegistry()
        self.running = Gauge(
            _PREFIX + "requests_running",
            "Requests that Ollama works on or keeps in its queue.",
            ["model_name"],
            registry=self.registry,
        ).labels(model_name)
        self._seconds = Histogram(
            _PREFIX + "request_seconds",
            "From a request to the last byte of its answer.",
            ["model_name", "route"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._requests = Counter(
            _PREFIX + "requests",
            "Requests ended.",
            ["model_name", "route", "code"],
            registry=self.registry,
        )
        self._model_name = model_name

    def request_ended(self, route: str, code: int, seconds: float) -> None:
        """Count one request."""
        self._requests.labels(self._model_name, route, str(code)).inc()
        self._seconds.labels(self._model_name, route).observe(seconds)


class CountRequests:
    """ASGI middleware: counts the requests of some routes while they run, and when they ended."""

    def __init__(self, app: ASGIApp, metrics: Metrics, routes: Collection[str]) -> None:
        self._app = app
        self._metrics = metrics
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] not in self._routes:
            await self._app(scope, receive, send)
            return
        code = CLIENT_LEFT

        async def noting(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
            await send(message)

        begin = time.perf_counter()
        with self._metrics.running.track_inprogress():
            try:
                await self._app(scope, receive, noting)
            finally:
                self._metrics.request_ended(scope["path"], code, time.perf_counter() - begin)
