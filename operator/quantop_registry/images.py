"""What Ollama calls a model: a manifest, the GGUF file, and a few small blobs.

The small ones (template, parameters, config) are made by Ollama itself, which reads them out of the
file's header: `ollama serve` runs beside the registry, in a container without credentials, and the
folder of its models is shared. It is given the header in a file of the right length, the rest of
which is a hole.
"""

import json
from collections import OrderedDict
from contextlib import closing
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import Any

import urllib3
from quantop.contract import canonical_json
from quantop_worker.errors import RefusedError, TryAgainError

from quantop_registry.gguf import copy_header
from quantop_registry.models import Model

MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
MODEL_TYPE = "application/vnd.ollama.image.model"
SMALL_LIMIT_BYTES = 1 << 20
KEPT = 256
"""Images that are remembered, of a few KB each."""
TIMEOUT_SECONDS = 120.0


@dataclass(frozen=True)
class Image:
    """An artifact as Ollama pulls it."""

    manifest: bytes
    small: dict[str, bytes]
    """Blobs by digest, all but the GGUF file."""

    @property
    def digest(self) -> str:
        """The manifest's own."""
        return f"sha256:{sha256(self.manifest).hexdigest()}"


class Images:
    """Makes images, one at a time, and remembers them."""

    def __init__(self, ollama: str, folder: Path) -> None:
        """``ollama`` is the server's URL, ``folder`` its OLLAMA_MODELS."""
        self._ollama = ollama
        self._folder = folder
        self._pool = urllib3.PoolManager()
        self._known: OrderedDict[tuple[str, str], Image] = OrderedDict()
        self._lock = Lock()

    def ready(self) -> bool:
        """Whether Ollama answers."""
        try:
            return self._pool.request("GET", self._ollama, timeout=2.0, retries=False).status == 200
        except urllib3.exceptions.HTTPError:
            return False

    def of(self, model: Model) -> Image:
        """The image of a model."""
        which = (model.artifact.key, model.file.sha256)
        with self._lock:
            image = self._known.get(which) or self._made(model)
            self._known[which] = image
            self._known.move_to_end(which)
            if len(self._known) > KEPT:
                self._known.popitem(last=False)
            return image

    def _made(self, model: Model) -> Image:
        name, file = model.artifact.key, model.file
        blob = self._blob(f"sha256:{file.sha256}")
        blob.parent.mkdir(parents=True, exist_ok=True)
        try:
            with blob.open("wb") as target:
                key = model.artifact.object_key(file.object)
                with closing(model.artifact.bucket.stream(key, 0, file.size)) as content:
                    copy_header(content, target)
                target.truncate(file.size)
            files = {"model.gguf": f"sha256:{file.sha256}"}
            self._ask("POST", "/api/create", {"model": name, "files": files, "stream": False})
            image = self._read(name, model)
            self._ask("DELETE", "/api/delete", {"model": name})
            return image
        finally:
            blob.unlink(missing_ok=True)

    def _read(self, name: str, model: Model) -> Image:
        """What Ollama left in its store."""
        path = self._folder / "manifests" / "registry.ollama.ai" / "library" / name / "latest"
        made = json.loads(path.read_bytes())
        layers = [_descriptor(layer) for layer in made["layers"]]
        weights = {
            "mediaType": MODEL_TYPE,
            "digest": f"sha256:{model.file.sha256}",
            "size": model.file.size,
        }
        if weights not in layers:
            raise RefusedError(
                "ArtifactUnreadable", f"Ollama does not take {model.file.path} for a model."
            )
        config = _descriptor(made["config"])
        small = {
            each["digest"]: self._small(each["digest"])
            for each in (config, *layers)
            if each != weights
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": config,
            "layers": layers,
        }
        return Image(canonical_json(manifest).encode(), small)

    def _small(self, digest: str) -> bytes:
        """A blob that Ollama made. It has read a file that came from elsewhere: what it left is
        taken for nothing else than what its digest says."""
        with self._blob(digest).open("rb") as file:
            content = file.read(SMALL_LIMIT_BYTES)
        if digest != f"sha256:{sha256(content).hexdigest()}":
            raise RefusedError("ArtifactUnreadable", f"Ollama left another blob than {digest}.")
        return content

    def _blob(self, digest: str) -> Path:
        return self._folder / "blobs" / digest.replace(":", "-")

    def _ask(self, method: str, path: str, body: dict[str, Any]) -> None:
        try:
            answer = self._pool.request(
                method, f"{self._ollama}{path}", json=body, timeout=TIMEOUT_SECONDS, retries=False
            )
        except urllib3.exceptions.HTTPError as error:
            raise TryAgainError(
                "OllamaUnreachable",
                f"Ollama, which runs beside the registry, does not answer: {type(error).__name__}.",
            ) from error
        if answer.status >= 400:
            raise RefusedError(
                "ArtifactUnreadable",
                f"Ollama does not take the artifact: {answer.data.decode(errors='replace')}",
            )


def _descriptor(layer: dict[str, Any]) -> dict[str, Any]:
    """A layer, without where it came from."""
    return {name: layer[name] for name in ("mediaType", "digest", "size")}
