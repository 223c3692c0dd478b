#!/usr/bin/env python3
"""End a serving container without cutting or refusing a request.

This file is two things, and uses the standard library only, because every runtime image ships it.

The command `quantop-drain` is the container's preStop hook:

1. It creates the drain file, the sign for the server to answer with `Connection: close`.
2. It waits until no proxy sends new connections here any more (`--spread`). A client that keeps its
   connection open is not moved by the endpoint's removal: it is moved by `Connection: close`, and
   an idle connection by the server's own keep-alive limit. So the wait has to be longer than that
   limit; then no connection outlives it except those with an answer in flight.
3. It waits until the engine's own gauges read zero, so that the SIGTERM that follows finds nothing
   to cut. `--timeout` bounds the whole.

`CloseWhenDraining` is the ASGI middleware that answers with `Connection: close` while the drain
file exists; vLLM takes it by `--middleware quantop_drain.CloseWhenDraining`.
"""

from __future__ import annotations

import argparse
import http.client
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from pathlib import Path
from typing import Any

DRAIN_FILE_VARIABLE = "QUANTOP_DRAIN_FILE"
DEFAULT_DRAIN_FILE = "/tmp/quantop-draining"

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]


class MissingGaugeError(Exception):
    """The engine answers, but has no gauge of a given name."""


def drain_file() -> Path:
    """Return the path whose existence means: this container is about to end."""
    return Path(os.environ.get(DRAIN_FILE_VARIABLE, DEFAULT_DRAIN_FILE))


class CloseWhenDraining:
    """ASGI middleware: every response says `Connection: close` once the drain file exists."""

    def __init__(self, app: AsgiApp) -> None:
        self._app = app
        self._file = drain_file()
        # A container that restarts in its pod finds the /tmp of the one before it.
        self._file.unlink(missing_ok=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_closing(message: Message) -> None:
            if message["type"] == "http.response.start" and self._file.exists():
                headers = [
                    (name, value)
                    for name, value in message.get("headers", ())
                    if name.lower() != b"connection"
                ]
                message["headers"] = [*headers, (b"connection", b"close")]
            await send(message)

        await self._app(scope, receive, send_closing)


def read_load(text: str, gauges: Sequence[str]) -> float:
    """Sum the named gauges, over all their labels, in a Prometheus text exposition.

    Raises MissingGaugeError when one of them has no sample.
    """
    total = 0.0
    missing = set(gauges)
    for line in text.splitlines():
        name = line.split("{", 1)[0].split(" ", 1)[0]
        if name in gauges:
            # A value follows the labels, and a timestamp may follow the value.
            total += float(line.rsplit("}", 1)[-1].removeprefix(name).split()[0])
            missing.discard(name)
    if missing:
        raise MissingGaugeError(f"the engine has no metric named {', '.join(sorted(missing))}")
    return total


def wait_until_idle(
    url: str, gauges: Sequence[str], *, deadline: float, settle: int, interval: float
) -> bool:
    """Poll until the gauges read zero `settle` times in a row; False at the deadline (monotonic s).

    One reading is not enough: a request is accepted a moment before the engine counts it. An engine
    that refuses connections has ended already, and counts as idle.
    """
    # The address is this container's own: a proxy named by the environment has no part in it.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    idle = 0
    while time.monotonic() < deadline:
        try:
            with opener.open(url, timeout=5) as answer:
                load = read_load(answer.read().decode(), gauges)
        except urllib.error.URLError as error:
            if isinstance(error.reason, ConnectionRefusedError):
                return True
            load = float("inf")
        except (OSError, http.client.HTTPException):
            load = float("inf")
        idle = idle + 1 if load == 0 else 0
        if idle == settle:
            return True
        time.sleep(interval)
    return False


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line; times are in seconds."""
    parser = argparse.ArgumentParser(prog="quantop-drain", description=__doc__.split("\n", 1)[0])
    parser.add_argument("gauges", nargs="+", metavar="GAUGE", help="zero when no request is left")
    parser.add_argument("--port", type=int, default=int(os.environ.get("PORT", "8080")))
    parser.add_argument("--path", default="/metrics")
    parser.add_argument("--spread", type=float, default=7.0, help="until nobody connects any more")
    parser.add_argument("--timeout", type=float, default=290.0, help="bound of the whole")
    parser.add_argument("--settle", type=int, default=2, help="idle readings in a row")
    parser.add_argument("--interval", type=float, default=0.25, help="between two readings")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Run the hook. Returns 0 when idle, 1 at the timeout, 2 when a gauge does not exist."""
    options = parse(arguments)
    deadline = time.monotonic() + options.timeout
    drain_file().touch()
    time.sleep(min(options.spread, options.timeout))
    try:
        idle = wait_until_idle(
            f"http://127.0.0.1:{options.port}{options.path}",
            options.gauges,
            deadline=deadline,
            settle=options.settle,
            interval=options.interval,
        )
    except MissingGaugeError as error:
        print(f"quantop-drain: {error}", file=sys.stderr)
        return 2
    if not idle:
        print(f"quantop-drain: still busy after {options.timeout:g} s", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
