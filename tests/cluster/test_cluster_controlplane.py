"""The API server that tests run against is real, counts what it is asked, and goes completely."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from e2e.cluster.controlplane import ControlPlane


@pytest.fixture(scope="module")
def api() -> Iterator[ControlPlane]:
    with ControlPlane(controller_manager=True) as api:
        yield api


def kubectl(api: ControlPlane, *arguments: str, user: str | None = None) -> str:
    kubeconfig = api.kubeconfig_for(user) if user else api.kubeconfig
    command = [str(api.kubectl), "--kubeconfig", str(kubeconfig), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_writes_are_counted_by_who_made_them(api: ControlPlane) -> None:
    mark = api.audit.mark()
    kubectl(api, "create", "configmap", "settings", "--from-literal=a=b")
    kubectl(api, "get", "configmap", "settings")
    kubectl(api, "delete", "configmap", "settings")
    writes = api.audit.writes(mark, user="admin", agent="kubectl")
    assert [(call.verb, call.resource, call.name) for call in writes] == [
        ("create", "configmaps", "settings"),
        ("delete", "configmaps", "settings"),
    ]
    assert [call.code for call in writes] == [201, 200]
    assert api.audit.writes(api.audit.mark(), user="admin") == []


def test_a_user_may_do_what_rbac_says(api: ControlPlane) -> None:
    with pytest.raises(subprocess.CalledProcessError) as refusal:
        kubectl(api, "get", "secrets", user="somebody")
    assert 'User "somebody" cannot list resource "secrets"' in refusal.value.stderr


def test_the_controller_manager_works(api: ControlPlane) -> None:
    kubectl(api, "create", "namespace", "short-lived")
    kubectl(api, "delete", "namespace", "short-lived", "--timeout=30s")
    assert "short-lived" not in kubectl(api, "get", "namespaces")


def test_nothing_is_left_of_it() -> None:
    with ControlPlane() as api:
        state = api.layout.state
        assert api.processes()
    assert not state.exists()
    assert api.processes() == []
