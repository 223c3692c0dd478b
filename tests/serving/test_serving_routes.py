"""The routes, asked by the official client where it has a call for them."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path
from typing import Any

import openai
import pytest
import yaml
from quantop_disclosure import DiscloseArtifact
from quantop_serving.settings import parse

from tests.serving.conftest import ARTIFACT, Serve
from tests.serving.fake_engine import FakeEngine

VALUES = Path(__file__).parents[2] / "charts" / "quantop" / "values.yaml"
MODEL = "fake-model"
HELLO: Any = [{"role": "user", "content": "hello"}]


async def test_models_disclose_what_is_served(serve: Serve) -> None:
    server = await serve()
    models = [model async for model in server.openai.models.list()]
    assert [model.id for model in models] == [MODEL]
    card = models[0].model_dump()
    assert card["metadata"] == ARTIFACT
    assert card["max_model_len"] == 64
    assert (await server.openai.models.retrieve(MODEL)).id == MODEL


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/models", 200),
        ("GET", "/v1/models/other", 404),
        ("POST", "/v1/completions", 400),
        ("GET", "/nowhere", 404),
    ],
)
async def test_every_answer_says_what_is_served(
    serve: Serve, method: str, path: str, status: int
) -> None:
    server = await serve()
    answer = await server.http.request(method, path)
    assert answer.status_code == status
    said = {key: value for key, value in answer.headers.items() if key.startswith("x-quantop-")}
    assert said == {
        "x-quantop-format": "ONNX",
        "x-quantop-precision": "INT4",
        "x-quantop-bits-per-weight": "5.125",
        "x-quantop-artifact-key": "k1",
    }, "and nothing that a header cannot hold"


async def test_a_stream_says_what_is_served(serve: Serve) -> None:
    server = await serve()
    body = {"model": MODEL, "prompt": "a", "stream": True}
    async with server.http.stream("POST", "/v1/completions", json=body) as answer:
        assert answer.headers["x-quantop-precision"] == "INT4"


def test_what_the_operator_leaves_open_is_not_disclosed() -> None:
    environment = {"MODEL_DIR": "/m", "MODEL_NAME": "m", "QUANTOP_PRECISION": "INT4"}
    settings = parse([], environment | {"QUANTOP_BITS_PER_WEIGHT": ""})
    assert settings.artifact == {"precision": "INT4"}


@pytest.mark.parametrize("name", ["onnxruntime", "onnxruntime-encoder", "openvino", "mlx"])
def test_options_win_over_the_arguments_that_the_chart_gives(name: str) -> None:
    spec = yaml.safe_load(VALUES.read_text())["modelRuntimes"][name]["spec"]
    given = [argument for option in spec["options"] for argument in option["args"]]
    words = {"MAX_MODEL_LENGTH": "1024", "MAX_CONCURRENT_REQUESTS": "9"}
    expanded = [re.sub(r"\$\((\w+)\)", lambda found: words[found[1]], word) for word in given]
    environment = {"MODEL_DIR": "/m", "MODEL_NAME": "m"}
    plain = parse(spec["args"], environment)
    settings = parse([*spec["args"], *expanded], environment)
    assert plain.max_running != 9 == settings.max_running
    if name != "onnxruntime-encoder":
        assert plain.max_context != 1024 == settings.max_context


async def test_an_engine_of_its_own_takes_the_middleware_by_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As vLLM does: without arguments."""
    monkeypatch.setenv("QUANTOP_PRECISION", "W4A16")
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]})

    async def send(message: Any) -> None:
        sent.append(message)

    await DiscloseArtifact(app)({"type": "http"}, None, send)  # type: ignore[arg-type]
    assert sent[0]["headers"] == [(b"a", b"b"), (b"x-quantop-precision", b"W4A16")]


async def test_completion(serve: Serve) -> None:
    server = await serve()
    answer = await server.openai.completions.create(model=MODEL, prompt="a bb ccc", max_tokens=3)
    assert answer.choices[0].text == "0 1 2 "
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 3)
    assert answer.usage.total_tokens == 6


