"""kopf's part: the watches, the indexes, and what wakes which object. Thin on purpose.

There are only index and event handlers: they write nothing on objects, while kopf's state-tracking
handlers would keep a copy of each object in its annotations, and daemons would add finalizers.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import kopf

from quantop import metrics
from quantop.api.base import GROUP, VERSION
from quantop.api.modelruntime import ModelRuntimeSpec
from quantop.api.modelstore import ModelStoreSpec
from quantop.api.preset import PresetSpec
from quantop.api.quantizer import QuantizerSpec
from quantop.builders import meta
from quantop.builders.meta import Manifest
from quantop.reasons import Reason
from quantop.reconcile.cache import Cache, Entry, Key, draft_name, node, parse, trim, trim_pod
from quantop.reconcile.queue import WorkQueue
from quantop.reconcile.snapshot import Node

OURS = {meta.MANAGED_BY_LABEL: meta.MANAGER}

CHILDREN = {
    "jobs": ("batch", "v1", "jobs"),
    "deployments": ("apps", "v1", "deployments"),
    "services": ("", "v1", "services"),
    "disruption_budgets": ("policy", "v1", "poddisruptionbudgets"),
    "autoscalers": ("autoscaling", "v2", "horizontalpodautoscalers"),
    "pods": ("", "v1", "pods"),
}
KINDS = {
    "stores": ("modelstores", ModelStoreSpec),
    "quantizers": ("quantizers", QuantizerSpec),
    "runtimes": ("modelruntimes", ModelRuntimeSpec),
    "presets": ("presets", PresetSpec),
}


def operator_settings() -> kopf.OperatorSettings:
    """kopf without anything that writes."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True
    # A watch whose connection died silently is opened anew after this.
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 330
    return settings


def register(
    registry: kopf.OperatorRegistry,
    cache: Cache,
    queue: WorkQueue[Key],
    unreadable: WorkQueue[Entry],
) -> None:
    """Fill ``cache`` from watches of everything that a plan reads, ``queue`` from changes, and
    ``unreadable`` from what of that is of no known shape."""
    seen_jobs: set[str] = set()
    seen_nodes: dict[str, tuple[str, Node]] = {}

    # kopf runs plain functions in threads; coroutines run in the loop, which the queue belongs to.

    def index(
        resource: tuple[str, str, str], name: str, make: Callable[[Any], Any], **filters: Any
    ) -> None:
        async def indexer(body: kopf.Body, **_: Any) -> Any:
            return make(body)

        kopf.index(*resource, id=name, registry=registry, **filters)(indexer)

    def event(
        resource: tuple[str, str, str], react: Callable[[Manifest], None], **filters: Any
    ) -> None:
        async def handler(event: kopf.RawEvent, **kwargs: Any) -> None:
            cache.attach({name: kwargs[name] for name in INDEXES})
            body: Any = event["object"]
            if event["type"] == "DELETED":
                cache.saw_deletion(body)
            react(body)

        kopf.on.event(*resource, registry=registry, **filters)(handler)

    def wake_all(_: Manifest) -> None:
        for key in cache.keys:
            queue.add(key)

    def catalogue_changed(index: str) -> Callable[[Manifest], None]:
        def react(body: Manifest) -> None:
            wake_all(body)
            entry = index, body["metadata"]["name"]
            if cache.unreadable(entry):
                unreadable.add(entry)

        return react

    def wake_those_short_of_room(body: Manifest) -> None:
        uid, offers = body["metadata"]["uid"], node(body)
        if seen_nodes.get(body["metadata"]["name"]) == (uid, offers):
            return  # Its kubelet says every few minutes that it lives.
        seen_nodes[body["metadata"]["name"]] = uid, offers
        for key in cache.keys:
            model = cache.model(key) or {}
            status = model.get("status", {})
            told = [*status.get("conditions", []), *status.get("candidates", [])]
            if any(c["reason"] == Reason.INSUFFICIENT_CAPACITY for c in told):
                queue.add(key)

    def wake_those_within(namespace: Manifest) -> None:
        for key in cache.keys:
            if key[0] == namespace["metadata"]["name"]:
                queue.add(key)

    def wake_owner(child: Manifest) -> None:
        metadata = child["metadata"]
        if name := metadata.get("labels", {}).get(meta.MODEL_LABEL):
            queue.add((metadata["namespace"], name))

    def model_changed(model: Manifest) -> None:
        queue.add(_key(model))
        for key in cache.kin(_key(model)):
            queue.add(key)

    def job_changed(job: Manifest) -> None:
        wake_owner(job)
        _count(job, seen_jobs)
        here = f"{job['metadata']['namespace']}/{job['metadata']['name']}"
        for key in cache.keys:
            model = cache.model(key) or {}
            resolution = model.get("status", {}).get("resolution", {})
            if resolution.get("awaitedJob") == here:
                queue.add(key)

    models = (GROUP, VERSION, "quantizedmodels")
    index(models, "models", lambda body: {_key(body): trim(body)})
    index(models, "drafting", _drafting)
    index(models, "going", _going)
    event(models, model_changed)
    for name, (plural, type_) in KINDS.items():
        resource = (GROUP, VERSION, plural)
        index(resource, name, _parser(type_))
        event(resource, catalogue_changed(name))
    for name, resource in CHILDREN.items():
        cut = trim_pod if name == "pods" else trim
        index(resource, name, _by_model(cut), labels=OURS)
        event(resource, job_changed if name == "jobs" else wake_owner, labels=OURS)
    conversions = {**OURS, meta.COMPONENT_LABEL: meta.CONVERT}
    index(
        CHILDREN["jobs"],
        "conversions",
        lambda body: {body["metadata"]["labels"].get(meta.KEY_LABEL): trim(body)},
        labels=conversions,
    )
    nodes, namespaces = ("", "v1", "nodes"), ("", "v1", "namespaces")
    index(nodes, "nodes", lambda body: {body["metadata"]["name"]: node(body)})
    event(nodes, wake_those_short_of_room)
    index(namespaces, "namespaces", lambda body: {body["metadata"]["name"]: _namespace(body)})
    event(namespaces, wake_those_within)

    @kopf.on.login(registry=registry)
    def login(**kwargs: Any) -> kopf.ConnectionInfo | None:
        return kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)


