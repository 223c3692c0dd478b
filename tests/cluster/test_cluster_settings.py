"""What follows from a cluster's name, and what its parts are told."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from e2e.cluster import cgroups, namespaces, node
from e2e.cluster.enter import environment
from e2e.cluster.errors import ClusterError
from e2e.cluster.names import Names
from e2e.cluster.paths import binaries


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTOP_CACHE", str(tmp_path))
    monkeypatch.delenv("QUANTOP_CLUSTER", raising=False)


def test_the_name_comes_from_the_argument_then_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert Names.of().cluster == "quantop"
    monkeypatch.setenv("QUANTOP_CLUSTER", "second")
    assert Names.of().cluster == "second"
    assert Names.of("third").cluster == "third"


@pytest.mark.parametrize("name", ["Upper", "-dash", "1st", "a/b", "..", "a" * 21])
def test_a_name_that_could_leave_its_folder_is_refused(name: str) -> None:
    with pytest.raises(ClusterError, match="lower case"):
        Names.of(name)


def test_clusters_share_nothing_on_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = Names.of("a"), Names.of("b")
    monkeypatch.setenv("QUANTOP_CACHE", "/tmp/other")
    elsewhere = Names.of("a")
    clusters = [first, second, elsewhere]
    assert len({names.unique for names in clusters}) == 3
    assert len({names.node(0).cgroup for names in clusters}) == 3
    assert len({names.node(0).network for names in clusters}) == 3


def test_containerd_is_told_where_the_clusters_things_are() -> None:
    one = Names.of().node(1)
    text = node.containerd_settings(one, one.folder / "registries", Path("/usr/lib/cni"))
    plugins = tomllib.loads(text)["plugins"]
    registry = plugins["io.containerd.cri.v1.images"]["registry"]
    assert Path(registry["config_path"]).is_relative_to(one.folder)
    networks = plugins["io.containerd.cri.v1.runtime"]["cni"]
    assert networks["bin_dirs"] == ["/usr/lib/cni"]
    assert Path(networks["conf_dir"]).is_relative_to(one.folder)


def test_nodes_have_pod_addresses_of_their_own() -> None:
    subnets = set()
    for index in range(3):
        settings = json.loads(node.pod_network(Names.of().node(index)))
        subnets.add(settings["plugins"][0]["ipam"]["ranges"][0][0]["subnet"])
    assert subnets == {"10.244.0.0/24", "10.244.1.0/24", "10.244.2.0/24"}


def test_a_command_in_the_cluster_sees_the_cluster_and_no_proxy() -> None:
    names = Names.of()
    names.state.mkdir(parents=True, exist_ok=True)
    inherited = {
        "PATH": "/usr/bin",
        "HOME": "/root",
        "https_proxy": "http://proxy:3128",
        "AWS_PROFILE": "production",
        "AWS_SESSION_TOKEN": "token",
        "AWS_ACCESS_KEY_ID": "mine",
    }
    seen = environment(names, inherited)
    first, second, third = seen["PATH"].split(":")
    assert first.endswith("/.venv/bin")
    assert Path(second) == binaries()
    assert third == "/usr/bin"
    assert seen["HOME"] == "/root"
    assert seen["AWS_ACCESS_KEY_ID"] == "quantop"
    assert not {"https_proxy", "AWS_PROFILE", "AWS_SESSION_TOKEN"} & seen.keys()
    assert json.loads(Path(seen["KUBECONFIG"]).read_text())["kind"] == "Config"


def test_cgroup_trees_of_both_versions_are_found() -> None:
    mounts = (
        "cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n"
        "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n"
        "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n"
        "cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n"
    )
    found = {(str(tree.root), tree.unified) for tree in cgroups.hierarchies(mounts)}
    assert found == {
        ("/sys/fs/cgroup/memory", False),
        ("/sys/fs/cgroup/cpu", False),
        ("/sys/fs/cgroup/unified", True),
    }


def test_only_mounts_below_the_folder_are_the_clusters() -> None:
    mounts = (
        "overlay /cache/clusters/a/node0/rootfs overlay rw 0 0\n"
        "tmpfs /cache/clusters/ab/node0/volume tmpfs rw 0 0\n"
        "tmpfs /cache/clusters/a/node0/with\\040space tmpfs rw 0 0\n"
        "tmpfs / tmpfs rw 0 0\n"
    )
    assert namespaces.mounts_below(Path("/cache/clusters/a"), mounts) == [
        Path("/cache/clusters/a/node0/rootfs"),
        Path("/cache/clusters/a/node0/with space"),
    ]