async def test_completion_has_16_tokens_unless_told(serve: Serve) -> None:
    server = await serve()
    answer = await server.openai.completions.create(model=MODEL, prompt="a")
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 16


async def test_the_model_may_end_its_answer(serve: Serve) -> None:
    server = await serve(FakeEngine(length=2))
    answer = await server.openai.completions.create(model=MODEL, prompt="a", max_tokens=9)
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("0 1 ", "stop")
    longer = await server.openai.completions.create(
        model=MODEL, prompt="a", max_tokens=4, extra_body={"ignore_eos": True}
    )
    assert (longer.choices[0].text, longer.choices[0].finish_reason) == ("0 1 2 3 ", "length")


@pytest.mark.parametrize("prompt", [[3, 4], ["a bb"]])
async def test_a_prompt_may_be_tokens_or_a_list_of_one(serve: Serve, prompt: Any) -> None:
    server = await serve()
    answer = await server.openai.completions.create(model=MODEL, prompt=prompt, max_tokens=1)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 2


async def test_sampling_reaches_the_engine(serve: Serve) -> None:
    engine = FakeEngine()
    server = await serve(engine)
    await server.openai.completions.create(
        model=MODEL, prompt="a bb", max_tokens=1, temperature=0.5, top_p=0.25, seed=7
    )
    prompt, sampling = engine.seen[0]
    assert prompt == [1, 2]
    assert (sampling.temperature, sampling.top_p, sampling.seed) == (0.5, 0.25, 7)


async def test_completion_stream(serve: Serve) -> None:
    server = await serve()
    stream = await server.openai.completions.create(
        model=MODEL, prompt="a", max_tokens=3, stream=True
    )
    chunks = [chunk async for chunk in stream]
    assert [chunk.choices[0].text for chunk in chunks] == ["0 ", "1 ", "2 ", ""]
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None, None, None, "length"]
    assert len({chunk.id for chunk in chunks}) == 1
    assert all(chunk.usage is None for chunk in chunks)


async def test_chat(serve: Serve) -> None:
    server = await serve(FakeEngine(length=3))
    answer = await server.openai.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": [{"type": "text", "text": "hello"}]}],
        n=1,
        presence_penalty=0,
    )
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content == "0 1 2 "
    assert answer.choices[0].finish_reason == "stop"


async def test_a_chat_answer_may_fill_the_context(serve: Serve) -> None:
    engine = FakeEngine(context_length=10)
    server = await serve(engine)
    answer = await server.openai.chat.completions.create(model=MODEL, messages=HELLO)
    assert answer.usage is not None
    assert answer.usage.total_tokens == 10
    assert answer.choices[0].finish_reason == "length"


async def test_the_context_is_bounded_where_the_model_allows_more(serve: Serve) -> None:
    server = await serve(FakeEngine(context_length=1_000_000), max_context=10)
    answer = await server.openai.chat.completions.create(model=MODEL, messages=HELLO)
    assert answer.usage is not None
    assert answer.usage.total_tokens == 10
    assert (await server.http.get("/v1/models")).json()["data"][0]["max_model_len"] == 10


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
async def test_a_chat_answer_is_bounded_by_either_name(serve: Serve, name: str) -> None:
    server = await serve()
    answer = await server.openai.chat.completions.create(
        model=MODEL, messages=HELLO, extra_body={name: 2}
    )
    assert answer.choices[0].message.content == "0 1 "