INDEXES = ("models", "drafting", "going", *KINDS, *CHILDREN, "conversions", "nodes", "namespaces")


def _key(body: Manifest) -> Key:
    metadata = body["metadata"]
    return metadata["namespace"], metadata["name"]


def _drafting(model: Any) -> dict[Key, str]:
    """A model by the draft model that it names."""
    namespace, name = _key(model)
    draft = draft_name(model)
    return {(namespace, draft): name} if draft else {}


def _going(model: Any) -> dict[str, str]:
    """A model that is being deleted, by its namespace."""
    namespace, name = _key(model)
    return {namespace: name} if "deletionTimestamp" in model["metadata"] else {}


def _by_model(cut: Callable[[Any], Manifest]) -> Callable[[Any], dict[Key, Manifest]]:
    def make(body: Any) -> dict[Key, Manifest]:
        metadata = body["metadata"]
        return {(metadata["namespace"], metadata["labels"].get(meta.MODEL_LABEL, "")): cut(body)}

    return make


def _parser(type_: Any) -> Callable[[Any], dict[str, Any]]:
    def make(body: Any) -> dict[str, Any]:
        return {body["metadata"]["name"]: parse(type_, body)}

    return make


def _namespace(body: Manifest) -> Manifest:
    return {
        "labels": dict(body["metadata"].get("labels", {})),
        "terminating": body.get("status", {}).get("phase") == "Terminating",
    }


def _count(job: Manifest, seen: set[str]) -> None:
    """Observe a finished Job's duration once; one that had ended before this replica started is
    left to the replica that saw it end."""
    status, uid = job.get("status", {}), job["metadata"]["uid"]
    ended = next(
        (
            c
            for c in status.get("conditions", [])
            if c["type"] in ("Complete", "Failed") and c["status"] == "True"
        ),
        None,
    )
    if ended is None:
        seen.add(uid)
    elif uid in seen:
        seen.discard(uid)
        seconds = _seconds(status.get("startTime"), ended.get("lastTransitionTime"))
        component = job["metadata"]["labels"].get(meta.COMPONENT_LABEL, "")
        metrics.JOB_SECONDS.labels(component, ended["type"]).observe(seconds)


def _seconds(start: str | None, end: str | None) -> float:
    if not start or not end:
        return 0.0
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()
