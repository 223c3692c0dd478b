"""What the cache believes beside the watches."""

from typing import Any

from quantop.api.quantizedmodel import ArtifactState, QuantizedModelStatus, Resolution
from quantop.builders.meta import KEY_LABEL, MODEL_LABEL
from quantop.reconcile.cache import WRITTEN_SECONDS, Cache
from quantop.settings import Settings

from tests.operator import objects

KEY = "0123456789abcdef" * 4


def waiting_model(namespace: str) -> dict[str, Any]:
    """A model whose artifact is to be made."""
    resolution = Resolution(
        inputs_hash="h",
        key=KEY,
        state=ArtifactState.MISSING,
        source_identity="s",
        source_size_bytes=1,
    )
    model = objects.model(namespace)
    model["metadata"] |= {"uid": namespace, "resourceVersion": "1", "generation": 1}
    status = QuantizedModelStatus(resolution=resolution)
    model["status"] = status.model_dump(mode="json", by_alias=True, exclude_none=True)
    return model


def conversion(namespace: str) -> dict[str, Any]:
    """A conversion Job of that artifact."""
    return {
        "kind": "Job",
        "metadata": {
            "name": "tiny-convert-1",
            "namespace": namespace,
            "uid": f"job-{namespace}",
            "resourceVersion": "2",
            "labels": {MODEL_LABEL: "tiny", KEY_LABEL: KEY[:16]},
        },
    }


def test_of_two_passes_side_by_side_the_second_sees_the_first() -> None:
    now = [100.0]
    cache = Cache(Settings("worker"), clock=lambda: now[0])
    assert cache.snapshot(waiting_model("b")).peers == ()
    cache.claim([conversion("a")])
    assert [p.namespace for p in cache.snapshot(waiting_model("b")).peers] == ["a"]
    assert cache.snapshot(waiting_model("a")).peers == ()
    # A claim that came to nothing holds nobody up for long.
    now[0] += WRITTEN_SECONDS
    assert cache.snapshot(waiting_model("b")).peers == ()


def test_a_claim_ends_with_its_write() -> None:
    cache = Cache(Settings("worker"), clock=lambda: 100.0)
    cache.claim([conversion("a")])
    made = conversion("a")
    cache.wrote(made)
    assert len(cache.snapshot(waiting_model("b")).peers) == 1
    over = conversion("a") | {"status": {"completionTime": "now"}}
    over["metadata"]["resourceVersion"] = "3"
    cache.wrote(over)
    assert cache.snapshot(waiting_model("b")).peers == ()
