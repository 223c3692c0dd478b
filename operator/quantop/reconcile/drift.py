"""Whether a live object still is what was applied, so that a settled object is not written."""

from collections.abc import Mapping
from typing import Any

from quantop import quantities
from quantop.builders.meta import HASH_ANNOTATION, Manifest
from quantop.contract import digest


def with_hash(manifest: Manifest) -> Manifest:
    """``manifest`` with a hash of itself among its annotations: it shows that a field was removed,
    which a comparison with the live object cannot."""
    metadata = manifest["metadata"]
    annotations = {**metadata.get("annotations", {}), HASH_ANNOTATION: digest(manifest)[:16]}
    return {**manifest, "metadata": {**metadata, "annotations": annotations}}


def needs_apply(desired: Manifest, live: Manifest | None) -> bool:
    """Whether ``desired`` (with its hash) has to be applied over ``live``."""
    return live is None or not contains(live, desired)


def contains(live: Any, desired: Any) -> bool:
    """Whether every field of ``desired`` is in ``live``; what the API server added is ignored.

    An empty value equals an absent one, and quantities are compared by value.
    """
    if isinstance(desired, Mapping):
        if not desired:
            return live is None or isinstance(live, Mapping)
        return isinstance(live, Mapping) and all(
            contains(live.get(key), value) for key, value in desired.items()
        )
    if isinstance(desired, list):
        if not desired:
            return not live
        return (
            isinstance(live, list)
            and len(live) == len(desired)
            and all(contains(a, b) for a, b in zip(live, desired, strict=True))
        )
    if live == desired or (not live and not desired and desired is not False):
        return True
    return isinstance(live, str) and isinstance(desired, str) and quantities.same(live, desired)
