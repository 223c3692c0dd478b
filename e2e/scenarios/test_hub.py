"""A checkpoint on a model hub: here a fake one, which the operator is told about at installation
(``operator.hubEndpoint``) and which runs beside the cluster's S3 server."""

import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.cluster.names import CONTROL_PLANE
from e2e.fakes.hub import FakeHub
from e2e.kubectl import Kubectl, Object
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


@pytest.fixture
def mirror(kubectl: Kubectl) -> Iterator[str]:
    """A ModelStore that keeps what is read from a hub, in a folder of its own."""
    name = f"mirror-{secrets.token_hex(3)}"
    default = kubectl.get("modelstore", "default")
    assert default is not None
    spec = default["spec"] | {"hubSources": "Mirrored"}
    spec["s3"] = spec["s3"] | {"prefix": name}
    kubectl.apply({**default, "metadata": {"name": name}, "spec": spec})
    yield name
    kubectl.delete("modelstore", name)


def test_further_precisions_are_made_of_a_stores_copy_when_the_hub_is_gone(
    mirror: str, team: Team, tmp_path: Path
) -> None:
    def model(precision: str) -> Object:
        made = quantized_model(
            f"mirrored-{precision[:2].lower()}",
            ("GGUF", precision),
            serving=None,
            storage={"storeName": mirror},
        )
        made["spec"]["source"] = {"uri": f"hf://{REPOSITORY}", "revision": commit}
        return made

    shutil.copytree(MODELS / "tiny-llama", tmp_path / REPOSITORY)
    with FakeHub(tmp_path, CONTROL_PLANE, PORT) as hub:
        commit = hub.model(REPOSITORY, "main", None).commit()
        team.ready(team.apply(model("Q8_0")))
    team.ready(team.apply(model("Q4_0")))
