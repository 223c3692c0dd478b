"""The API server's audit log: who asked for what, for tests that count writes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WRITING_VERBS = frozenset({"create", "update", "patch", "delete", "deletecollection"})

# Every finished request, without its body. A watch is logged when it begins and when it ends.
POLICY = json.dumps(
    {
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [{"level": "Metadata"}],
    }
)


@dataclass(frozen=True)
class Call:
    """One finished request.

    `resource` carries its subresource (`quantizedmodels/status`); the core group is `""`; `name` is
    empty for a list or a generated name; `code` is the HTTP status; `received` is RFC 3339 with
    microseconds.
    """

    verb: str
    user: str
    agent: str
    group: str
    resource: str
    namespace: str
    name: str
    code: int
    received: str

    @property
    def writes(self) -> bool:
        return self.verb in WRITING_VERBS


class AuditLog:
    """Reads an audit log that a server is still writing."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def mark(self) -> int:
        """The place the log has reached now, to read from later."""
        return self.path.stat().st_size if self.path.exists() else 0

    def calls(self, since: int = 0) -> Iterator[Call]:
        """The requests finished since a mark, oldest first; only those about a resource."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(since)
            for line in file:
                if not line.endswith(b"\n"):
                    break  # the server is in the middle of it
                event = json.loads(line)
                if event.get("stage") == "ResponseComplete" and "objectRef" in event:
                    yield _call(event)

    def writes(self, since: int = 0, *, user: str = "", agent: str = "") -> list[Call]:
        """The writes since a mark whose user is `user` and whose user agent contains `agent`."""
        return [
            call
            for call in self.calls(since)
            if call.writes and user in ("", call.user) and agent in call.agent
        ]


def _call(event: dict[str, Any]) -> Call:
    target = event["objectRef"]
    resource = "/".join(filter(None, [target.get("resource", ""), target.get("subresource", "")]))
    return Call(
        verb=event["verb"],
        user=event["user"].get("username", ""),
        agent=event.get("userAgent", ""),
        group=target.get("apiGroup", ""),
        resource=resource,
        namespace=target.get("namespace", ""),
        name=target.get("name", ""),
        code=event.get("responseStatus", {}).get("code", 0),
        received=event["requestReceivedTimestamp"],
    )
