"""What counts as drift of a live object from what was applied."""

from typing import Any

import pytest
from quantop.reconcile.drift import contains, needs_apply, with_hash

LIVE = {
    "spec": {
        "replicas": 2,
        "containers": [{"name": "a", "image": "x", "terminationMessagePolicy": "File"}],
        "resources": {"limits": {"memory": "1Gi", "cpu": "1"}},
        "volumes": [{"name": "tmp", "emptyDir": {}}],
        "enableServiceLinks": False,
    }
}

SAME: list[Any] = [
    {"spec": {"replicas": 2}},
    {"spec": {"containers": [{"name": "a", "image": "x"}]}},
    {"spec": {"resources": {"limits": {"memory": "1024Mi", "cpu": "1000m"}}}},
    {"spec": {"volumes": [{"name": "tmp", "emptyDir": {}}]}},
    {"spec": {"nodeSelector": {}, "tolerations": []}},
    {"spec": {"enableServiceLinks": False}},
]
OTHER: list[Any] = [
    {"spec": {"replicas": 3}},
    {"spec": {"replicas": 0}},
    {"spec": {"containers": [{"name": "a", "image": "y"}]}},
    {"spec": {"containers": [{"name": "a", "image": "x"}, {"name": "b", "image": "x"}]}},
    {"spec": {"containers": []}},
    {"spec": {"resources": {"limits": {"memory": "2Gi"}}}},
    {"spec": {"enableServiceLinks": True}},
    {"spec": {"hostNetwork": False}},
    {"spec": {"serviceAccountName": "x"}},
]


@pytest.mark.parametrize("desired", SAME)
def test_the_same(desired: Any) -> None:
    assert contains(LIVE, desired)


@pytest.mark.parametrize("desired", OTHER)
def test_drifted(desired: Any) -> None:
    assert not contains(LIVE, desired)


def test_a_removed_field_shows_by_the_hash() -> None:
    manifest = {"metadata": {"name": "a"}, "spec": {"x": 1, "y": 2}}
    live = with_hash(manifest)
    assert not needs_apply(with_hash(manifest), live)
    fewer = {"metadata": {"name": "a"}, "spec": {"x": 1}}
    assert contains(live["spec"], fewer["spec"])
    assert needs_apply(with_hash(fewer), live)
