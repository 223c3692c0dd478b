"""Routes of encoders and classifiers: the Open Inference Protocol's, and OpenAI's embeddings."""

from __future__ import annotations

import base64
import struct
from typing import Annotated, Any, Literal

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field

from quantop_serving.errors import ApiError
from quantop_serving.text_service import EMBEDDING, LABEL, PROBABILITIES, TEXT, TextService

MAX_TEXTS = 1024
"""Of one request: nobody else is let in between them."""
Texts = Annotated[list[str], Field(min_length=1, max_length=MAX_TEXTS)]


class InputTensor(BaseModel):
    """The only input: texts."""

    name: Literal["text"]
    shape: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, max_length=2)]
    datatype: Literal["BYTES"]
    data: Texts
    parameters: dict[str, Any] | None = None


class OutputTensor(BaseModel):
    """An output that is asked for."""

    name: str
    parameters: dict[str, Any] | None = None


class InferenceRequest(BaseModel):
    """POST /v2/models/{name}/infer."""

    id: Annotated[str, Field(max_length=256)] | None = None
    inputs: Annotated[list[InputTensor], Field(min_length=1, max_length=1)]
    outputs: Annotated[list[OutputTensor], Field(max_length=8)] = Field(default_factory=list)
    parameters: dict[str, Any] | None = None


class EmbeddingRequest(BaseModel):
    """POST /v1/embeddings."""

    model_config = ConfigDict(extra="forbid")

    model: str
    input: str | Texts
    encoding_format: Literal["float", "base64"] = "float"
    user: str | None = None
    dimensions: None = None


def add_text_routes(app: FastAPI, service: TextService) -> None:
    """Add the routes to an application."""
    settings, metrics = service.settings, service.metrics

    @app.post("/v2/models/{name}/infer")
    async def infer(name: str, request: InferenceRequest) -> dict[str, Any]:
        reader = service.ready(name)
        (given,) = request.inputs
        if given.shape not in ([len(given.data)], [len(given.data), 1]):
            raise ApiError(
                400, f"'{TEXT}' has {len(given.data)} texts, but its shape is {given.shape}."
            )
        _, described = service.tensors()
        wanted = {each.name for each in request.outputs} or {each["name"] for each in described}
        if unknown := wanted - {each["name"] for each in described}:
            raise ApiError(400, f"The model has no output '{min(unknown)}'.")
        readings = await service.read(reader, given.data)
        rows = [each.numbers for each in readings]
        flat = [number for row in rows for number in row]
        data: dict[str, list[Any]] = {EMBEDDING: flat, PROBABILITIES: flat}
        if reader.labels:
            likeliest = (max(range(len(row)), key=row.__getitem__) for row in rows)
            data[LABEL] = [reader.labels[index] for index in likeliest]
        metrics.request_ended("/v2/models/{name}/infer", 200, "stop")
        return {
            "model_name": settings.model_name,
            "model_version": settings.artifact.get("artifact_key", ""),
            **({"id": request.id} if request.id is not None else {}),
            "outputs": [
                {
                    **each,
                    "shape": [len(rows), *each["shape"][1:]],
                    "data": data[each["name"]],
                }
                for each in described
                if each["name"] in wanted
            ],
        }

    @app.post("/v1/embeddings")
    async def embeddings(request: EmbeddingRequest) -> dict[str, Any]:
        reader = service.ready(request.model)
        if reader.labels:
            raise ApiError(
                400,
                f"'{request.model}' is a classifier: ask it at /v2/models/{request.model}/infer.",
                param="model",
            )
        texts = [request.input] if isinstance(request.input, str) else request.input
        readings = await service.read(reader, texts)
        tokens = sum(each.tokens for each in readings)
        metrics.request_ended("/v1/embeddings", 200, "stop")
        return {
            "object": "list",
            "model": request.model,
            "data": [
                {
                    "object": "embedding",
                    "index": index,
                    "embedding": packed(each.numbers)
                    if request.encoding_format == "base64"
                    else list(each.numbers),
                }
                for index, each in enumerate(readings)
            ],
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }


def packed(numbers: Any) -> str:
    """32-bit floats, the lowest byte first, in base64."""
    return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()
