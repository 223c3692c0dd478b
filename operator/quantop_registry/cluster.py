"""The cluster's API server, as much of it as is needed: an object by its name."""

from pathlib import Path
from typing import Any

import urllib3
from quantop_worker.errors import TryAgainError

API = "/apis/quantop.dev/v1alpha1"
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TIMEOUT_SECONDS = 10.0


class Cluster:
    """Reads objects as the pod's ServiceAccount."""

    def __init__(self, server: str, service_account: Path = SERVICE_ACCOUNT) -> None:
        """``server`` is its URL; the folder holds ``token`` and ``ca.crt``."""
        self._server = server
        self._token = service_account / "token"
        self._pool = urllib3.PoolManager(ca_certs=str(service_account / "ca.crt"))

    def model(self, namespace: str, name: str) -> dict[str, Any] | None:
        """A QuantizedModel; None when there is none, or when its namespace is not to be read."""
        return self._get(f"{API}/namespaces/{namespace}/quantizedmodels/{name}")

    def store(self, name: str) -> dict[str, Any] | None:
        """A ModelStore; None when there is none."""
        return self._get(f"{API}/modelstores/{name}")

    def _get(self, path: str) -> dict[str, Any] | None:
        # The kubelet renews the token.
        token = self._token.read_text(encoding="utf-8").strip()
        try:
            answer = self._pool.request(
                "GET",
                f"{self._server}{path}",
                headers={"Authorization": f"Bearer {token}"},
                timeout=TIMEOUT_SECONDS,
                retries=2,
            )
        except urllib3.exceptions.HTTPError as error:
            raise TryAgainError(
                "ApiServerUnreachable", f"The API server does not answer: {type(error).__name__}."
            ) from error
        if answer.status in (403, 404):
            return None
        if answer.status != 200:
            raise TryAgainError(
                "ApiServerUnreachable", f"The API server answers with status {answer.status}."
            )
        found: dict[str, Any] = answer.json()
        return found
