"""The worker as a container's process: exit codes, termination messages, signals, output."""

import json
import os
import signal
import stat
import time

import pytest
from quantop.contract import TERMINATION_MESSAGE_BYTES, PublishResult, ResolveResult

from tests.worker.harness import SECRET_KEY, Bench, source, wait_until
from tests.worker.stalling_proxy import StallingProxy


def test_a_conversion_in_processes(bench: Bench) -> None:
    resolved = bench.run("resolve")
    assert resolved.code == 0, resolved.output
    found = ResolveResult.model_validate(resolved.message)
    assert resolved.message["stage"] == "resolve"
    bench = bench.with_task(key=found.key, source_identity=found.source_identity)
    fetched = bench.run("fetch")
    assert fetched.code == 0, fetched.output
    weights = bench.work / "source" / "model.safetensors"
    assert stat.S_IMODE(weights.stat().st_mode) == 0o644
    assert stat.S_IMODE(weights.parent.stat().st_mode) == 0o755
    bench.quantize({"model.gguf": b"quantized"})
    published = bench.run("publish")
    assert published.code == 0, published.output
    result = PublishResult.model_validate(published.message)
    assert result.published.key == found.key
    for ended in (resolved, fetched, published):
        assert ended.lines, "no progress was said"
        assert all("stage" in line for line in ended.lines)


def test_a_refusal_ends_with_3_and_a_sentence(bench: Bench) -> None:
    bench = bench.with_task(source=source(f"s3://{bench.bucket}/absent"))
    ended = bench.run("resolve")
    assert ended.code == 3
    assert ended.message["stage"] == "resolve"
    assert ended.message["reason"] == "SourceNotFound"
    assert "spec.source.uri" in ended.message["message"]


def test_an_unreachable_server_ends_with_1(bench: Bench) -> None:
    source_task = bench.task.model_copy(
        update={"source": source("hf://owner/name", hub_endpoint="http://127.0.0.1:9")}
    )
    ended = bench.run("resolve", source_task)
    assert ended.code == 1
    assert ended.message["reason"] == "Unreachable"


@pytest.mark.parametrize("stage", ["resolve", "fetch", "publish", "pull", "delete"])
def test_a_task_that_is_none_is_refused_without_repeating_it(bench: Bench, stage: str) -> None:
    ended = bench.run(stage, QUANTOP_TASK=json.dumps({"secret": "do-not-repeat"}))
    assert ended.code == 3
    assert ended.message["reason"] == "InvalidTask"
    assert "do-not-repeat" not in ended.output


def test_a_long_message_fits_the_termination_message(bench: Bench) -> None:
    ended = bench.run("resolve", bench.with_task(source=source("ftp://" + "ä" * 5000)).task)
    assert ended.code == 3
    assert len(json.dumps(ended.message, ensure_ascii=False).encode()) <= TERMINATION_MESSAGE_BYTES
    assert ended.message["reason"] == "InvalidSource"


def test_no_secret_is_ever_said(bench: Bench) -> None:
    token = "hub-token-that-must-not-show"
    failed = bench.run(
        "resolve", AWS_DEBUG="1", STORE_AWS_ACCESS_KEY_ID="stranger", SOURCE_HF_TOKEN=token
    )
    succeeded = bench.run("resolve", SOURCE_HF_TOKEN=token)
    assert (failed.code, succeeded.code) == (3, 0)
    for ended in (failed, succeeded):
        said = ended.output + json.dumps(ended.message)
        assert SECRET_KEY not in said
        assert token not in said
        assert "stranger" not in said


@pytest.mark.parametrize("number", [signal.SIGTERM])
def test_a_terminated_stage_ends_at_once(bench: Bench, number: signal.Signals) -> None:
    """Even in the middle of a request that gets no answer."""
    bench = bench.resolved()
    bench.fetch()
    bench.quantize({"model.gguf": os.urandom(40 << 20)})
    with StallingProxy(bench.server.port, 8 << 20) as proxy:
        store = bench.store.model_copy(update={"endpoint": proxy.url})
        process = bench.start("publish", bench.task.model_copy(update={"store": store}))
        assert proxy.stalled.wait(60)
        began = time.monotonic()
        process.send_signal(number)
        wait_until(lambda: process.poll() is not None, 10)
        assert time.monotonic() - began < 5
        ended = bench.end("publish", process)
    assert ended.code == 128 + number
    assert bench.artifact().read() is None
    assert bench.publish().published.key == bench.task.key


def test_a_failure_nobody_foresaw_is_worth_another_try(bench: Bench) -> None:
    program = (
        "from quantop_worker import __main__; from quantop_worker.stages import resolve;"
        "resolve.open_source = None;"
        "raise SystemExit(__main__.main())"
    )
    process = bench.start("resolve", program=program)
    ended = bench.end("resolve", process)
    assert ended.code == 1
    assert ended.message["reason"] == "InternalError"
