"""What every scenario finds: the cluster, its store, and a namespace of its own."""

import json
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from e2e.install import ensure_namespace
from e2e.kubectl import Kubectl, restarts
from e2e.scenarios.operator import Operator
from e2e.scenarios.team import Team
from e2e.store import MODELS, SOURCES_BUCKET, Store, push_checkpoint, push_test_models


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes many minutes; left out by `make e2e`")


@pytest.fixture(scope="session")
def kubectl() -> Kubectl:
    return Kubectl()


@pytest.fixture(scope="session")
def store() -> Store:
    """The cluster's store, with the test models in it."""
    found = Store.from_environment()
    push_test_models(found.client())
    return found


@pytest.fixture(scope="session", autouse=True)
def operator(kubectl: Kubectl) -> Iterator[Operator]:
    """The operator, whose containers must not have crashed once by the end of the session."""
    found = Operator(kubectl)
    assert len(found.pods()) == 2, "the chart makes two replicas"
    yield found
    assert restarts(found.pods()) == 0, "a container of the operator was restarted"


@pytest.fixture
def make_team(kubectl: Kubectl, store: Store) -> Iterator[Callable[[], Team]]:
    """Makes namespaces with Pod Security ``restricted`` and the store's Secrets; they go, with
    all that is in them, when the test is over."""
    made: list[str] = []

    def make() -> Team:
        name = f"e2e-{secrets.token_hex(3)}"
        ensure_namespace(kubectl, name, store)
        made.append(name)
        return Team(kubectl, name)

    yield make
    for name in made:
        kubectl.run("delete", "quantizedmodels", "--all", f"--namespace={name}", timeout=300)
        kubectl.run("delete", "namespace", name, "--wait=false")


@pytest.fixture
def team(make_team: Callable[[], Team]) -> Team:
    return make_team()


def push_unique(store: Store, model: str, **changes: object) -> str:
    """Put a checkpoint that no artifact exists of into the store, with changes of its config.json;
    its uri."""
    unique = secrets.token_hex(8)
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(MODELS / model, folder, dirs_exist_ok=True)
        config = Path(folder, "config.json")
        told_apart = {**json.loads(config.read_text()), "quantop_e2e": unique, **changes}
        config.write_text(json.dumps(told_apart))
        push_checkpoint(store.client(), Path(folder), SOURCES_BUCKET, f"e2e/{unique}")
    return f"s3://{SOURCES_BUCKET}/e2e/{unique}"


@pytest.fixture
def new_checkpoint(store: Store) -> Callable[[str], str]:
    """Puts a checkpoint that no artifact exists of into the store; its uri."""

    def push(model: str = "tiny-llama") -> str:
        return push_unique(store, model)

    return push
