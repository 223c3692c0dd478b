"""The cluster's own images: one static program each, pushed to the registry without an engine.

An image here is a manifest, a config and one uncompressed tar, so it can be made by the standard
library and its digests depend on the program alone.
"""

from __future__ import annotations

import hashlib
import http.client
import io
import json
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO

from e2e.cluster import toolchain
from e2e.cluster.errors import ClusterError
from e2e.cluster.names import REGISTRY
from e2e.cluster.paths import cache, write

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_USER = "65532:65532"


@dataclass(frozen=True)
class Image:
    """An image `cluster/<program>:<tag>` that runs a program of a toolchain group."""

    program: str
    group: str
    tag: str = "local"

    @property
    def repository(self) -> str:
        return f"cluster/{self.program}"

    @property
    def entrypoint(self) -> str:
        return f"/bin/{self.program}"


IMAGES = [
    Image("pause", "pause", tag="1"),
    Image("coredns", "coredns"),
    Image("metrics-server", "metrics-server"),
    Image("prometheus", "prometheus"),
]


def push(image: Image) -> bool:
    """Push an image unless the registry has it; whether it had to. Raises ClusterError."""
    source = f"{image.entrypoint} {toolchain.GROUPS[image.group].digest()}"
    marker = cache() / "images" / f"cluster-{image.program}.json"
    known = json.loads(marker.read_text()) if marker.exists() else {}
    if known.get("source") == source and _has(image, "manifests", known["manifest"]):
        return False
    with tempfile.TemporaryFile() as layer:
        layer_digest, layer_size = _write_layer(image, layer)
        config = _canonical(
            {
                "architecture": "amd64",
                "os": "linux",
                "config": {"Entrypoint": [image.entrypoint], "User": _USER},
                "rootfs": {"type": "layers", "diff_ids": [layer_digest]},
            }
        )
        manifest = _canonical(
            {
                "schemaVersion": 2,
                "mediaType": _MANIFEST,
                "config": {"mediaType": _CONFIG, "digest": _digest(config), "size": len(config)},
                "layers": [{"mediaType": _LAYER, "digest": layer_digest, "size": layer_size}],
            }
        )
        _upload(image, layer_digest, layer, layer_size)
        _upload(image, _digest(config), io.BytesIO(config), len(config))
    for reference in (_digest(manifest), image.tag):
        path = f"/v2/{image.repository}/manifests/{reference}"
        _request("PUT", path, manifest, {"Content-Type": _MANIFEST}, expect=201)
    write(marker, json.dumps({"source": source, "manifest": _digest(manifest)}))
    return True


def _write_layer(image: Image, layer: IO[bytes]) -> tuple[str, int]:
    """Write a tar that holds the program alone; its digest and size in bytes."""
    program = toolchain.binary(image.program)
    with tarfile.open(fileobj=layer, mode="w") as archive, program.open("rb") as file:
        entry = tarfile.TarInfo(image.entrypoint.lstrip("/"))
        entry.size = program.stat().st_size
        entry.mode = 0o755
        archive.addfile(entry, file)
    size = layer.tell()
    layer.seek(0)
    digest = hashlib.sha256()
    while chunk := layer.read(1 << 20):
        digest.update(chunk)
    return f"sha256:{digest.hexdigest()}", size


def _canonical(document: Mapping[str, object]) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _has(image: Image, kind: str, digest: str) -> bool:
    path = f"/v2/{image.repository}/{kind}/{digest}"
    return _request("HEAD", path, headers={"Accept": _MANIFEST})[0] == 200


def _upload(image: Image, digest: str, content: IO[bytes], size: int) -> None:
    if _has(image, "blobs", digest):
        return
    _, location = _request("POST", f"/v2/{image.repository}/blobs/uploads/", expect=202)
    content.seek(0)
    headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
    separator = "&" if "?" in location else "?"
    _request("PUT", f"{location}{separator}digest={digest}", content, headers, expect=201)


def _request(
    method: str,
    target: str,
    body: bytes | IO[bytes] | None = None,
    headers: Mapping[str, str] | None = None,
    expect: int | None = None,
) -> tuple[int, str]:
    """One request to the registry: its status and Location. Raises ClusterError."""
    connection = http.client.HTTPConnection(REGISTRY, timeout=60)
    try:
        connection.request(method, target.removeprefix(f"http://{REGISTRY}"), body, headers or {})
        response = connection.getresponse()
        answer = response.read().decode(errors="replace")
        if expect and response.status != expect:
            raise ClusterError(f"registry: {method} {target} answered {response.status}: {answer}")
        return response.status, response.headers.get("Location", "")
    except (OSError, http.client.HTTPException) as error:
        raise ClusterError(f"registry: {method} {target} failed: {error}") from error
    finally:
        connection.close()
