"""The routes of encoders and classifiers."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest

from tests.serving.conftest import Serve
from tests.serving.fake_reader import FakeReader

MODEL = "fake-model"
INFER = f"/v2/models/{MODEL}/infer"


def asked(*texts: str, **changes: Any) -> dict[str, Any]:
    """A request of the Open Inference Protocol."""
    tensor = {"name": "text", "shape": [len(texts)], "datatype": "BYTES", "data": [*texts]}
    return {"inputs": [{**tensor, **changes}]}


async def test_an_encoder_embeds_by_the_open_inference_protocol(serve: Serve) -> None:
    server = await serve(FakeReader())
    answer = await server.http.post(INFER, json={"id": "7", **asked("a bb", "ccc")})
    assert answer.json() == {
        "model_name": MODEL,
        "model_version": "k1",
        "id": "7",
        "outputs": [
            {"name": "embedding", "datatype": "FP32", "shape": [2, 2], "data": [2, 4, 1, 3]}
        ],
    }
    assert server.sample("prompt_tokens_total") == 3


async def test_a_classifier_tells_labels_and_their_probabilities(serve: Serve) -> None:
    server = await serve(FakeReader(labels=("words", "characters")))
    (label, probabilities) = (await server.http.post(INFER, json=asked("abc"))).json()["outputs"]
    assert label == {"name": "label", "datatype": "BYTES", "shape": [1], "data": ["characters"]}
    assert probabilities["shape"] == [1, 2]
    assert probabilities["data"] == [0.25, 0.75]
    only = asked("abc") | {"outputs": [{"name": "label"}]}
    (one,) = (await server.http.post(INFER, json=only)).json()["outputs"]
    assert one == label


async def test_metadata_tell_the_tensors(serve: Serve) -> None:
    server = await serve(FakeReader())
    described = (await server.http.get(f"/v2/models/{MODEL}")).json()
    assert described["platform"] == "fake"
    assert described["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]
    assert described["outputs"] == [{"name": "embedding", "datatype": "FP32", "shape": [-1, 2]}]
    assert (await server.openai.models.retrieve(MODEL)).id == MODEL


@pytest.mark.parametrize("texts", ["a bb", ["a bb", "ccc"]])
async def test_an_encoder_embeds_by_openais_api(serve: Serve, texts: Any) -> None:
    """The client asks for base64 where it is not told otherwise."""
    server = await serve(FakeReader())
    answer = await server.openai.embeddings.create(model=MODEL, input=texts)
    assert answer.data[0].embedding == [2, 4]
    assert [each.index for each in answer.data] == [*range(1 if texts == "a bb" else 2)]
    plain = await server.openai.embeddings.create(model=MODEL, input=texts, encoding_format="float")
    assert plain.data == answer.data
    assert plain.usage.total_tokens == (2 if texts == "a bb" else 3)


async def test_a_classifier_has_no_embeddings(serve: Serve) -> None:
    server = await serve(FakeReader(labels=("a", "b")))
    with pytest.raises(openai.BadRequestError, match="is a classifier"):
        await server.openai.embeddings.create(model=MODEL, input="a")


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        (INFER, asked("a", shape=[2]), 400, "has 1 texts, but its shape is [2]"),
        (INFER, asked("a", datatype="FP32"), 400, "BYTES"),
        (INFER, asked("a", name="ids"), 400, "text"),
        (INFER, asked(), 400, "at least 1"),
        (INFER, asked("a") | {"outputs": [{"name": "logits"}]}, 400, "no output 'logits'"),
        ("/v2/models/other/infer", asked("a"), 404, "'other' does not exist"),
    ],
)
async def test_what_cannot_be_answered_is_told(
    serve: Serve, path: str, body: dict[str, Any], status: int, said: str
) -> None:
    server = await serve(FakeReader())
    answer = await server.http.post(path, json=body)
    assert answer.status_code == status
    assert said in answer.json()["error"]
    template = "/v2/models/{name}/infer"
    assert server.sample("requests_total", route=template, code=str(status), finish_reason="none")


async def test_more_requests_than_may_wait_are_refused(serve: Serve) -> None:
    reader = FakeReader()
    reader.gate.clear()
    server = await serve(reader, max_running=1, max_waiting=1)
    first = asyncio.create_task(server.http.post(INFER, json=asked("a")))
    await server.until(lambda: server.sample("requests_running") == 1)
    second = asyncio.create_task(server.http.post(INFER, json=asked("b")))
    await server.until(lambda: server.sample("requests_waiting") == 1)
    third = await server.http.post(INFER, json=asked("c"))
    assert third.status_code == 429
    reader.gate.set()
    assert [(await each).status_code for each in (first, second)] == [200, 200]
    assert server.sample("requests_running") == server.sample("requests_waiting") == 0


async def test_an_engine_that_fails_is_the_servers_fault(serve: Serve) -> None:
    server = await serve(FakeReader(failure=RuntimeError("secret")))
    answer = await server.http.post(INFER, json=asked("a"))
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert server.sample("requests_running") == 0
