"""The end of a server: nobody is cut, nobody is refused, and it ends."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import httpx
import pytest
import quantop_drain
from quantop_serving.drain import Drain

from tests.serving.conftest import Serve
from tests.serving.rolling_load import Plan, measure

GAUGES = ("quantop_serving_requests_running", "quantop_serving_requests_waiting")
FAKE_SERVER = (sys.executable, "-m", "tests.serving.fake_server", "--model-dir=/nowhere")


@pytest.fixture
def drain_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "draining"
    monkeypatch.setenv(quantop_drain.DRAIN_FILE_VARIABLE, str(file))
    return file


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def fake_command(name: str = "m", *more: str) -> tuple[str, ...]:
    return (*FAKE_SERVER, f"--model-name={name}", "--host=127.0.0.1", "--port={port}", *more)


@pytest.mark.parametrize("hook", [True, False])
async def test_a_rolling_update_under_load_fails_no_request(
    monkeypatch: pytest.MonkeyPatch, hook: bool
) -> None:
    """Clients without retries that keep their connections, with the preStop hook and without."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    plan = Plan(
        command=fake_command("m", "--drain-linger=2"),
        model="m",
        gauges=GAUGES,
        retries=0,
        tokens=40,
        # Longer than the endpoint's delay; shorter than the server's keep-alive limit, so that
        # only `Connection: close` can move the clients.
        endpoint_delay=0.5,
        spread=1.5,
        warm_up=0.5,
        hook=hook,
    )
    result = await measure(plan, free_ports(4))
    assert result.failed == 0, result
    assert result.complete > 8
    assert [line.split("process ")[1][0] for line in result.per_server] == ["0", "0"]


async def test_the_load_sees_a_server_that_is_not_drained(monkeypatch: pytest.MonkeyPatch) -> None:
    """The measurement above can fail: without hook and linger it does."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    plan = Plan(
        command=fake_command("m", "--drain-linger=0", "--drain-timeout=0"),
        model="m",
        gauges=GAUGES,
        retries=0,
        tokens=40,
        endpoint_delay=0.5,
        warm_up=0.5,
        hook=False,
    )
    assert (await measure(plan, free_ports(4))).failed > 0


def begin_drain(file: Path) -> None:
    file.touch()


async def test_draining_closes_connections_and_is_not_ready(serve: Serve, drain_file: Path) -> None:
    server = await serve()
    assert "Connection" not in (await server.http.get("/v1/models")).headers
    begin_drain(drain_file)
    for path, status in (("/v1/models", 200), ("/v2/health/ready", 503), ("/v2/health/live", 200)):
        answer = await server.http.get(path)
        assert answer.status_code == status
        assert answer.headers["Connection"] == "close"
    body = {"model": "fake-model", "prompt": "a", "max_tokens": 1, "stream": True}
    answer = await server.http.post("/v1/completions", json=body)
    assert answer.headers["Connection"] == "close"
    assert answer.text.endswith("data: [DONE]\n\n")


async def test_a_restarted_container_forgets_the_drain_before_it(
    serve: Serve, drain_file: Path
) -> None:
    begin_drain(drain_file)
    server = await serve()
    assert (await server.http.get("/v2/health/ready")).status_code == 200


def test_drain_ends_when_nobody_is_answered_and_proxies_know(tmp_path: Path) -> None:
    drain = Drain(tmp_path / "draining", linger=0.05, timeout=60)
    assert not drain.active
    assert not drain.done(answering=0)
    drain.signal()
    assert drain.active
    assert not drain.done(answering=0)
    time.sleep(0.06)
    assert drain.done(answering=0)
    assert not drain.done(answering=1)


def test_drain_ends_at_its_timeout(tmp_path: Path) -> None:
    drain = Drain(tmp_path / "draining", linger=0, timeout=0.05)
    drain.signal()
    assert not drain.done(answering=1)
    time.sleep(0.06)
    assert drain.done(answering=1)


def test_the_hooks_wait_counts(tmp_path: Path) -> None:
    file = tmp_path / "draining"
    file.touch()
    os.utime(file, (time.time() - 60, time.time() - 60))
    drain = Drain(file, linger=30, timeout=300)
    assert drain.active
    assert not drain.done(answering=0)
    drain.signal()
    assert drain.done(answering=0)


EXPOSITION = """\
# HELP vllm:num_requests_running x
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="a b"} 2.0
vllm:num_requests_running{engine="1",model_name="a b"} 1.0
vllm:num_requests_running_peak 9
llamacpp:requests_deferred 4
with_time{a="}"} 5 1700000000000
"""


@pytest.mark.parametrize(
    ("gauges", "load"),
    [
        (["vllm:num_requests_running"], 3),
        (["vllm:num_requests_running", "llamacpp:requests_deferred"], 7),
        (["with_time"], 5),
    ],
)
def test_load_is_the_sum_of_the_gauges(gauges: list[str], load: float) -> None:
    assert quantop_drain.read_load(EXPOSITION, gauges) == load


def test_a_gauge_that_the_engine_lacks_is_an_error() -> None:
    with pytest.raises(quantop_drain.MissingGaugeError, match="no metric named requests"):
        quantop_drain.read_load(EXPOSITION, ["requests", "llamacpp:requests_deferred"])


class FakeMetrics:
    """A fake engine's /metrics: each answer is the next of `loads`, then the last one again."""

    def __init__(self, *loads: float) -> None:
        self.loads = list(loads)
        self.asked = 0
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                load = fake.loads[min(fake.asked, len(fake.loads) - 1)]
                fake.asked += 1
                body = f"load {load}\n".encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        Thread(target=self.server.serve_forever, daemon=True).start()

    def hook(self, *more: str) -> int:
        fast = ["--spread=0", "--interval=0.01", f"--port={self.port}", "load"]
        try:
            return quantop_drain.main([*fast, *more])
        finally:
            self.server.shutdown()
            self.server.server_close()


