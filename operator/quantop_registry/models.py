"""From a name to the file that is pulled by it."""

import re
from dataclasses import dataclass
from typing import Any

from quantop.contract import StoreRef
from quantop_worker.errors import RefusedError
from quantop_worker.manifest import Manifest, StoredFile
from quantop_worker.store import Artifact

from quantop_registry.cluster import Cluster
from quantop_registry.errors import denied, manifest_unknown, name_unknown

FORMAT = "GGUF"
LATEST = "latest"
NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")


@dataclass(frozen=True)
class Model:
    """What is pulled by a name now."""

    name: str
    """NAMESPACE/NAME."""
    artifact: Artifact
    manifest: Manifest
    file: StoredFile
    """The GGUF file."""

    @property
    def tags(self) -> tuple[str, ...]:
        """All tags; the key is one that never means anything else."""
        return self.manifest.recipe.precision, self.artifact.key, LATEST

    def check_tag(self, tag: str) -> None:
        """Raises RegistryError for a tag that the model does not have."""
        if tag.lower() not in {each.lower() for each in self.tags}:
            raise manifest_unknown(
                f"{self.name} is {self.tags[0]} now, with the key {self.artifact.key}: it has no "
                f"tag {tag}."
            )


@dataclass(frozen=True)
class Models:
    """The models of one ModelStore."""

    cluster: Cluster
    store_name: str

    def find(self, namespace: str, name: str) -> Model:
        """Raises RegistryError when there is nothing to be pulled by the name."""
        whole = f"{namespace}/{name}"
        found = None
        if NAMESPACE.fullmatch(namespace) and NAME.fullmatch(name):
            found = self.cluster.model(namespace, name)
        if found is None:
            raise name_unknown(f"There is no QuantizedModel {whole} whose artifact can be pulled.")
        used = found["spec"].get("storage", {}).get("storeName", "default")
        if used != self.store_name:
            raise name_unknown(
                f"{whole} is in ModelStore {used}; this is the registry of {self.store_name}."
            )
        accepted = found.get("status", {}).get("acceptedArtifact")
        if accepted is None:
            raise denied(f"{whole} has no artifact to be pulled: {_why(found)}")
        artifact = Artifact(self.store(), accepted["key"])
        manifest = artifact.read_verified(accepted["manifestDigest"])
        return Model(whole, artifact, manifest, _file(whole, manifest))

    def store(self) -> StoreRef:
        """Where artifacts are kept. Raises RefusedError ``StoreNotFound``."""
        found = self.cluster.store(self.store_name)
        if found is None:
            raise RefusedError(
                "StoreNotFound",
                f"There is no ModelStore {self.store_name}: set registry.storeName of the chart.",
            )
        return StoreRef.of(found["spec"]["s3"])


def _file(name: str, manifest: Manifest) -> StoredFile:
    made = manifest.recipe.format
    if made != FORMAT:
        raise denied(
            f"{name} is a {made} artifact, and Ollama reads {FORMAT}: make a QuantizedModel with "
            f"spec.quantization.format: {FORMAT}."
        )
    files = [file for file in manifest.files if file.path.endswith(".gguf")]
    if len(files) != 1:
        raise denied(
            f"{name} has {len(files)} GGUF files, and Ollama reads one: make it without "
            f"spec.quantization.maxFileSize."
        )
    return files[0]


def _why(model: dict[str, Any]) -> str:
    """What the object says of itself."""
    conditions = {each["type"]: each for each in model.get("status", {}).get("conditions", ())}
    ready = conditions.get("Ready", {"reason": "Pending", "message": "It was made just now."})
    return f"{ready['message']} ({ready['reason']})"
