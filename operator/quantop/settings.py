"""The operator's settings, from the environment; the chart sets them."""

import os
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """What the operator is told once, at its start."""

    worker_image: str
    """Image of resolve, fetch, publish, pull, trial and delete."""
    cluster_name: str = "default"
    """Names this cluster among those that share a store."""
    namespace: str = "quantop-system"
    """The operator's own namespace, where its Lease is."""
    identity: str = "local"
    """This replica's name on the Lease: its pod's name."""
    hub_endpoint: str | None = None
    """Base URL of the model hub. None: the public one."""
    max_source_bytes: int = 2 * 1024**4
    """A larger source is refused."""
    log_level: str = "INFO"
    """As in the standard library's logging."""
    health_port: int = 8080
    """Port of /healthz and /readyz."""
    metrics_port: int = 9090
    """Port of /metrics."""
    workers: int = 8
    """How many objects are reconciled at once."""
    lease_seconds: float = 15.0
    """A Lease not renewed for so long may be taken over."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Settings":
        """Read ``QUANTOP_*``. Raises ValueError naming the variable that is missing or wrong."""

        def number(name: str, default: float) -> float:
            text = environment.get(name, "")
            try:
                return float(text) if text else default
            except ValueError:
                raise ValueError(f"{name} must be a number, not {text!r}") from None

        if not environment.get("QUANTOP_WORKER_IMAGE"):
            raise ValueError("QUANTOP_WORKER_IMAGE must name the worker image")
        return cls(
            worker_image=environment["QUANTOP_WORKER_IMAGE"],
            cluster_name=environment.get("QUANTOP_CLUSTER_NAME") or cls.cluster_name,
            namespace=environment.get("QUANTOP_NAMESPACE") or cls.namespace,
            identity=environment.get("QUANTOP_POD_NAME") or cls.identity,
            hub_endpoint=environment.get("QUANTOP_HF_ENDPOINT") or None,
            max_source_bytes=int(number("QUANTOP_MAX_SOURCE_BYTES", cls.max_source_bytes)),
            log_level=environment.get("QUANTOP_LOG_LEVEL") or cls.log_level,
            health_port=int(number("QUANTOP_HEALTH_PORT", cls.health_port)),
            metrics_port=int(number("QUANTOP_METRICS_PORT", cls.metrics_port)),
            workers=int(number("QUANTOP_WORKERS", cls.workers)),
            lease_seconds=number("QUANTOP_LEASE_SECONDS", cls.lease_seconds),
        )
