"""From a generation's tokens to the HTTP response, whole or as server-sent events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from quantop_serving.dialect import Dialect, Usage
from quantop_serving.errors import SERVER_ERROR, ApiError, error_body
from quantop_serving.scheduler import Generation, GenerationFailedError
from quantop_serving.stop import StopSequences

CLIENT_LEFT = 499
"""The status that proxies log for a client that did not wait; nobody receives it."""

ABORTED = CLIENT_LEFT, "abort"

Count = Callable[[int, str], None]
"""Takes a request's HTTP status and finish reason, once, when it has ended."""


class Answer:
    """The text of one generation up to its stop sequence, and what it comes to."""

    def __init__(self, generation: Generation, stop: StopSequences) -> None:
        self._generation = generation
        self._stop = stop
        self.finish_reason = ""

    @property
    def usage(self) -> Usage:
        """Return the tokens so far."""
        return Usage(len(self._generation.prompt), self._generation.tokens)

    async def texts(self) -> AsyncGenerator[str]:
        """Yield text that is not empty. Raises GenerationFailedError."""
        async with aclosing(self._generation.pieces()) as pieces:
            async for piece in pieces:
                if text := self._stop.feed(piece):
                    yield text
                if self._stop.found:
                    self.finish_reason = "stop"
                    return
        if text := self._stop.flush():
            yield text
        self.finish_reason = str(self._generation.finish_reason)


async def respond(
    request: Request,
    generation: Generation,
    stop: StopSequences,
    dialect: Dialect,
    count: Count,
    *,
    stream: bool,
) -> Response:
    """Answer a request whose generation was admitted. Raises ApiError when the engine fails.

    A stream's headers wait for its first text, so that an engine that fails at once is an HTTP
    error, which clients understand and retry.
    """
    answer = Answer(generation, stop)
    texts = answer.texts()
    work = asyncio.ensure_future(_first(texts) if stream else _all(texts))
    try:
        begin = await _unless_client_left(request, work)
    except GenerationFailedError as error:
        raise ApiError(500, "The engine failed.", kind=SERVER_ERROR, code="engine") from error
    except asyncio.CancelledError:
        count(*ABORTED)
        raise
    if begin is None:
        count(*ABORTED)
        return Response(status_code=CLIENT_LEFT)
    if stream:
        return EventStream(answer, begin, texts, dialect, count)
    count(200, answer.finish_reason)
    return JSONResponse(dialect.whole("".join(begin), answer.finish_reason, answer.usage))


class EventStream(StreamingResponse):
    """An answer as server-sent events. A client that leaves ends the generation."""

    def __init__(
        self,
        answer: Answer,
        begin: list[str],
        texts: AsyncGenerator[str],
        dialect: Dialect,
        count: Count,
    ) -> None:
        self._texts = texts
        self._count = count
        self._ended = ABORTED
        super().__init__(
            self._events(answer, begin, dialect),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with aclosing(self._texts):
                await super().__call__(scope, receive, send)
        finally:
            self._count(*self._ended)

    async def _events(
        self, answer: Answer, begin: list[str], dialect: Dialect
    ) -> AsyncGenerator[bytes]:
        try:
            for chunk in dialect.opening():
                yield _event(chunk)
            for text in begin:
                yield _event(dialect.piece(text))
            async for text in self._texts:
                yield _event(dialect.piece(text))
            for chunk in dialect.closing(answer.finish_reason, answer.usage):
                yield _event(chunk)
            self._ended = 200, answer.finish_reason
            yield b"data: [DONE]\n\n"
        except GenerationFailedError:
            self._ended = 500, "error"
            yield _event(error_body("The engine failed.", kind=SERVER_ERROR, code="engine"))


async def _first(texts: AsyncGenerator[str]) -> list[str]:
    async for text in texts:
        return [text]
    return []


async def _all(texts: AsyncGenerator[str]) -> list[str]:
    return [text async for text in texts]


async def _unless_client_left(
    request: Request, work: asyncio.Future[list[str]]
) -> list[str] | None:
    """Return what the work comes to, or None when the client closed its connection before."""
    left = asyncio.ensure_future(_disconnect(request))
    waited: set[asyncio.Future[Any]] = {work, left}
    try:
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        return work.result() if work.done() else None
    finally:
        left.cancel()
        work.cancel()


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _event(body: dict[str, Any]) -> bytes:
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    return f"data: {text}\n\n".encode()
