"""An application team: a namespace, and what one does in it with QuantizedModels."""

from dataclasses import dataclass
from typing import Any

from e2e.ask import ask
from e2e.diagnose import MODEL_LABEL, diagnose
from e2e.kubectl import Kubectl, Object, conditions, is_true
from e2e.scenarios.waiting import until
from e2e.store import SOURCES_BUCKET

READY_TIMEOUT = 900.0
"""Seconds; a conversion and an engine's start take far less, but the machine may be busy."""

GGUF = ("GGUF", "Q8_0")
VLLM_FORMATS = ("CompressedTensors", "GPTQ", "AWQ")
ONNX = ("ONNX", "INT8")
CONVERSION = {"requests": {"cpu": "250m"}, "limits": {"cpu": "2"}}
SERVER = {
    "requests": {"cpu": "100m", "memory": "128Mi"},
    "limits": {"cpu": "1", "memory": "512Mi"},
}
VLLM_SERVER = {
    "requests": {"cpu": "250m", "memory": "3Gi"},
    "limits": {"cpu": "2", "memory": "4Gi"},
}
"""Requests that let a few objects at a time fit on a machine of two processors."""
SOURCE = f"s3://{SOURCES_BUCKET}/tiny-llama"


def quantized_model(
    name: str,
    recipe: tuple[str, str] | str = GGUF,
    source: str = SOURCE,
    **spec: Any,
) -> Object:
    """A QuantizedModel without a namespace. ``recipe`` is (format, precision), or the name of a
    Preset; ``spec`` adds fields to those of its parts, or parts. Served by one replica unless
    ``serving=None``."""
    if isinstance(recipe, str):
        chosen = {"presetName": recipe}
    else:
        chosen = {"format": recipe[0], "precision": recipe[1]}
    quantization = {**chosen, "resources": CONVERSION}
    by_vllm = chosen.get("format") in VLLM_FORMATS
    serving = {"replicas": 1, "resources": VLLM_SERVER if by_vllm else SERVER}
    whole: dict[str, Any] = {"source": {"uri": source}, **spec}
    whole["quantization"] = quantization | spec.get("quantization", {})
    if spec.get("serving", {}) is not None:
        whole["serving"] = serving | spec.get("serving", {})
    return {
        "apiVersion": "quantop.dev/v1alpha1",
        "kind": "QuantizedModel",
        "metadata": {"name": name},
        "spec": {field: value for field, value in whole.items() if value is not None},
    }


@dataclass(frozen=True)
class Team:
    """A namespace of its own in the cluster."""

    kubectl: Kubectl
    namespace: str

    def apply(self, model: Object) -> str:
        """Apply an object in the namespace; its name."""
        self.kubectl.apply(
            {**model, "metadata": {**model["metadata"], "namespace": self.namespace}}
        )
        return str(model["metadata"]["name"])

    def model(self, name: str) -> Object:
        """The QuantizedModel as it is now."""
        found = self.kubectl.get("quantizedmodel", name, self.namespace)
        assert found is not None, f"{self.namespace}/{name} is gone"
        return found

    def patch(self, name: str, spec: dict[str, Any]) -> None:
        """Change fields of the spec; None removes one."""
        self.kubectl.patch("quantizedmodel", name, self.namespace, {"spec": spec})

    def pods(self, name: str, component: str = "") -> list[Object]:
        """The pods of a QuantizedModel: all, or its ``server``, ``resolve`` or ``convert`` ones."""
        selector = f"{MODEL_LABEL}={name}"
        if component:
            selector += f",app.kubernetes.io/component={component}"
        return self.kubectl.find("pods", self.namespace, selector)

    def jobs(self, name: str, component: str) -> list[Object]:
        """The Jobs of a QuantizedModel."""
        selector = f"{MODEL_LABEL}={name},app.kubernetes.io/component={component}"
        return self.kubectl.find("jobs", self.namespace, selector)

    def ready(
        self, name: str, timeout: float = READY_TIMEOUT, *, recovering: bool = False
    ) -> Object:
        """The object, once it is Ready in its present generation. ``recovering``: it is Stalled
        now, and what it waits for was put right outside of it.

        Raises:
            AssertionError: it is Stalled, or not Ready in time; with everything that says why.
        """

        def settled() -> Object | None:
            model = self.model(name)
            stalled = is_true(model, "Stalled") and not recovering
            return model if is_true(model, "Ready") or stalled else None

        try:
            model = until(f"{name} is Ready", settled, timeout)
        except TimeoutError as error:
            raise AssertionError(self.why(name)) from error
        assert is_true(model, "Ready"), self.why(name)
        return model

    def stalled(self, name: str, timeout: float = 120) -> Object:
        """The Stalled condition, once it is True for the present generation."""

        def condition() -> Object | None:
            model = self.model(name)
            return conditions(model)["Stalled"] if is_true(model, "Stalled") else None

        try:
            return until(f"{name} is Stalled", condition, timeout)
        except TimeoutError as error:
            raise AssertionError(self.why(name)) from error

    def why(self, name: str) -> str:
        """What there is to know about an object that is not as it should be."""
        return "\n".join(diagnose(self.kubectl, self.namespace, name))

    def answer(self, name: str, prompt: str = "The function returns") -> str:
        """What the model answers through its Service's DNS name."""
        endpoint = self.model(name)["status"]["endpoint"]
        return ask(endpoint["url"], endpoint["modelName"], prompt)
