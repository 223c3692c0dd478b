"""Measure how many requests a rolling update costs: real servers, the fake Service, steady load.

Two servers run. Each in turn is replaced as Kubernetes would: a new one is ready, the old one's
endpoint goes away (late, as it does), its preStop hook runs, it gets SIGTERM. Meanwhile workers in
a closed loop ask for completions with the official client, half of them for streams.

    python -m tests.serving.rolling_load --model NAME --gauges G... [--retries 2] \
        -- SERVER COMMAND with {port}
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import openai

from tests.serving.fake_service import FakeService

DRAIN = Path(__file__).parents[2] / "images/runtimes/drain/quantop_drain.py"


@dataclass
class Plan:
    """What to run and how; seconds where a time is meant."""

    command: Sequence[str]
    model: str
    gauges: Sequence[str]
    retries: int = 2
    workers: int = 8
    tokens: int = 100
    endpoint_delay: float = 1.0
    """From the beginning of a pod's end to the last new connection."""
    spread: float = 2.0
    hook: bool = True
    warm_up: float = 2.0


@dataclass
class Result:
    """What the load saw."""

    outcomes: Counter[str] = field(default_factory=Counter)
    per_server: list[str] = field(default_factory=list)

    @property
    def complete(self) -> int:
        """Answers that came whole."""
        return self.outcomes["ok"]

    @property
    def failed(self) -> int:
        """Requests that did not."""
        return self.outcomes.total() - self.complete


class Server:
    """One pod: a process, its port and its drain file."""

    def __init__(self, plan: Plan, port: int, folder: Path) -> None:
        self.plan = plan
        self.port = port
        self.log = folder / f"{port}.log"
        self.environment = {**os.environ, "QUANTOP_DRAIN_FILE": str(folder / f"draining-{port}")}
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start and wait until it answers."""
        command = [part.replace("{port}", str(self.port)) for part in self.plan.command]
        with self.log.open("wb") as log:
            self.process = await asyncio.create_subprocess_exec(
                *command, stdout=log, stderr=log, env=self.environment
            )
        async with httpx.AsyncClient(trust_env=False) as http:
            while True:
                with suppress(httpx.TransportError):
                    answer = await http.get(f"http://127.0.0.1:{self.port}/health")
                    if answer.status_code == 200:
                        return
                if self.process.returncode is not None:
                    raise RuntimeError(f"the server ended: {self.log.read_text()[-2000:]}")
                await asyncio.sleep(0.1)

    async def stop(self) -> None:
        """End it without draining, if it runs; a killed one would leave its own children."""
        if self.process is None or self.process.returncode is not None:
            return
        # The second signal ends those that drain at the first.
        for seconds in (1, 10):
            self.process.terminate()
            with suppress(TimeoutError):
                await asyncio.wait_for(self.process.wait(), seconds)
                return
        self.process.kill()
        await self.process.wait()

    async def end(self) -> str:
        """Run the preStop hook, then SIGTERM; return what it took."""
        assert self.process is not None
        begin = time.monotonic()
        hook = "none"
        if self.plan.hook:
            draining = await asyncio.create_subprocess_exec(
                sys.executable,
                str(DRAIN),
                f"--port={self.port}",
                f"--spread={self.plan.spread}",
                "--timeout=60",
                *self.plan.gauges,
                env=self.environment,
            )
            hook = f"exit {await draining.wait()}"
        drained = time.monotonic()
        self.process.terminate()
        try:
            await asyncio.wait_for(self.process.wait(), 30)
        except TimeoutError:
            self.process.kill()
            await self.process.wait()
        return (
            f"hook {hook} after {drained - begin:.1f} s, process {self.process.returncode}"
            f" after {time.monotonic() - drained:.1f} s more"
        )


async def load(plan: Plan, port: int, *, stream: bool, stop: asyncio.Event, result: Result) -> None:
    """One user in a closed loop. One who streams mostly loses his connection at each answer's end,
    as the client stops reading at `[DONE]`; one who does not keeps it for ever."""
    # Its own transport, without the machine's proxies.
    async with openai.AsyncOpenAI(
        base_url=f"http://127.0.0.1:{port}/v1",
        api_key="none",
        max_retries=plan.retries,
        timeout=60,
        http_client=openai.DefaultAsyncHttpxClient(trust_env=False),
    ) as client:
        while not stop.is_set():
            try:
                answer = await client.completions.create(
                    model=plan.model,
                    prompt="This program is free software",
                    max_tokens=plan.tokens,
                    temperature=0,
                    stream=stream,
                    extra_body={"ignore_eos": True},
                )
                reason = None
                if isinstance(answer, openai.AsyncStream):
                    async for chunk in answer:
                        reason = (chunk.choices and chunk.choices[0].finish_reason) or reason
                else:
                    reason = answer.choices[0].finish_reason
                result.outcomes["ok" if reason == "length" else "cut without an error"] += 1
            except (openai.APIError, httpx.HTTPError) as error:
                cause = error.__cause__ or error
                kind = "stream" if stream else "whole"
                result.outcomes[f"{kind}: {type(error).__name__}: {cause!r}"] += 1


async def measure(plan: Plan, ports: Sequence[int]) -> Result:
    """Replace both servers under load; `ports` are four free ones."""
    result = Result()
    with tempfile.TemporaryDirectory() as folder:
        servers = [Server(plan, port, Path(folder)) for port in ports]
        await asyncio.gather(servers[0].start(), servers[1].start())
        try:
            async with FakeService([ports[0], ports[1]]) as service:
                stop = asyncio.Event()
                users = [
                    asyncio.create_task(
                        load(plan, service.port, stream=number % 2 == 0, stop=stop, result=result)
                    )
                    for number in range(plan.workers)
                ]
                await asyncio.sleep(plan.warm_up)
                for old, new in ((0, 2), (1, 3)):
                    await servers[new].start()
                    service.endpoints.append(servers[new].port)
                    ending = asyncio.create_task(servers[old].end())
                    await asyncio.sleep(plan.endpoint_delay)
                    service.endpoints.remove(servers[old].port)
                    result.per_server.append(await ending)
                await asyncio.sleep(plan.warm_up)
                stop.set()
                await asyncio.gather(*users)
        finally:
            for server in servers:
                await server.stop()
    return result


def main() -> int:
    """Measure once and print."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--gauges", nargs="+", default=[])
    parser.add_argument("--retries", type=int, default=2)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--spread", type=float, default=7.0)
    parser.add_argument("--endpoint-delay", type=float, default=1.0)
    parser.add_argument("--no-hook", dest="hook", action="store_false")
    parser.add_argument("--first-port", type=int, default=18100)
    parser.add_argument("command", nargs="+")
    options = vars(parser.parse_args())
    first = options.pop("first_port")
    result = asyncio.run(measure(Plan(**options), range(first, first + 4)))
    print(f"{result.complete} complete, {result.failed} failed")
    for outcome, count in result.outcomes.most_common():
        print(f"  {count:5} {outcome}")
    for line in result.per_server:
        print(f"  {line}")
    return 0 if result.failed == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
