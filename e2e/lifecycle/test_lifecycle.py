"""Run as root, outside `e2e/cluster/exec`: `pytest e2e/lifecycle` (about three minutes)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.cluster.names import Names
from e2e.cluster.namespaces import mounts_below
from e2e.cluster.paths import REPOSITORY
from e2e.cluster.processes import Identity, Supervisor, alive

NAMES = Names.of("lifecycle")
OTHER = Names.of("lifecycle-too")


def cluster(names: Names, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "e2e.cluster", "--name", names.cluster, *words]
    return subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def done(names: Names, *words: str) -> str:
    process = cluster(names, *words)
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output
    return output


def inside(names: Names, *command: str) -> str:
    script = REPOSITORY / "e2e" / "cluster" / "exec"
    environment = os.environ | {"QUANTOP_CLUSTER": names.cluster}
    return subprocess.run(
        [script, *command], env=environment, check=True, capture_output=True, text=True
    ).stdout


def processes(names: Names) -> list[Identity]:
    """The cluster's own processes; its containers are known by their cgroups."""
    return Supervisor(names.state).strays()


def traces(names: Names) -> list[str]:
    """What is on the machine of a cluster, its folder apart."""
    mounts = mounts_below(names.state, Path("/proc/mounts").read_text())
    cgroups = Path("/sys/fs/cgroup").glob(f"**/{names.unique}")
    return [str(trace) for trace in (*processes(names), *mounts, *cgroups)]


def recorded(names: Names, part: str) -> Identity:
    return Identity(**json.loads((names.state / "run" / f"{part}.json").read_text()))


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    yield
    for names in (NAMES, OTHER):
        done(names, "down")
        assert traces(names) == []


def ready_pods(names: Names) -> int:
    path = '{.items[*].status.conditions[?(@.type=="Ready")].status}'
    pods = inside(names, "kubectl", "get", "pods", "-A", "-o", f"jsonpath={path}")
    return pods.split().count("True")


def test_a_cluster_comes_up_once_and_goes() -> None:
    done(NAMES, "up")
    assert ready_pods(NAMES) == 3
    before = processes(NAMES)
    done(NAMES, "up")
    assert {process for process in before if alive(process)} == set(before)
    assert inside(NAMES, "getent", "hosts", "s3.storage").split()[1].startswith("s3.storage.svc")
    assert "node0" in inside(NAMES, "kubectl", "top", "nodes")
    done(NAMES, "down")
    assert traces(NAMES) == []
    done(NAMES, "down")


def test_buckets_outlive_the_cluster_until_the_purge() -> None:
    done(NAMES, "up")
    inside(NAMES, "s5cmd", "mb", "s3://kept")
    done(NAMES, "down")
    done(NAMES, "up")
    assert "s3://kept" in inside(NAMES, "s5cmd", "ls")
    done(NAMES, "down", "--purge")
    assert not NAMES.state.exists()


def test_clusters_do_not_see_each_other_and_nothing_leads_outside() -> None:
    done(NAMES, "up", "--nodes", "2")
    done(OTHER, "up")
    assert len(inside(NAMES, "kubectl", "get", "nodes", "-o", "name").split()) == 2
    assert len(inside(OTHER, "kubectl", "get", "nodes", "-o", "name").split()) == 1
    done(OTHER, "down")
    assert ready_pods(NAMES) == 3
    connect = "import socket; socket.create_connection(('192.0.2.1', 80), timeout=30)"
    start = time.monotonic()
    with pytest.raises(subprocess.CalledProcessError) as refusal:
        inside(NAMES, "python3", "-c", connect)
    assert "No route to host" in refusal.value.stderr
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("seconds", [0.5, 1, 2, 4, 8])
def test_an_up_that_is_killed_can_be_taken_down(seconds: float) -> None:
    process = cluster(NAMES, "up")
    time.sleep(seconds)
    process.kill()
    process.communicate()
    done(NAMES, "down")
    assert traces(NAMES) == []


def test_parts_that_die_are_started_again() -> None:
    done(NAMES, "up")
    pods = inside(NAMES, "kubectl", "get", "pods", "-A", "-o", "name")
    for part in ("etcd", "kube-apiserver", "kubelet-node0", "containerd-node0"):
        os.kill(recorded(NAMES, part).pid, signal.SIGKILL)
    done(NAMES, "up")
    assert inside(NAMES, "kubectl", "get", "pods", "-A", "-o", "name") == pods
    assert ready_pods(NAMES) == 3


def test_a_cluster_whose_every_process_died_starts_anew() -> None:
    done(NAMES, "up")
    for record in (NAMES.state / "run").iterdir():
        os.kill(recorded(NAMES, record.stem).pid, signal.SIGKILL)
    assert traces(NAMES) != []
    done(NAMES, "up")
    assert ready_pods(NAMES) == 3


def test_a_part_that_cannot_start_is_named_with_its_log() -> None:
    done(NAMES, "up")
    os.kill(recorded(NAMES, "kube-scheduler").pid, signal.SIGKILL)
    kubeconfig = NAMES.state / "kubeconfig" / "system-kube-scheduler"
    sound = kubeconfig.read_text()
    kubeconfig.write_text("not a kubeconfig")
    try:
        process = cluster(NAMES, "up")
        output, _ = process.communicate(timeout=120)
    finally:
        kubeconfig.write_text(sound)
    assert process.returncode == 1
    assert "kube-scheduler ended" in output
    assert "cannot unmarshal" in output or "couldn't get version" in output
