"""Processes are found and ended by who they are, not by their number."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from e2e.cluster.errors import PartFailedError
from e2e.cluster.processes import Identity, Supervisor, alive, end, identify, tail


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    supervisor = Supervisor(tmp_path)
    yield supervisor
    end(supervisor.strays(), grace=0)


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


def known(process: subprocess.Popen[bytes]) -> Identity:
    identity = identify(process.pid)
    assert identity is not None
    return identity


def test_a_recycled_id_is_not_the_process(sleeper: subprocess.Popen[bytes]) -> None:
    process = known(sleeper)
    assert alive(process)
    assert not alive(replace(process, started=process.started - 1))
    assert not alive(replace(process, boot="another boot"))


def test_only_the_process_meant_is_ended(sleeper: subprocess.Popen[bytes]) -> None:
    process = known(sleeper)
    end([replace(process, started=process.started - 1)], grace=0)
    assert alive(process)
    end([process], grace=5)
    assert not alive(process)


def test_a_zombie_is_dead() -> None:
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert Path(f"/proc/{child.pid}").exists()
    assert identify(child.pid) is None
    child.wait()


def test_a_process_that_ignores_sigterm_is_killed(supervisor: Supervisor) -> None:
    script = "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True)\n"
    supervisor.start("deaf", [sys.executable, "-c", f"{script}time.sleep(600)"])
    supervisor.wait("deaf", lambda: "deaf\n" in supervisor.log("deaf").read_text())
    process = supervisor.running("deaf")
    assert process is not None
    supervisor.end(["deaf"], grace=0.2)
    assert not alive(process)
    assert supervisor.parts() == []


def test_starting_twice_leaves_one(supervisor: Supervisor) -> None:
    supervisor.start("sleep", ["sleep", "600"])
    first = supervisor.running("sleep")
    supervisor.start("sleep", ["sleep", "600"])
    assert supervisor.running("sleep") == first


def test_another_supervisor_of_the_folder_finds_the_process(supervisor: Supervisor) -> None:
    supervisor.start("sleep", ["sleep", "600"])
    later = Supervisor(supervisor.state)
    process = later.running("sleep")
    assert process is not None
    later.end(["sleep"], grace=5)
    assert supervisor.running("sleep") is None


def test_a_stale_record_is_not_running(supervisor: Supervisor) -> None:
    supervisor.start("sleep", ["sleep", "600"])
    record = supervisor.state / "run" / "sleep.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"started": 1}))
    assert supervisor.running("sleep") is None
    assert supervisor.parts() == ["sleep"]


def test_a_process_without_a_record_is_found(supervisor: Supervisor) -> None:
    supervisor.start("sleep", ["sleep", "600"])
    process = supervisor.running("sleep")
    (supervisor.state / "run" / "sleep.json").unlink()
    assert supervisor.strays() == [process]


def test_a_failed_part_is_named_with_the_end_of_its_log(supervisor: Supervisor) -> None:
    supervisor.start("etcd", ["sh", "-c", "sleep 0.1; echo the disk is full; exit 3"])
    with pytest.raises(PartFailedError, match=r"(?s)etcd ended.*the disk is full") as failure:
        supervisor.wait("etcd", lambda: False)
    assert failure.value.part == "etcd"


def test_a_part_that_is_never_ready_is_named(supervisor: Supervisor) -> None:
    supervisor.start("s3", ["sleep", "600"])
    with pytest.raises(PartFailedError, match="s3 was not ready within 0 s"):
        supervisor.wait("s3", lambda: False, seconds=0.2)


def test_the_tail_is_the_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("".join(f"line {number}\n" for number in range(100)))
    assert tail(log, lines=2) == "line 98\nline 99"
    assert tail(tmp_path / "absent") == "(no log)"
