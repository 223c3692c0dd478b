"""What stands before Ollama: it counts, drains, discloses, and lets through what a client may ask.

Ollama itself has no metrics, cuts what runs when it is told to end, and lets every client load,
replace and delete models.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import httpx
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from quantop_disclosure import DiscloseArtifact
from quantop_drain import CloseWhenDraining
from quantop_serving.app import OnFailure
from quantop_serving.body_limit import BodyLimit
from quantop_serving.drain import Drain
from quantop_serving.errors import SERVER_ERROR, ApiError
from quantop_serving.settings import Settings
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from quantop_ollama.engine import Ollama
from quantop_ollama.metrics import CountRequests, Metrics

CHATS = ("/api/chat", "/v1/chat/completions", "/v1/messages", "/v1/responses")
"""Paths of Ollama's APIs that take a conversation."""
ANSWERING = (
    *CHATS,
    "/api/embed",
    "/api/embeddings",
    "/api/generate",
    "/v1/completions",
    "/v1/embeddings",
)
"""All that put the model to work."""
TELLING = ("/", "/api/ps", "/api/tags", "/api/version", "/v1/models", "/v1/models/{model:path}")
LOADING = ("main_gpu", "num_batch", "num_ctx", "num_gpu", "num_thread", "use_mmap")
"""Options of a request for which Ollama would load the model anew, for everybody."""
OF_ONE_CONNECTION = frozenset(
    b"connection date expect host keep-alive te trailer transfer-encoding upgrade".split()
)
"""Headers that are not handed on."""


def create_app(
    settings: Settings, ollama: Ollama, drain: Drain, on_failure: OnFailure
) -> Starlette:
    """Return the application; it starts Ollama when it starts itself."""
    metrics = Metrics(settings.model_name)
    engine = httpx.AsyncClient(
        timeout=None, limits=httpx.Limits(max_connections=None), trust_env=False
    )
    forward = Forward(engine, ollama)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        running = asyncio.create_task(ollama.run())

        def ended(task: asyncio.Task[None]) -> None:
            if not task.cancelled() and (error := task.exception()) is not None:
                on_failure(error)

        running.add_done_callback(ended)
        yield
        running.cancel()
        await asyncio.wait([running])
        await engine.aclose()

    async def health(_: Request) -> Response:
        if not ollama.ready:
            return JSONResponse({"ready": False, "reason": "the model is loading"}, 503)
        if drain.active:
            return JSONResponse({"ready": False, "reason": "the server is draining"}, 503)
        return JSONResponse({"ready": True})

    async def exposition(_: Request) -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    app = Starlette(
        routes=[
            Route("/health", health),
            Route("/metrics", exposition),
            *(Route(path, forward, methods=["POST"]) for path in (*ANSWERING, "/api/show")),
            *(Route(path, forward, methods=["GET"]) for path in TELLING),
        ],
        exception_handlers={HTTPException: refuse},
        lifespan=lifespan,
    )
    app.add_middleware(BodyLimit, limit=settings.max_body_bytes)
    app.add_middleware(CloseWhenDraining)
    app.add_middleware(DiscloseArtifact, artifact=settings.artifact)
    app.add_middleware(CountRequests, metrics=metrics, routes=ANSWERING)
    return app


async def refuse(request: Request, error: Exception) -> JSONResponse:
    """An error in the shape of the API that was asked by."""
    assert isinstance(error, HTTPException)
    if error.status_code in (404, 405):
        error = ApiError(
            error.status_code,
            f"{request.method} {request.url.path} is not served. Here is one model, which its"
            " QuantizedModel decides: change that instead.",
        )
    elif not isinstance(error, ApiError):
        error = ApiError(error.status_code, error.detail)
    if request.url.path.startswith("/api/"):
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)
    return error.response()


class Forward:
    """ASGI application: hand a request to Ollama and its answer back, piece by piece."""

    def __init__(self, engine: httpx.AsyncClient, ollama: Ollama) -> None:
        self._engine = engine
        self._ollama = ollama

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        body = await request.body()
        if scope["path"] in ANSWERING:
            check_options(body)
            self._check_model(scope["path"])
        # Ollama stops working on a request when its client leaves, so ours has to be watched.
        answering = asyncio.create_task(self._answer(request, body, send))
        leaving = asyncio.create_task(_disconnect(receive))
        try:
            await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if answering.done():
                await answering
        finally:
            answering.cancel()
            leaving.cancel()
            await asyncio.wait({answering, leaving})

    def _check_model(self, path: str) -> None:
        if not self._ollama.ready:
            raise ApiError(
                503,
                "The model is still loading.",
                kind=SERVER_ERROR,
                code="loading",
                retry_after=1,
            )
        if path in CHATS and not self._ollama.knows_template:
            # It would join the messages without any marks, which no model has learned to answer.
            raise ApiError(
                400,
                "Ollama knows no template like this model's chat template. Ask by /v1/completions"
                " or /api/generate, or have the runtime llama-cpp serve it, which uses the model's"
                " own: spec.serving.runtimeName of its QuantizedModel.",
                code="no_template",
            )

    async def _answer(self, request: Request, body: bytes, send: Send) -> None:
        target = self._ollama.url + request.scope["raw_path"].decode()
        if request.url.query:
            target += f"?{request.url.query}"
        asked = httpx.Request(
            request.method, target, headers=_end_to_end(request.headers.raw), content=body
        )
        try:
            answer = await self._engine.send(asked, stream=True)
        except httpx.TransportError as error:
            raise ApiError(
                502, "Ollama does not answer.", kind=SERVER_ERROR, code="engine"
            ) from error
        try:
            headers = _end_to_end(answer.headers.raw)
            start = {"type": "http.response.start", "status": answer.status_code}
            await send({**start, "headers": headers})
            part = {"type": "http.response.body", "more_body": True}
            async for piece in answer.aiter_raw():
                await send({**part, "body": piece})
            await send({**part, "more_body": False})
        finally:
            await answer.aclose()


def check_options(body: bytes) -> None:
    """Look at what a request says of the model rather than of its answer.

    Raises:
        ApiError: it would have the model loaded anew or unloaded, for everybody.
    """
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, "The body is not valid JSON.") from error
    # Ollama's decoder does not tell capital letters from small ones.
    fields = {name.lower(): value for name, value in asked.items()} if type(asked) is dict else {}
    options = fields.get("options")
    found = [f"options.{name}" for name in LOADING if type(options) is dict and name in options]
    if fields.get("keep_alive") is not None:
        found.append("keep_alive")
    if found:
        raise ApiError(
            400,
            f"'{found[0]}' is for everybody who asks this model, so that no request may set it:"
            " leave it out.",
            param=found[0],
        )


def _end_to_end(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Headers without those of the one connection, or that each server says of itself."""
    lowered = [(name.lower(), value) for name, value in headers]
    return [(name, value) for name, value in lowered if name not in OF_ONE_CONNECTION]


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
