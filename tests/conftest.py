"""Fixtures: a real etcd and kube-apiserver for the session, with the CRDs in it."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.cluster.controlplane import ControlPlane
from tests.kube import CRDS, Kubectl

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    """The API server, with quantop's CRDs established; no controller and no node."""
    with ControlPlane() as api:
        kubectl = Kubectl(api.kubectl, api.kubeconfig)
        kubectl.must("apply", "--server-side", f"--filename={CRDS}")
        kubectl.must("wait", "--for=condition=Established", "--timeout=30s", f"--filename={CRDS}")
        yield api


@pytest.fixture(scope="session")
def kubeconfig(control_plane: ControlPlane) -> Path:
    """A kubeconfig of an administrator of the API server."""
    return control_plane.kubeconfig


@pytest.fixture(scope="session")
def kubectl(control_plane: ControlPlane) -> Kubectl:
    """kubectl as an administrator of the API server."""
    return Kubectl(control_plane.kubectl, control_plane.kubeconfig)


@pytest.fixture
def namespace(kubectl: Kubectl) -> str:
    """A namespace of the test's own. It stays: nothing here could empty it."""
    name = f"test-{next(_numbers)}"
    kubectl.must("create", "namespace", name)
    return name
