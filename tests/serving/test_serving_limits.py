"""What bounds the server: its queue, its bodies, clients that leave; and what it counts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import openai
import pytest

from tests.serving.conftest import Running, Serve
from tests.serving.fake_engine import FakeEngine

ROUTE = "/v1/completions"


def ask(server: Running, tokens: int = 2, stream: bool = False) -> asyncio.Task[httpx.Response]:
    body = {"model": "fake-model", "prompt": "a bb", "max_tokens": tokens, "stream": stream}
    return asyncio.create_task(server.http.post(ROUTE, json=body, timeout=10))


def ended(server: Running, code: int, reason: str) -> float:
    return server.sample("requests_total", route=ROUTE, code=str(code), finish_reason=reason)


@pytest.fixture
def closed() -> FakeEngine:
    """An engine that generates nothing until its gate is opened."""
    engine = FakeEngine()
    engine.gate.clear()
    return engine


async def test_what_is_neither_running_nor_waiting_is_refused(
    serve: Serve, closed: FakeEngine
) -> None:
    server = await serve(closed, max_running=2, max_waiting=1)
    asked = [ask(server) for _ in range(3)]
    await server.until(lambda: server.sample("requests_running") == 2)
    await server.until(lambda: server.sample("requests_waiting") == 1)

    refused = await ask(server)
    assert refused.status_code == 429
    assert refused.headers["Retry-After"] == "1"
    assert refused.json()["error"]["code"] == "queue_full"

    closed.gate.set()
    assert [answer.status_code for answer in await asyncio.gather(*asked)] == [200, 200, 200]
    await server.until(lambda: server.sample("requests_running") == 0)
    assert server.sample("requests_waiting") == 0
    assert ended(server, 429, "none") == 1
    assert ended(server, 200, "length") == 3


async def test_the_official_client_waits_and_tries_again(serve: Serve, closed: FakeEngine) -> None:
    server = await serve(closed, max_running=1, max_waiting=0)
    first = ask(server)
    await server.until(lambda: server.sample("requests_running") == 1)
    patient = server.openai.with_options(max_retries=2)
    asking = asyncio.create_task(patient.completions.create(model="fake-model", prompt="a"))
    await server.until(lambda: ended(server, 429, "none") == 1)
    closed.gate.set()
    assert (await asking).choices[0].text.startswith("0 1 ")
    assert (await first).status_code == 200


async def test_requests_run_in_the_order_they_came(serve: Serve, closed: FakeEngine) -> None:
    server = await serve(closed, max_running=1)
    asked = []
    for tokens in (3, 1, 2):
        asked.append(ask(server, tokens))
        await server.until(lambda: server.sample("prompt_tokens_total") == 2 * len(asked))
    closed.gate.set()
    await asyncio.gather(*asked)
    assert [sampling.max_tokens for _, sampling in closed.seen] == [3, 1, 2]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_before_the_first_token_ends_its_generation(
    serve: Serve, closed: FakeEngine, stream: bool
) -> None:
    server = await serve(closed)
    asking = ask(server, stream=stream)
    await server.until(lambda: server.sample("requests_running") == 1)
    asking.cancel()
    await server.until(lambda: server.sample("requests_running") == 0)
    assert closed.cancelled == 1
    assert ended(server, 499, "abort") == 1


async def test_a_client_that_leaves_a_stream_ends_its_generation(serve: Serve) -> None:
    engine = FakeEngine(pause=0.01, context_length=100_000)
    server = await serve(engine, max_context=100_000)
    stream = await server.openai.completions.create(
        model="fake-model", prompt="a", max_tokens=90_000, stream=True
    )
    await anext(aiter(stream))
    await stream.close()
    await server.until(lambda: server.sample("requests_running") == 0)
    assert engine.cancelled == 1
    await server.until(lambda: ended(server, 499, "abort") == 1)


async def test_a_client_that_leaves_the_queue_takes_no_thread(
    serve: Serve, closed: FakeEngine
) -> None:
    server = await serve(closed, max_running=1, max_waiting=1)
    first = ask(server)
    await server.until(lambda: server.sample("requests_running") == 1)
    second = ask(server)
    await server.until(lambda: server.sample("requests_waiting") == 1)
    second.cancel()
    await server.until(lambda: server.sample("requests_waiting") == 0)
    closed.gate.set()
    assert (await first).status_code == 200
    assert len(closed.seen) == 1


async def test_a_large_body_is_refused(serve: Serve) -> None:
    server = await serve(max_body_bytes=1000)
    body = {"model": "fake-model", "prompt": "a" * 1000}
    refused = await server.http.post(ROUTE, json=body)
    assert refused.status_code == 413
    assert refused.json()["error"]["code"] == "body_too_large"

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b" " * 100

    # Without a Content-Length the size shows only while the body comes.
    refused = await server.http.post(
        ROUTE, content=pieces(), headers={"Content-Type": "application/json"}
    )
    assert refused.status_code == 413


async def test_tokens_and_times_are_counted(serve: Serve) -> None:
    server = await serve()
    await ask(server, tokens=5)
    assert server.sample("prompt_tokens_total") == 2
    assert server.sample("generation_tokens_total") == 5
    assert server.sample("time_to_first_token_seconds_count") == 1
    assert server.sample("inter_token_latency_seconds_count") == 4
    await server.until(lambda: server.sample("e2e_request_latency_seconds_count") == 1)
    assert server.sample("queue_seconds_count") == 1


async def test_metrics_are_exposed(serve: Serve) -> None:
    server = await serve()
    answer = await server.http.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain")
    assert 'quantop_serving_requests_waiting{model_name="fake-model"} 0.0' in answer.text


async def test_a_failing_generation_frees_its_place(serve: Serve) -> None:
    server = await serve(FakeEngine(fail_after=0), max_running=1, max_waiting=0)
    for _ in range(3):
        with pytest.raises(openai.InternalServerError):
            await server.openai.completions.create(model="fake-model", prompt="a")
        await server.until(lambda: server.sample("requests_running") == 0)
