"""What a server says of the artifact that it serves: in which precision, and which one exactly.

The operator tells each engine by its environment; all of it is fixed by the artifact's key. Figures
of quality are not: they depend on the text that was measured on, and are in the object's status.

`DiscloseArtifact` is an ASGI middleware that says it with every response; vLLM takes it by
`--middleware quantop_disclosure.DiscloseArtifact`. Standard library only, as vLLM's image has it.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

VARIABLES = {
    "format": "QUANTOP_FORMAT",
    "precision": "QUANTOP_PRECISION",
    "bits_per_weight": "QUANTOP_BITS_PER_WEIGHT",
    "artifact_key": "QUANTOP_ARTIFACT_KEY",
    "source": "QUANTOP_SOURCE_URI",
}
"""Environment variables by what they say."""

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]


def disclosed(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What the environment says of the artifact; nothing of what it leaves open."""
    return {name: value for name, key in VARIABLES.items() if (value := environment.get(key))}


class DiscloseArtifact:
    """ASGI middleware: every response has an `X-Quantop-...` header for each thing to say.

    Args:
        artifact: what to say, by the names of VARIABLES. Default: what the environment says.
    """

    def __init__(self, app: AsgiApp, artifact: Mapping[str, str] | None = None) -> None:
        self._app = app
        said = disclosed() if artifact is None else artifact
        # A header has no place for what is not plain text: /v1/models does, where it is ours.
        self._headers = [
            (f"x-quantop-{name.replace('_', '-')}".encode(), value.encode())
            for name, value in said.items()
            if value.isascii() and value.isprintable()
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_disclosing(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *self._headers]
            await send(message)

        await self._app(scope, receive, send_disclosing)
