"""Refuse request bodies that are larger than any prompt."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from quantop_serving.errors import ApiError


class BodyLimit:
    """ASGI middleware: 413 as soon as a body is known to be larger than `limit` bytes."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._limit:
                raise self._error()
            return message

        length = dict(scope["headers"]).get(b"content-length", b"0")
        if int(length) > self._limit:
            await self._error().response()(scope, receive, send)
            return
        await self._app(scope, counted, send)

    def _error(self) -> ApiError:
        return ApiError(413, f"The body is larger than {self._limit} bytes.", code="body_too_large")
