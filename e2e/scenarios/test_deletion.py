"""``deletionPolicy: Delete`` removes an artifact with the last object that refers to it."""

from collections.abc import Callable

from e2e.scenarios.team import Team, quantized_model
from e2e.store import ARTIFACTS_BUCKET, Store

DELETE = {"deletionPolicy": "Delete"}


def stored(store: Store, key: str) -> list[str]:
    """The names of the objects of an artifact."""
    listing = store.client().list_objects_v2(Bucket=ARTIFACTS_BUCKET, Prefix=f"artifacts/{key}/")
    return [each["Key"] for each in listing.get("Contents", [])]


def test_the_last_object_takes_the_artifact_with_it(
    make_team: Callable[[], Team], store: Store, new_checkpoint: Callable[[str], str]
) -> None:
    first, second = make_team(), make_team()
    source = new_checkpoint("tiny-llama")
    for team in (first, second):
        team.apply(quantized_model("shared", source=source, serving=None, storage=DELETE))
    key = first.ready("shared")["status"]["artifact"]["key"]
    assert second.ready("shared")["status"]["artifact"]["key"] == key

    first.kubectl.delete("quantizedmodel", "shared", first.namespace)
    assert any(name.endswith("/manifest.json") for name in stored(store, key))
    second.kubectl.delete("quantizedmodel", "shared", second.namespace)
    assert stored(store, key) == []


def test_a_retained_artifact_outlives_its_object(
    team: Team, store: Store, new_checkpoint: Callable[[str], str]
) -> None:
    name = team.apply(quantized_model("kept", source=new_checkpoint("tiny-llama"), serving=None))
    key = team.ready(name)["status"]["artifact"]["key"]
    team.kubectl.delete("quantizedmodel", name, team.namespace)
    assert any(each.endswith("/manifest.json") for each in stored(store, key))