async def test_chat_stream_with_usage_in_the_last_chunk(serve: Serve) -> None:
    server = await serve()
    stream = await server.openai.chat.completions.create(
        model=MODEL,
        messages=HELLO,
        max_tokens=2,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    deltas = [chunk.choices[0].delta for chunk in chunks[:-1]]
    assert deltas[0].role == "assistant"
    assert [delta.content for delta in deltas] == ["", "0 ", "1 ", None]
    assert chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 2
    assert all(chunk.usage is None for chunk in chunks[:-1])


async def test_a_stream_is_sent_as_it_is_made(serve: Serve) -> None:
    engine = FakeEngine(pause=0.02)
    server = await serve(engine)
    stream = await server.openai.completions.create(
        model=MODEL, prompt="a", max_tokens=20, stream=True
    )
    first = await anext(aiter(stream))
    assert first.choices[0].text == "0 "
    # The engine still works on the rest when the first piece is here.
    assert server.sample("requests_running") == 1
    await stream.close()


@pytest.mark.parametrize("stream", [False, True])
async def test_stop_sequence_ends_the_answer(serve: Serve, stream: bool) -> None:
    engine = FakeEngine()
    server = await serve(engine)
    body = {"model": MODEL, "prompt": "a", "max_tokens": 50, "stop": ["3 4"], "stream": stream}
    answer = await server.http.post("/v1/completions", json=body)
    if stream:
        events = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
        assert events.pop() == "[DONE]"
        choices = [json.loads(event)["choices"][0] for event in events]
        text, reason = "".join(choice["text"] for choice in choices), choices[-1]["finish_reason"]
    else:
        choice = answer.json()["choices"][0]
        text, reason = choice["text"], choice["finish_reason"]
    assert (text, reason) == ("0 1 2 ", "stop")
    await server.until(lambda: server.sample("requests_running") == 0)


BAD_COMPLETIONS = [
    ({"prompt": "a", "n": 2}, "n", "Input should be 1; found 2"),
    ({"prompt": "a", "best_of": 3}, "best_of", "found 3"),
    ({"prompt": "a", "logprobs": 1}, "logprobs", "found 1"),
    ({"prompt": "a", "echo": True}, "echo", "found True"),
    ({"prompt": "a", "temperature": 3}, "temperature", "less than or equal to 2"),
    ({"prompt": "a", "top_p": 0}, "top_p", "greater than 0"),
    ({"prompt": "a", "max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
    ({"prompt": "a", "stop": list("abcde")}, "stop", "at most 4 items"),
    ({"prompt": "a", "stop": ""}, "stop", "at least 1 character"),
    ({"prompt": ["a", "b"]}, "prompt", "at most 1 item"),
    ({"prompt": ""}, "prompt", "has no token"),
    ({"prompt": [1000]}, "prompt", "no token 1000"),
    ({"prompt": "a", "colour": "red"}, "colour", "not a field that this server knows"),
    ({}, "prompt", "is required"),
    ({"prompt": "a", "max_tokens": 64}, "prompt", "context here is 64 tokens"),
    ({"prompt": "a " * 64}, "prompt", "the prompt has 64"),
    ({"prompt": "a", "stream_options": {}}, None, "only for requests with 'stream': true"),
]


@pytest.mark.parametrize(("body", "param", "message"), BAD_COMPLETIONS)
async def test_a_bad_completion_is_refused_by_name(
    serve: Serve, body: dict[str, Any], param: str | None, message: str
) -> None:
    server = await serve()
    answer = await server.http.post("/v1/completions", json={"model": MODEL, **body})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert message in error["message"]
    labels = {"route": "/v1/completions", "code": "400", "finish_reason": "none"}
    assert server.sample("requests_total", **labels) == 1


BAD_CHATS = [
    ({"messages": []}, "messages", "at least 1 item"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages", "'system'"),
    ({"messages": HELLO, "tools": [{"type": "function"}]}, "tools", "at most 0 items"),
    ({"messages": HELLO, "response_format": {"type": "json_object"}}, "response_format", "'text'"),
    ({"messages": [{"role": "assistant", "content": "x"}]}, "messages", "no user"),
    ({"messages": HELLO, "max_tokens": 64}, "messages", "context here is 64 tokens"),
]


@pytest.mark.parametrize(("body", "param", "message"), BAD_CHATS)
async def test_a_bad_chat_is_refused_by_name(
    serve: Serve, body: dict[str, Any], param: str, message: str
) -> None:
    server = await serve()
    answer = await server.http.post("/v1/chat/completions", json={"model": MODEL, **body})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert message in answer.json()["error"]["message"]


@pytest.mark.parametrize("text", ["{", "[]", "3", ""])
async def test_a_body_that_is_no_object_is_refused(serve: Serve, text: str) -> None:
    server = await serve()
    headers = {"Content-Type": "application/json"}
    answer = await server.http.post("/v1/completions", content=text, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


async def test_another_model_is_not_found(serve: Serve) -> None:
    server = await serve()
    with pytest.raises(openai.NotFoundError, match="'gpt' does not exist") as refusal:
        await server.openai.completions.create(model="gpt", prompt="a")
    assert refusal.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        await server.openai.models.retrieve("gpt")


async def test_an_unknown_route_has_an_error_of_the_same_shape(serve: Serve) -> None:
    server = await serve()
    answer = await server.http.get("/v1/images")
    assert answer.status_code == 404
    assert answer.json()["error"]["message"] == "Not Found"


async def test_inference_protocol_health(serve: Serve) -> None:
    server = await serve()
    for path in ("live", "ready"):
        assert (await server.http.get(f"/v2/health/{path}")).status_code == 200
    assert (await server.http.get("/health")).status_code == 200
    assert (await server.http.get("/v2")).json()["name"] == "quantop_serving"
    assert (await server.http.get(f"/v2/models/{MODEL}/ready")).status_code == 200
    assert (await server.http.get("/v2/models/gpt/ready")).status_code == 404
    described = (await server.http.get(f"/v2/models/{MODEL}")).json()
    assert described["platform"] == "fake"
    assert described["versions"] == ["k1"]
    assert described["parameters"] == ARTIFACT
    assert described["versions"] == ["k1"]


async def test_a_server_that_loads_is_alive_but_not_ready(serve: Serve) -> None:
    go = threading.Event()

    def load() -> FakeEngine:
        go.wait(5)
        return FakeEngine()

    server = await serve(load=load)
    try:
        assert (await server.http.get("/v2/health/live")).status_code == 200
        for path in ("/v2/health/ready", "/health", f"/v2/models/{MODEL}/ready"):
            assert (await server.http.get(path)).status_code == 503
        refused = await server.http.post("/v1/completions", json={"model": MODEL, "prompt": "a"})
        assert refused.status_code == 503
        assert refused.headers["Retry-After"] == "1"
    finally:
        go.set()


async def test_a_model_that_cannot_be_loaded_is_reported(serve: Serve) -> None:
    def load() -> FakeEngine:
        raise RuntimeError("no such model")

    server = await serve(load=load)
    await server.until(lambda: bool(server.failures))
    assert str(server.failures[0]) == "no such model"


async def test_an_engine_that_fails_at_once_is_a_500(serve: Serve) -> None:
    server = await serve(FakeEngine(fail_after=0))
    for stream in (False, True):
        body = {"model": MODEL, "prompt": "a", "stream": stream}
        answer = await server.http.post("/v1/completions", json=body)
        assert answer.status_code == 500
        assert answer.json()["error"]["type"] == "server_error"
    labels = {"route": "/v1/completions", "code": "500", "finish_reason": "error"}
    assert server.sample("requests_total", **labels) == 2


async def test_an_engine_that_fails_later_breaks_the_stream_with_an_error(serve: Serve) -> None:
    server = await serve(FakeEngine(fail_after=2))
    stream = await server.openai.completions.create(model=MODEL, prompt="a", stream=True)
    chunks = aiter(stream)
    assert [(await anext(chunks)).choices[0].text for _ in range(2)] == ["0 ", "1 "]
    with pytest.raises(openai.APIError, match="The engine failed"):
        await anext(chunks)
    assert (await server.http.get("/v2/health/ready")).status_code == 200
