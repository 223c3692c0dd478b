"""The HTTP routes: OpenAI's API, the Open Inference Protocol, metrics."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from quantop_disclosure import DiscloseArtifact
from quantop_drain import CloseWhenDraining
from starlette.exceptions import HTTPException

from quantop_serving import __version__
from quantop_serving.answer import respond
from quantop_serving.body_limit import BodyLimit
from quantop_serving.dialect import ChatDialect, Dialect, TextDialect
from quantop_serving.drain import Drain
from quantop_serving.errors import ApiError, validation_error
from quantop_serving.metrics import Metrics
from quantop_serving.requests import ChatCompletionRequest, CompletionRequest, GenerationRequest
from quantop_serving.scheduler import Generation
from quantop_serving.service import ModelService, Service
from quantop_serving.stop import StopSequences
from quantop_serving.text_routes import add_text_routes
from quantop_serving.text_service import TextService

OnFailure = Callable[[BaseException], None]


def create_app(
    service: ModelService | TextService,
    metrics: Metrics,
    drain: Drain,
    on_load_failure: OnFailure,
) -> FastAPI:
    """Return the application; it begins to load the model when the server starts."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        loading = asyncio.create_task(service.start())

        def loaded(task: asyncio.Task[None]) -> None:
            if not task.cancelled() and (error := task.exception()) is not None:
                on_load_failure(error)

        loading.add_done_callback(loaded)
        yield
        loading.cancel()
        service.stop()

    app = FastAPI(title="quantop_serving", version=__version__, lifespan=lifespan)
    app.add_middleware(BodyLimit, limit=service.settings.max_body_bytes)
    app.add_middleware(CloseWhenDraining)
    app.add_middleware(DiscloseArtifact, artifact=service.settings.artifact)
    _add_error_shapes(app, metrics)
    _add_model_routes(app, service)
    if isinstance(service, TextService):
        add_text_routes(app, service)
    else:
        _add_generation_routes(app, service, metrics)
    _add_inference_protocol_routes(app, service, drain)

    @app.get("/metrics")
    def exposition() -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return app


def _add_error_shapes(app: FastAPI, metrics: Metrics) -> None:
    def refuse(request: Request, error: ApiError) -> JSONResponse:
        if request.method == "POST":
            finish = "error" if error.status_code == 500 else "none"
            # A name in the path is the client's to choose: it must make no metrics.
            route = getattr(request.scope.get("route"), "path", request.url.path)
            metrics.request_ended(route, error.status_code, finish)
        if request.url.path.startswith("/v2/"):
            return JSONResponse({"error": error.detail}, error.status_code, error.headers)
        return error.response()

    @app.exception_handler(ApiError)
    def api_error(request: Request, error: ApiError) -> JSONResponse:
        return refuse(request, error)

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return refuse(request, validation_error(error.errors()))

    @app.exception_handler(HTTPException)
    def http_error(_: Request, error: HTTPException) -> JSONResponse:
        return ApiError(error.status_code, error.detail).response()


def _add_model_routes(app: FastAPI, service: Service) -> None:
    settings = service.settings

    def model_card() -> dict[str, Any]:
        loaded = service.loaded
        return {
            "id": settings.model_name,
            "object": "model",
            "created": loaded.since if loaded else 0,
            "owned_by": "quantop",
            "max_model_len": loaded.context_length if loaded else None,
            "metadata": dict(settings.artifact),
        }

    @app.get("/v1/models")
    def models() -> dict[str, Any]:
        return {"object": "list", "data": [model_card()]}

    @app.get("/v1/models/{name}")
    def model(name: str) -> dict[str, Any]:
        service.check_name(name)
        return model_card()


def _add_generation_routes(app: FastAPI, service: ModelService, metrics: Metrics) -> None:
    settings = service.settings

    async def answer(
        http: Request,
        request: GenerationRequest,
        admit: Awaitable[Generation],
        dialect: type[Dialect],
    ) -> Response:
        return await respond(
            http,
            await admit,
            StopSequences(request.stop_sequences),
            dialect(settings.model_name, include_usage=request.include_usage),
            partial(metrics.request_ended, http.url.path),
            stream=request.stream,
        )

    @app.post("/v1/completions")
    async def completions(http: Request, request: CompletionRequest) -> Response:
        return await answer(http, request, service.complete(request), TextDialect)

    @app.post("/v1/chat/completions")
    async def chat_completions(http: Request, request: ChatCompletionRequest) -> Response:
        return await answer(http, request, service.chat(request), ChatDialect)


def _add_inference_protocol_routes(app: FastAPI, service: Service, drain: Drain) -> None:
    settings = service.settings

    def ready() -> JSONResponse:
        if service.loaded is None:
            return JSONResponse({"ready": False, "reason": "the model is loading"}, 503)
        if drain.active:
            return JSONResponse({"ready": False, "reason": "the server is draining"}, 503)
        return JSONResponse({"ready": True})

    @app.get("/v2/health/live")
    def live() -> dict[str, bool]:
        return {"live": True}

    @app.get("/v2/health/ready")
    def server_ready() -> JSONResponse:
        return ready()

    @app.get("/health")
    def health() -> JSONResponse:
        return ready()

    @app.get("/v2")
    def server_metadata() -> dict[str, Any]:
        return {"name": "quantop_serving", "version": __version__, "extensions": []}

    @app.get("/v2/models/{name}")
    def model_metadata(name: str) -> dict[str, Any]:
        service.check_name(name)
        inputs, outputs = service.tensors()
        return {
            "name": settings.model_name,
            "versions": [key] if (key := settings.artifact.get("artifact_key")) else [],
            "platform": service.loaded.platform if service.loaded else "",
            "inputs": inputs,
            "outputs": outputs,
            "parameters": dict(settings.artifact),
        }

    @app.get("/v2/models/{name}/ready")
    def model_ready(name: str) -> JSONResponse:
        service.check_name(name)
        return ready()
