"""The few calls to the API server that reconciling needs: aiohttp, with the credentials that
``kubernetes`` finds.

An object stays the JSON that it is: the generated clients turn each into a tree of model
instances, and the async one's classes alone are 50 MiB (docs/adr/0002).
"""

import json
import ssl
from collections.abc import Mapping
from typing import Any, Self

import aiohttp
from kubernetes import client, config
from kubernetes.config import ConfigException

from quantop.builders.meta import MANAGER, Manifest

PLURALS = {
    "QuantizedModel": "quantizedmodels",
    "Job": "jobs",
    "Deployment": "deployments",
    "Service": "services",
    "PodDisruptionBudget": "poddisruptionbudgets",
    "HorizontalPodAutoscaler": "horizontalpodautoscalers",
    "Event": "events",
    "Lease": "leases",
}
REQUEST_SECONDS = 30.0

APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
JSON = "application/json"


class ApiError(Exception):
    """The API server answered with an error. ``status`` is the HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"HTTP {status}: {message}")
        self.status = status
        self.message = message

    @property
    def permanent(self) -> bool:
        """Whether the same request would fail again: a bad object, or one that is forbidden."""
        return self.status in (400, 403, 405, 422)


class Kube:
    """Calls to the API server. Every one raises ApiError when it answers so, and
    ``aiohttp.ClientError`` or TimeoutError when it is not reached."""

    def __init__(self, session: aiohttp.ClientSession, settings: client.Configuration) -> None:
        self._session = session
        self._settings = settings

    @classmethod
    async def connect(cls) -> Self:
        """By the pod's service account, or else by the kubeconfig."""
        settings = client.Configuration()
        try:
            config.load_incluster_config(client_configuration=settings)
        except ConfigException:
            config.load_kube_config(client_configuration=settings)
        tls = ssl.create_default_context(cafile=settings.ssl_ca_cert)
        if settings.cert_file:
            tls.load_cert_chain(settings.cert_file, settings.key_file)
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=tls),
            timeout=aiohttp.ClientTimeout(total=REQUEST_SECONDS),
            trust_env=True,
        )
        return cls(session, settings)

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def get(self, manifest: Manifest) -> Manifest | None:
        """The live object that ``manifest`` names, or None."""
        try:
            return await self._call("GET", path(manifest))
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def create(self, manifest: Manifest) -> Manifest:
        """Create an object."""
        return await self._call("POST", collection(manifest), manifest)

    async def replace(self, manifest: Manifest) -> Manifest:
        """Replace an object; ``metadata.resourceVersion`` must be the live one's."""
        return await self._call("PUT", path(manifest), manifest)

    async def apply(self, manifest: Manifest) -> Manifest:
        """Server-side apply, as the one manager of all of quantop's fields."""
        query = {"fieldManager": MANAGER, "force": "true"}
        return await self._call("PATCH", path(manifest), manifest, APPLY, query)

    async def apply_status(self, manifest: Manifest) -> Manifest:
        """Server-side apply of the status subresource."""
        query = {"fieldManager": MANAGER, "force": "true"}
        return await self._call("PATCH", path(manifest) + "/status", manifest, APPLY, query)

    async def set_finalizers(self, live: Manifest, finalizers: list[str]) -> Manifest:
        """Set an object's finalizers, unless it changed since ``live`` was read."""
        metadata = live["metadata"]
        patch = {
            "metadata": {"finalizers": finalizers, "resourceVersion": metadata["resourceVersion"]}
        }
        return await self._call("PATCH", path(live), patch, MERGE, {"fieldManager": MANAGER})

    async def delete(self, live: Manifest) -> None:
        """Delete exactly ``live`` (by uid) and, in the background, what it owns. An object that is
        gone, or was replaced by another of its name, is fine."""
        body = {
            "propagationPolicy": "Background",
            "preconditions": {"uid": live["metadata"]["uid"]},
        }
        try:
            await self._call("DELETE", path(live), body)
        except ApiError as error:
            if error.status not in (404, 409):
                raise

    async def _call(
        self,
        method: str,
        path_: str,
        body: Manifest | None = None,
        content_type: str = JSON,
        query: Mapping[str, str] | None = None,
    ) -> Manifest:
        headers = {"Accept": JSON, "Content-Type": content_type}
        # Asked for each time: a pod's token is renewed while it lives.
        if token := self._settings.auth_settings().get("BearerToken"):
            headers["Authorization"] = token["value"]
        async with self._session.request(
            method,
            self._settings.host + path_,
            params=query,
            data=None if body is None else json.dumps(body),
            headers=headers,
        ) as response:
            text = await response.text()
        if response.status >= 400:
            raise ApiError(response.status, _message(text))
        parsed: Manifest = json.loads(text)
        return parsed


def collection(manifest: Manifest) -> str:
    """URL path of the objects of ``manifest``'s kind and namespace."""
    api_version: str = manifest["apiVersion"]
    root = f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"
    namespace = manifest["metadata"].get("namespace")
    scope = f"/namespaces/{namespace}" if namespace else ""
    return f"{root}{scope}/{PLURALS[manifest['kind']]}"


def path(manifest: Manifest) -> str:
    """URL path of the object that ``manifest`` names."""
    return f"{collection(manifest)}/{manifest['metadata']['name']}"


def _message(text: str) -> str:
    try:
        value: Any = json.loads(text)
    except ValueError:
        return text[:1024]
    return str(value.get("message", text[:1024])) if isinstance(value, dict) else text[:1024]
