"""A checkpoint on a model hub: here a fake one, which the operator is told about at installation
(``operator.hubEndpoint``) and which runs beside the cluster's S3 server."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.cluster.names import CONTROL_PLANE
from e2e.fakes.hub import FakeHub
from e2e.kubectl import Kubectl
from e2e.scenarios.team import Team, quantized_model
from e2e.store import MODELS

PORT = 8000
REPOSITORY = "fake-owner/tiny-llama"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FakeHub]:
    shutil.copytree(MODELS / "tiny-llama", tmp_path / REPOSITORY)
    with FakeHub(tmp_path, CONTROL_PLANE, PORT) as running:
        yield running


def test_a_branch_of_a_hub_is_resolved_to_a_commit_and_served(team: Team, hub: FakeHub) -> None:
    name = team.apply(quantized_model("from-a-hub", source=f"hf://{REPOSITORY}"))
    model = team.ready(name)
    commit = hub.model(REPOSITORY, "main", None).commit()
    assert commit in model["status"]["resolution"]["sourceIdentity"]
    assert team.answer(name)


def test_a_gated_model_needs_a_token_and_creating_it_is_enough(
    team: Team, hub: FakeHub, kubectl: Kubectl
) -> None:
    """Without the Secret the object is Stalled; with it in place it goes on by itself."""
    (hub.root / REPOSITORY / ".gated").write_text("token-of-the-test")
    source = {"uri": f"hf://{REPOSITORY}", "credentialsSecretName": "hub-token"}
    model = quantized_model("gated", serving=None)
    model["spec"]["source"] = source
    name = team.apply(model)
    assert "hub-token" in team.stalled(name)["message"]

    kubectl.apply(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "hub-token", "namespace": team.namespace},
            "stringData": {"HF_TOKEN": "token-of-the-test"},
        }
    )
    team.ready(name, recovering=True)
