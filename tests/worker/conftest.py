"""A real S3 server for the session, and a bucket for each test."""

import itertools
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from quantop.contract import ConversionTask, Referrer, StoreRef

from e2e.cluster import toolchain
from tests.worker.checkpoints import write_checkpoint
from tests.worker.harness import ACCESS_KEY, RECIPE, SECRET_KEY, Bench, S3Server, source, wait_until

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """versitygw over a folder, on a free port of the loopback device."""
    toolchain.build(["s3"], print)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    folder = tmp_path_factory.mktemp("s3")
    environment = os.environ | {"ROOT_ACCESS_KEY": ACCESS_KEY, "ROOT_SECRET_KEY": SECRET_KEY}
    command = [str(toolchain.binary("versitygw")), "--quiet", "--port", f"127.0.0.1:{port}"]
    log = folder.with_name("s3.log")
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, "posix", str(folder)], env=environment, stdout=output, stderr=output
        )
        try:
            wait_until(lambda: process.poll() is not None or _listens(port))
            assert process.poll() is None, f"the S3 server ended: {log.read_text()}"
            yield S3Server(port)
        finally:
            process.kill()
            process.wait(10)


@pytest.fixture
def bench(s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """An empty bucket, and a checkpoint below ``checkpoint/`` that is to be converted."""
    monkeypatch.setenv("STORE_AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("STORE_AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    monkeypatch.setenv("WORK_DIR", str(tmp_path / "work"))
    monkeypatch.setenv("PVC_DIR", str(tmp_path / "pvc"))
    client = s3_server.client()
    bucket = f"bucket-{next(_numbers)}"
    client.create_bucket(Bucket=bucket)
    store = StoreRef(endpoint=s3_server.url, bucket=bucket, prefix="models")
    task = ConversionTask(
        store=store,
        source=source(f"s3://{bucket}/checkpoint"),
        recipe=RECIPE,
        referrer=Referrer(cluster="test", namespace="team", name="model"),
        max_source_bytes=1 << 30,
    )
    made = Bench(s3_server, bucket, tmp_path, store, task, client)
    made.upload(write_checkpoint(tmp_path / "checkpoint"), "checkpoint")
    return made


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
