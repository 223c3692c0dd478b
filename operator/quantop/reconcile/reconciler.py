"""One pass over one object: observe, plan, write what differs, one status write at the end."""

import logging
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime

from pydantic import ValidationError

from quantop import logs, metrics
from quantop.api.base import API_VERSION
from quantop.api.quantizedmodel import QuantizedModelStatus
from quantop.builders.meta import Manifest
from quantop.conditions import State, merge
from quantop.kube import ApiError, Kube
from quantop.reasons import ConditionType, Reason
from quantop.reconcile import events
from quantop.reconcile.cache import Cache, Entry, Key, first_problem
from quantop.reconcile.plan import Plan, plan, stalled
from quantop.reconcile.snapshot import Problem, Snapshot

logger = logging.getLogger(__name__)

STALLED_RECHECK_SECONDS = 300.0
"""A stalled object is looked at again by itself: not every cause of it is watched."""
WAITING_RECHECK_SECONDS = 30.0
"""So is one that waits for another's conversion."""


class Reconciler:
    """Brings objects to what they say, one pass at a time."""

    def __init__(
        self,
        kube: Kube,
        cache: Cache,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._kube = kube
        self._cache = cache
        self._now = now
        self._warned: dict[Entry, str] = {}

    async def reconcile(self, key: Key) -> float | None:
        """One pass over the object of that key. Returns the seconds after which another is wanted.
        Raises what ``Kube`` does for what a later pass may not meet again."""
        model = self._cache.model(key)
        if model is None:
            metrics.forget(key)
            return None
        began = time.monotonic()
        with logs.context(object=f"{key[0]}/{key[1]}", reconcile_id=uuid.uuid4().hex[:12]):
            result = "error"
            try:
                again = await self._pass(model)
                result = "success"
                return again
            finally:
                metrics.reconciled(result, time.monotonic() - began)

    async def warn(self, entry: Entry) -> None:
        """Warn once of an object that cannot be read, as long as it is as it is."""
        found = self._cache.unreadable(entry)
        version = found.manifest["metadata"]["resourceVersion"] if found else ""
        if found is None or self._warned.get(entry) == version:
            return
        told = {"object": _named(found.manifest), "why": found.why}
        logger.warning("an object cannot be read", extra=told)
        try:
            await self._kube.create(events.unreadable(found.manifest, found.why, self._now()))
        except ApiError as error:
            # 409: an earlier leader did.
            if error.status != 409:
                logger.warning("an Event was not written", extra={"error": str(error)})
        self._warned[entry] = version

    async def _pass(self, model: Manifest) -> float | None:
        try:
            snapshot = self._cache.snapshot(model)
        except ValidationError as error:
            await self._invalid(model, error)
            return STALLED_RECHECK_SECONDS
        wanted = plan(snapshot, self._now())
        self._cache.claim(wanted.apply)
        try:
            await self._write(snapshot, wanted)
        except RefusedError as refused:
            wanted = stalled(snapshot, refused.problem, self._now())
        await self._write_status(snapshot.model, snapshot.status, wanted.status)
        metrics.observe(snapshot.namespace, snapshot.name, wanted.status)
        is_stalled = any(
            c.type == ConditionType.STALLED and c.status == "True" for c in wanted.status.conditions
        )
        if is_stalled:
            return STALLED_RECHECK_SECONDS
        resolution = wanted.status.resolution
        # The awaited Job wakes its waiters when it changes, unless it was never made.
        return WAITING_RECHECK_SECONDS if resolution and resolution.awaited_job else None

    async def _write(self, snapshot: Snapshot, wanted: Plan) -> None:
        if wanted.finalizers is not None:
            self._cache.wrote(await self._kube.set_finalizers(snapshot.model, wanted.finalizers))
            if snapshot.deleting:
                return
        for manifest in wanted.apply:
            await self._apply(snapshot, manifest)
        for live in wanted.delete:
            await self._kube.delete(live)
            self._cache.deleted(live)
            logger.info("deleted", extra={"child": _named(live)})

    async def _apply(self, snapshot: Snapshot, manifest: Manifest) -> None:
        """Apply a child; one of its name that belongs to somebody else is not touched."""
        try:
            if not self._is_known(snapshot, manifest):
                live = await self._kube.get(manifest)
                if live is not None and not _is_ours(live, snapshot.model):
                    raise RefusedError(
                        Problem(
                            Reason.NAME_CONFLICT,
                            f"{manifest['kind']} {manifest['metadata']['name']!r} exists already "
                            "and is not this object's: rename the QuantizedModel, or remove it.",
                        )
                    )
            self._cache.wrote(await self._kube.apply(manifest))
        except ApiError as error:
            if error.permanent:
                raise RefusedError(
                    Problem(
                        Reason.INVALID_SPEC,
                        f"the API server refuses {_named(manifest)}: {error.message}",
                    )
                ) from error
            raise
        logger.info("applied", extra={"child": _named(manifest)})

    def _is_known(self, snapshot: Snapshot, manifest: Manifest) -> bool:
        """Whether the cache has this child, so that it is surely ours."""
        known = {
            "Deployment": snapshot.deployment,
            "Service": snapshot.service,
            "PodDisruptionBudget": snapshot.disruption_budget,
            "HorizontalPodAutoscaler": snapshot.autoscaler,
        }
        live = known.get(manifest["kind"])
        return live is not None and _is_ours(live, snapshot.model)

    async def _write_status(
        self, model: Manifest, before: QuantizedModelStatus, after: QuantizedModelStatus
    ) -> None:
        if after == before:
            return
        try:
            written = await self._kube.apply_status(
                {
                    "apiVersion": API_VERSION,
                    "kind": "QuantizedModel",
                    "metadata": {
                        "name": model["metadata"]["name"],
                        "namespace": model["metadata"]["namespace"],
                        # An object of the same name made since then must not get this status.
                        "uid": model["metadata"]["uid"],
                    },
                    "status": after.model_dump(mode="json", by_alias=True, exclude_none=True),
                }
            )
        except ApiError as error:
            if error.status in (404, 409):
                return
            raise
        self._cache.wrote(written)
        for event in events.transitions(model, before, after, self._now()):
            try:
                await self._kube.create(event)
            except ApiError as error:
                # The status says the same; an Event is not worth another pass.
                logger.warning("an Event was not written", extra={"error": str(error)})

    async def _invalid(self, model: Manifest, error: ValidationError) -> None:
        """The stored spec is not of this version's shape: say so, and touch nothing else."""
        message = f"{first_problem(error)}. Apply the object again with a valid value."
        state = State(False, Reason.INVALID_SPEC, message)
        generation = int(model["metadata"].get("generation", 0))
        raw = model.get("status", {})
        try:
            before = QuantizedModelStatus.model_validate(raw)
        except ValidationError:
            before = QuantizedModelStatus()
        states = dict.fromkeys(ConditionType, state) | {
            ConditionType.STALLED: State(True, state.reason, message)
        }
        after = before.model_copy(
            update={
                "conditions": merge(before.conditions, states, generation, self._now()),
                "observed_generation": generation,
            }
        )
        await self._write_status(model, before, after)


class RefusedError(Exception):
    """The API server, or we, refuse a child for good."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


def _is_ours(live: Manifest, model: Manifest) -> bool:
    owners = live["metadata"].get("ownerReferences", [])
    return any(o.get("uid") == model["metadata"]["uid"] for o in owners)


def _named(manifest: Manifest) -> str:
    return f"{manifest['kind']}/{manifest['metadata']['name']}"
