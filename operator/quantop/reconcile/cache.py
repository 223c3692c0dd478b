"""What the watches have seen, and how a Snapshot is taken from it.

kopf fills its indexes from the watches and calls no handler before every index has its first
list; so whoever reads here after the first event reads a whole picture. Objects are trimmed on the
way in: managed fields and the like are most of an object's bytes and none of its meaning.
"""

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import ValidationError

from quantop.api.base import ApiModel
from quantop.api.quantizedmodel import ArtifactState, QuantizedModelSpec, QuantizedModelStatus
from quantop.builders import meta
from quantop.builders.meta import Manifest
from quantop.quantities import parse as parse_quantity
from quantop.reconcile.snapshot import Draft, Node, Peer, Snapshot
from quantop.settings import Settings

logger = logging.getLogger(__name__)

Key = tuple[str, str]
"""Namespace and name of a QuantizedModel."""
Entry = tuple[str, str]
"""One of the catalogue's objects: the name of its index, and its own."""
CATALOGUE = ("stores", "quantizers", "runtimes", "presets")
"""The indexes of the cluster-scoped kinds."""
Identity = tuple[str, str, str]
"""Kind, namespace and name."""
T = TypeVar("T", bound=ApiModel)

WRITTEN_SECONDS = 30.0
"""How long a write is believed before the watch has shown it."""

LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


def trim(body: Mapping[str, Any]) -> Manifest:
    """A copy of an object without what no plan reads."""
    manifest = dict(body)
    metadata = dict(manifest["metadata"])
    metadata.pop("managedFields", None)
    if annotations := metadata.get("annotations"):
        metadata["annotations"] = {k: v for k, v in annotations.items() if k != LAST_APPLIED}
    manifest["metadata"] = metadata
    return manifest


def draft_name(model: Mapping[str, Any]) -> str | None:
    """The draft model that a model names."""
    engine = (model["spec"].get("serving") or {}).get("engine") or {}
    name: str | None = (engine.get("draftModel") or {}).get("name")
    return name


def trim_pod(body: Mapping[str, Any]) -> Manifest:
    """A pod's name, labels and status: its spec is read nowhere."""
    metadata = body["metadata"]
    kept = (
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "creationTimestamp",
        "deletionTimestamp",
        "labels",
    )
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {key: metadata[key] for key in kept if key in metadata},
        "status": dict(body.get("status", {})),
    }


def node(body: Mapping[str, Any]) -> Node:
    """What a plan reads of a node, which hears of it far more often than it reads it."""
    allocatable = body.get("status", {}).get("allocatable", {})
    return Node(
        labels=dict(body["metadata"].get("labels", {})),
        allocatable={name: parse_quantity(amount) for name, amount in allocatable.items()},
    )


@dataclass(frozen=True)
class Unreadable:
    """An object of a cluster-scoped kind that is stored in a shape which this version does not
    know, as it is where another one wrote it."""

    manifest: Manifest
    """Its kind and metadata."""
    why: str


def parse(model: type[T], body: Mapping[str, Any]) -> T | Unreadable:
    """The spec of a cluster-scoped kind, or why it cannot be read."""
    try:
        return model.model_validate(body.get("spec"))
    except ValidationError as error:
        kind = {"kind": body["kind"], "metadata": body["metadata"]}
        return Unreadable(trim(kind), first_problem(error))


def first_problem(error: ValidationError) -> str:
    """The first of the fields of a spec that are not of this version's shape, and why."""
    first = error.errors()[0]
    where = ".".join(["spec", *map(str, first["loc"])])
    return f"{where}: {first['msg']}"