def test_the_hook_waits_until_the_engine_is_idle_twice_in_a_row(drain_file: Path) -> None:
    engine = FakeMetrics(3, 1, 0, 1, 0, 0)
    assert engine.hook() == 0
    assert engine.asked == 6
    assert drain_file.exists()


def test_the_hook_gives_up_at_its_timeout(
    drain_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert FakeMetrics(1).hook("--timeout=0.2") == 1
    assert "still busy after 0.2 s" in capsys.readouterr().err


def test_the_hook_says_which_gauge_does_not_exist(
    drain_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert FakeMetrics(0).hook("typo") == 2
    assert "no metric named typo" in capsys.readouterr().err


def test_an_engine_that_has_ended_is_idle(drain_file: Path) -> None:
    (port,) = free_ports(1)
    assert quantop_drain.main([f"--port={port}", "--spread=0", "load"]) == 0


async def test_a_model_that_cannot_be_loaded_ends_the_process(tmp_path: Path) -> None:
    """onnxruntime-genai is not installed here, so that loading fails."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "quantop_onnxruntime", f"--model-dir={tmp_path}"),
        *("--model-name=m", "--host=127.0.0.1", f"--port={free_ports(1)[0]}"),
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    _, errors = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 1
    assert f"the model in {tmp_path} cannot be served" in errors.decode()


async def test_a_second_signal_ends_the_process_at_once(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    command = [part.replace("{port}", str(port)) for part in fake_command("m", "--drain-linger=60")]
    process = await asyncio.create_subprocess_exec(
        *command,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "QUANTOP_DRAIN_FILE": str(tmp_path / "draining"),
        },
    )
    async with httpx.AsyncClient(trust_env=False, base_url=f"http://127.0.0.1:{port}") as http:
        for _ in range(300):
            try:
                if (await http.get("/health")).status_code == 200:
                    break
            except httpx.TransportError:
                await asyncio.sleep(0.1)
        process.terminate()
        for _ in range(300):
            if (await http.get("/health")).status_code == 503:
                break
            await asyncio.sleep(0.01)
        process.terminate()
        await asyncio.wait_for(process.wait(), 10)
