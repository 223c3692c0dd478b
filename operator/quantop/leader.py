"""Leader election by Lease: one replica works, the others stand by.

The same rules as client-go's: a Lease is judged by how long *this* replica has seen it unchanged,
so that clocks of different machines are never compared; it is written with its resource version,
so that of two replicas which try at once only one succeeds.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime

import aiohttp

from quantop import metrics
from quantop.builders.meta import Manifest
from quantop.kube import ApiError, Kube
from quantop.settings import Settings

logger = logging.getLogger(__name__)

LEASE_NAME = "quantop-operator"


class LeadershipLostError(Exception):
    """Another replica may be working by now: this one must end at once."""


class LeaderElection:
    """Holds the Lease while this replica works."""

    def __init__(
        self, kube: Kube, settings: Settings, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._kube = kube
        self._settings = settings
        self._clock = clock
        self._seen: Manifest | None = None
        self._seen_at = 0.0
        self._renewed_at = 0.0

    @property
    def period(self) -> float:
        """Seconds between two tries."""
        return self._settings.lease_seconds / 5

    async def acquire(self) -> None:
        """Wait until this replica holds the Lease."""
        while not await self._try():  # noqa: ASYNC110 - another process's Lease sets no event
            await asyncio.sleep(self.period)
        metrics.LEADER.set(1)
        logger.info("leading", extra={"identity": self._settings.identity})

    async def hold(self) -> None:
        """Renew the Lease for ever. Raises LeadershipLostError when two thirds of its time passed
        without a renewal, or somebody else holds it."""
        deadline = self._settings.lease_seconds * 2 / 3
        while True:
            await asyncio.sleep(self.period)
            held = await self._try()
            if not held and (
                self._holder() != self._settings.identity
                or self._clock() - self._renewed_at > deadline
            ):
                metrics.LEADER.set(0)
                raise LeadershipLostError(f"{self._holder() or 'nobody'} holds the Lease")

    async def release(self) -> None:
        """Give the Lease up, so that another replica need not wait for its end."""
        if self._holder() == self._settings.identity and self._seen is not None:
            given_up = {
                **self._seen,
                "spec": {**self._seen["spec"], "holderIdentity": "", "leaseDurationSeconds": 1},
            }
            try:
                await self._kube.replace(given_up)
            except (ApiError, aiohttp.ClientError, TimeoutError) as error:
                logger.warning("the Lease could not be given up", extra={"error": str(error)})

    def _holder(self) -> str:
        return str(self._seen["spec"].get("holderIdentity", "")) if self._seen else ""

    async def _try(self) -> bool:
        """Whether the Lease is ours after this try."""
        began = self._clock()
        try:
            await self._look()
            if self._seen is None:
                self._keep(await self._kube.create(self._lease(None)))
            elif self._holder() == self._settings.identity or not self._holder() or self._expired():
                self._keep(await self._kube.replace(self._lease(self._seen)))
            else:
                return False
        except ApiError as error:
            if error.status != 409:
                logger.warning("the Lease could not be written", extra={"error": str(error)})
            return False
        except (aiohttp.ClientError, TimeoutError) as error:
            logger.warning("the API server is not reached", extra={"error": str(error)})
            return False
        self._renewed_at = began
        return True

    async def _look(self) -> None:
        live = await self._kube.get(self._lease(None))
        version = live["metadata"]["resourceVersion"] if live else None
        known = self._seen["metadata"]["resourceVersion"] if self._seen else None
        if version != known:
            self._seen, self._seen_at = live, self._clock()

    def _keep(self, lease: Manifest) -> None:
        self._seen, self._seen_at = lease, self._clock()

    def _expired(self) -> bool:
        assert self._seen is not None
        duration = self._seen["spec"].get("leaseDurationSeconds", self._settings.lease_seconds)
        return self._clock() - self._seen_at > float(duration)

    def _lease(self, live: Manifest | None) -> Manifest:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = live["spec"] if live else {}
        changed = spec.get("holderIdentity") != self._settings.identity
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": live["metadata"]
            if live
            else {"name": LEASE_NAME, "namespace": self._settings.namespace},
            "spec": {
                "holderIdentity": self._settings.identity,
                "leaseDurationSeconds": max(1, round(self._settings.lease_seconds)),
                "acquireTime": now if changed else spec.get("acquireTime", now),
                "renewTime": now,
                "leaseTransitions": int(spec.get("leaseTransitions", 0)) + (1 if changed else 0),
            },
        }
