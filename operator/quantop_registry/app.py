"""The registry's protocol, as far as a client that pulls needs it.

https://github.com/opencontainers/distribution-spec; what Ollama's client asks for beyond that is in
docs/adr/0014-pulled-by-name.md.
"""

import re
from dataclasses import dataclass

from quantop_worker.errors import StageError, TryAgainError
from quantop_worker.store import store_bucket
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from quantop_registry.errors import RegistryError, blob_unknown
from quantop_registry.images import MANIFEST_TYPE, Images
from quantop_registry.models import Model, Models

REPOSITORY = "/v2/{namespace}/{name}"
RANGE = re.compile(r"bytes=(\d{1,18})-(\d{0,18})")


@dataclass(frozen=True)
class Delivery:
    """How clients get at the weights."""

    redirects: bool = True
    """To the store, by an address that is signed; or else through the registry."""
    endpoint: str | None = None
    """The store's as clients reach it; None: the ModelStore's."""
    seconds: int = 21_600
    """How long a signed address is good for."""


@dataclass(frozen=True)
class Registry:
    """Answers requests."""

    models: Models
    images: Images
    delivery: Delivery

    def manifest(self, request: Request) -> Response:
        """What a model is made of, by one of its tags or by digest."""
        model = self._model(request)
        reference = request.path_params["reference"]
        image = self.images.of(model)
        if reference != image.digest:
            model.check_tag(reference)
        return Response(
            image.manifest,
            media_type=MANIFEST_TYPE,
            headers={"Docker-Content-Digest": image.digest},
        )

    def tags(self, request: Request) -> Response:
        """All tags of a model."""
        model = self._model(request)
        return JSONResponse({"name": model.name, "tags": sorted(model.tags)})

    def blob(self, request: Request) -> Response:
        """One of the files that a model is made of."""
        model, digest = self._model(request), request.path_params["digest"]
        if digest == f"sha256:{model.file.sha256}":
            return self._weights(model, request)
        content = self.images.of(model).small.get(digest)
        if content is None:
            raise blob_unknown(
                f"{digest} is no part of what {model.name} is now: its artifact has changed since; "
                f"pull it again."
            )
        start, stop, answer = _asked(request, digest, len(content))
        answer.body = content[start:stop]
        return answer

    def ready(self, request: Request) -> Response:
        """Whether a model can be pulled."""
        there = self.images.ready()
        return JSONResponse({"ready": there}, 200 if there else 503)

    def _model(self, request: Request) -> Model:
        return self.models.find(request.path_params["namespace"], request.path_params["name"])

    def _weights(self, model: Model, request: Request) -> Response:
        key = model.artifact.object_key(model.file.object)
        # What is signed is a GET, and to be asked how large a file is needs no store.
        if self.delivery.redirects and request.method == "GET":
            store = model.artifact.store
            reached = store.model_copy(
                update={"endpoint": self.delivery.endpoint or store.endpoint}
            )
            url = store_bucket(reached).signed_url(key, self.delivery.seconds)
            return RedirectResponse(url, 307)
        start, stop, answer = _asked(request, f"sha256:{model.file.sha256}", model.file.size)
        if request.method == "HEAD" or start == stop:
            return answer
        content = model.artifact.bucket.stream(key, start, stop)
        return StreamingResponse(content, answer.status_code, dict(answer.headers))


def create_app(registry: Registry) -> Starlette:
    """Return the application."""
    return Starlette(
        routes=[
            Route("/healthz", lambda _: Response()),
            Route("/readyz", registry.ready),
            Route("/v2/", lambda _: JSONResponse({})),
            Route(f"{REPOSITORY}/manifests/{{reference}}", registry.manifest),
            Route(f"{REPOSITORY}/blobs/{{digest}}", registry.blob),
            Route(f"{REPOSITORY}/tags/list", registry.tags),
        ],
        exception_handlers={
            HTTPException: refuse,
            RegistryError: refuse,
            StageError: refuse,
        },
    )


def refuse(request: Request, error: Exception) -> Response:
    """An error as the protocol has it."""
    if isinstance(error, StageError):
        again = isinstance(error, TryAgainError)
        code = "UNAVAILABLE" if again else "UNKNOWN"
        error = RegistryError(503 if again else 500, code, f"{error.message} ({error.reason})")
    elif isinstance(error, HTTPException):
        message = f"{request.method} {request.url.path}: models are pulled here, and nothing else."
        error = RegistryError(error.status_code, "UNSUPPORTED", message)
    assert isinstance(error, RegistryError)
    told = {"code": error.code, "message": error.message}
    return JSONResponse({"errors": [told]}, error.status)


def _asked(request: Request, digest: str, size: int) -> tuple[int, int, Response]:
    """The bytes of a blob that are asked for, from start to stop, and the answer without them."""
    headers = {
        "Accept-Ranges": "bytes",
        "Content-Type": "application/octet-stream",
        "Docker-Content-Digest": digest,
        # Ollama's client takes where to download from out of this, and asks there for ranges.
        "Location": request.url.path,
    }
    start, stop, status = 0, size, 200
    if found := RANGE.fullmatch(request.headers.get("Range", "")):
        start, stop = int(found[1]), min(int(found[2] or size) + 1, size)
        if start >= stop:
            headers["Content-Range"] = f"bytes */{size}"
            return 0, 0, Response(status_code=416, headers=headers)
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        status = 206
    headers["Content-Length"] = str(stop - start)
    return start, stop, Response(status_code=status, headers=headers)