class Cache:
    """Reads of the indexes, overlaid by our own writes that the watches have not shown yet."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._indexes: Mapping[str, Any] = {}
        self._written: dict[Key, dict[Identity, tuple[float, Manifest]]] = defaultdict(dict)
        self._deleted: dict[str, float] = {}
        self._claims: dict[str, tuple[float, Manifest]] = {}

    def attach(self, indexes: Mapping[str, Any]) -> None:
        """Read from these indexes of kopf's, by name."""
        self._indexes = indexes

    @property
    def keys(self) -> list[Key]:
        """All QuantizedModels."""
        return list(self._indexes.get("models", ()))

    def model(self, key: Key) -> Manifest | None:
        """A QuantizedModel as it was last seen or written."""
        return next(iter(self._all("models", key, "QuantizedModel", named=key[1])), None)

    def wrote(self, manifest: Manifest) -> None:
        """Believe the answer to a write until the watch has shown as much."""
        self._written[_owner(manifest)][_identity(manifest)] = (self._clock(), trim(manifest))
        if manifest["kind"] == "Job":
            self._claims.pop(manifest["metadata"]["labels"].get(meta.KEY_LABEL, ""), None)

    def claim(self, manifests: Iterable[Manifest]) -> None:
        """Let others know of conversions that are about to be made: of two passes that run side by
        side the second must wait for the first, though its Job is not there yet."""
        for manifest in manifests:
            label = manifest["metadata"].get("labels", {}).get(meta.KEY_LABEL)
            if manifest["kind"] == "Job" and label:
                self._claims[label] = (self._clock(), manifest)

    def deleted(self, manifest: Manifest) -> None:
        """Believe that an object is gone until the watch has shown it."""
        self._deleted[manifest["metadata"]["uid"]] = self._clock()
        self._forget(manifest)

    def saw_deletion(self, manifest: Manifest) -> None:
        """The watch showed that an object is gone."""
        self._deleted.pop(manifest["metadata"]["uid"], None)
        self._forget(manifest)

    def snapshot(self, model: Manifest) -> Snapshot:
        """Everything that a pass over ``model`` looks at. Raises pydantic's ValidationError when
        its spec is not of this version's shape."""
        metadata = model["metadata"]
        namespace, name = metadata["namespace"], metadata["name"]
        key = (namespace, name)
        status = _status(model)
        about = self._one("namespaces", namespace) or {}
        resolution = status.resolution
        missing = resolution and resolution.state is ArtifactState.MISSING
        return Snapshot(
            model=model,
            spec=QuantizedModelSpec.model_validate(model["spec"]),
            status=status,
            settings=self._settings,
            namespace_labels=about.get("labels", {}),
            namespace_terminating=about.get("terminating", False),
            stores=self._readable("stores"),
            quantizers=self._readable("quantizers"),
            runtimes=self._readable("runtimes"),
            presets=self._readable("presets"),
            unreadable={
                (found.manifest["kind"], name): found.why
                for index in CATALOGUE
                for name, found in self._named(index).items()
                if isinstance(found, Unreadable)
            },
            jobs={
                job["metadata"]["name"]: job
                for job in self._all("jobs", key, "Job")
                if "deletionTimestamp" not in job["metadata"]
            },
            pods=tuple(self._values("pods", key)),
            deployment=self._child("deployments", key, "Deployment"),
            service=self._child("services", key, "Service"),
            disruption_budget=self._child("disruption_budgets", key, "PodDisruptionBudget"),
            autoscaler=self._child("autoscalers", key, "HorizontalPodAutoscaler"),
            peers=tuple(self._peers(key, resolution.key)) if resolution and missing else (),
            nodes=tuple(self._named("nodes").values()),
            draft=self._draft(key, model),
            drafts_for=tuple(sorted(self._drafts_for(key))),
        )

    def unreadable(self, entry: Entry) -> Unreadable | None:
        """One of the catalogue's objects, if it cannot be read."""
        found = self._one(*entry)
        return found if isinstance(found, Unreadable) else None

    def kin(self, key: Key) -> list[Key]:
        """The models that a change of this one may matter to: those that draft with it, and those
        that are going and may wait for it to let go of their artifact."""
        namespace, _ = key
        names = [*self._values("drafting", key), *self._values("going", namespace)]
        return [(namespace, name) for name in names]

    def _drafts_for(self, key: Key) -> Iterator[str]:
        """Names of the models that draft with this one, and stay."""
        namespace, _ = key
        going = self._values("going", namespace)
        return (name for name in self._values("drafting", key) if name not in going)

    def _draft(self, key: Key, model: Manifest) -> Draft | None:
        """The draft model that a model names, unless it is of another version's shape."""
        name = draft_name(model)
        draft = self.model((key[0], name)) if name else None
        if draft is None:
            return None
        try:
            return Draft(QuantizedModelSpec.model_validate(draft["spec"]), _status(draft))
        except ValidationError:
            return None

    def _child(self, index: str, key: Key, kind: str) -> Manifest | None:
        return next(
            (
                child
                for child in self._all(index, key, kind, named=key[1])
                if "deletionTimestamp" not in child["metadata"]
            ),
            None,
        )

    def _peers(self, key: Key, artifact_key: str) -> Iterator[Peer]:
        """Other objects' unfinished conversion Jobs for the same artifact, in a fixed order."""
        label = meta.short_key(artifact_key)
        found: dict[Key, Manifest] = {}
        for job in [
            *self._values("conversions", label),
            *(m for own in self._written.values() for _, m in own.values() if m["kind"] == "Job"),
        ]:
            metadata = job["metadata"]
            labels = metadata.get("labels", {})
            if labels.get(meta.KEY_LABEL) == label and metadata["uid"] not in self._deleted:
                found[metadata["namespace"], metadata["name"]] = job
        for (namespace, name), job in sorted(found.items()):
            owner = _owner(job)
            status = job.get("status", {})
            over = status.get("completionTime") or any(
                c.get("type") == "Failed" and c.get("status") == "True"
                for c in status.get("conditions", [])
            )
            if owner != key and not over and "deletionTimestamp" not in job["metadata"]:
                yield Peer(namespace, name)
        claimed_at, claimed = self._claims.get(label, (0.0, None))
        if claimed and _owner(claimed) != key and self._clock() - claimed_at < WRITTEN_SECONDS:
            yield Peer(claimed["metadata"]["namespace"], claimed["metadata"]["name"])

    def _named(self, index: str) -> dict[str, Any]:
        return {
            name: value
            for name in self._indexes.get(index, ())
            for value in self._values(index, name)
        }

    def _readable(self, index: str) -> dict[str, Any]:
        return {
            name: spec
            for name, spec in self._named(index).items()
            if not isinstance(spec, Unreadable)
        }

    def _one(self, index: str, key: Any) -> Any:
        return next(iter(self._values(index, key)), None)

    def _values(self, index: str, key: Any) -> list[Any]:
        indexed = self._indexes.get(index, {})
        return list(indexed[key]) if key in indexed else []

    def _all(self, index: str, key: Key, kind: str, named: str | None = None) -> Iterable[Manifest]:
        """Objects of one model from an index, each as new as the watch or our write has it."""
        now = self._clock()
        found = {_identity(m): m for m in self._values(index, key)}
        mine = self._written.get(key, {})
        for identity, (written_at, manifest) in list(mine.items()):
            if identity[0] != kind or (named is not None and identity[2] != named):
                continue
            seen = found.get(identity)
            shown = seen is not None and _version(seen) >= _version(manifest)
            if shown or now - written_at > WRITTEN_SECONDS:
                del mine[identity]
            else:
                found[identity] = manifest
        if not mine:
            self._written.pop(key, None)
        for uid, deleted_at in list(self._deleted.items()):
            if now - deleted_at > WRITTEN_SECONDS:
                del self._deleted[uid]
        return [m for m in found.values() if m["metadata"]["uid"] not in self._deleted]

    def _forget(self, manifest: Manifest) -> None:
        owner = _owner(manifest)
        if mine := self._written.get(owner):
            mine.pop(_identity(manifest), None)
            if not mine:
                del self._written[owner]


def _owner(manifest: Manifest) -> Key:
    """The QuantizedModel that a child belongs to, or the QuantizedModel itself."""
    metadata = manifest["metadata"]
    name = metadata["name"]
    if manifest["kind"] != "QuantizedModel":
        name = metadata.get("labels", {}).get(meta.MODEL_LABEL, name)
    return metadata.get("namespace", ""), name


def _identity(manifest: Manifest) -> Identity:
    metadata = manifest["metadata"]
    return manifest["kind"], metadata.get("namespace", ""), metadata["name"]


def _version(manifest: Manifest) -> int:
    """The resource version as a number: Kubernetes 1.35 promises that they can be compared."""
    return int(manifest["metadata"]["resourceVersion"])


def _status(model: Manifest) -> QuantizedModelStatus:
    """The stored status. One of another version's shape is worked out anew: it is only a memory
    of what can be observed again."""
    try:
        return QuantizedModelStatus.model_validate(model.get("status", {}))
    except ValidationError:
        logger.warning(
            "working out a status of another shape anew",
            extra={"object": f"{model['metadata']['namespace']}/{model['metadata']['name']}"},
        )
        return QuantizedModelStatus()
