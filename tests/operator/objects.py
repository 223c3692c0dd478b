"""Objects that the tests apply."""

from typing import Any

PLURALS = {
    "QuantizedModel": "quantizedmodels",
    "ModelStore": "modelstores",
    "Quantizer": "quantizers",
    "ModelRuntime": "modelruntimes",
    "Preset": "presets",
}
API_VERSION = "quantop.dev/v1alpha1"


def cluster_kinds() -> list[dict[str, Any]]:
    """A store, a quantizer and a runtime."""
    return [store(), quantizer(), runtime()]


def store(name: str = "default", **spec: Any) -> dict[str, Any]:
    """A ModelStore."""
    return {
        "apiVersion": API_VERSION,
        "kind": "ModelStore",
        "metadata": {"name": name},
        "spec": {
            "s3": {"endpoint": "http://s3.example:7070", "bucket": "models"},
            "credentials": {"writerSecretName": "writer", "readerSecretName": "reader"},
            **spec,
        },
    }


def quantizer(name: str = "llama-cpp", **spec: Any) -> dict[str, Any]:
    """A Quantizer of GGUF."""
    return {
        "apiVersion": API_VERSION,
        "kind": "Quantizer",
        "metadata": {"name": name},
        "spec": {
            "image": "registry.example/quantizer@sha256:" + "1" * 64,
            "format": "GGUF",
            "command": ["python", "-m", "quantop_adapters.llama_cpp"],
            "precisions": [
                {
                    "name": "Q4_K_M",
                    "bitsPerWeight": {"min": "4", "max": "6"},
                    "methods": [
                        {"name": "KQuant", "calibration": "Ignored"},
                        {"name": "ImportanceMatrix", "calibration": "Required"},
                    ],
                },
                {"name": "Q8_0", "methods": [{"name": "KQuant", "calibration": "Ignored"}]},
                {"name": "IQ1_S", "methods": [{"name": "IQuant", "calibration": "Required"}]},
            ],
            **spec,
        },
    }


def runtime(name: str = "llama-cpp", **spec: Any) -> dict[str, Any]:
    """A ModelRuntime of GGUF."""
    probe = {"path": "/health"}
    return {
        "apiVersion": API_VERSION,
        "kind": "ModelRuntime",
        "metadata": {"name": name},
        "spec": {
            "image": "registry.example/runtime@sha256:" + "2" * 64,
            "formats": [{"format": "GGUF"}],
            "protocol": "OpenAI",
            "args": ["-m", "$(MODEL_DIR)/model.gguf", "--port", "$(PORT)"],
            "probes": {"startup": probe, "readiness": probe, "liveness": probe},
            "metrics": {},
            "options": [
                {"name": "maxModelLength", "args": ["--ctx-size", "$(MAX_MODEL_LENGTH)"]},
                {
                    "name": "kvCacheType",
                    "args": ["--kv", "$(KV_CACHE_TYPE)"],
                    "values": [{"value": "f16"}, {"value": "q8_0"}],
                },
                {"name": "draftModel", "args": ["--draft", "$(DRAFT_MODEL_DIR)"]},
            ],
            "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}},
            **spec,
        },
    }


def preset(name: str, precision: str = "Q4_K_M", **spec: Any) -> dict[str, Any]:
    """A Preset of GGUF."""
    return {
        "apiVersion": API_VERSION,
        "kind": "Preset",
        "metadata": {"name": name},
        "spec": {
            "description": "For tests.",
            "quantization": {"format": "GGUF", "precision": precision},
            **spec,
        },
    }


def source(namespace: str, name: str = "tiny") -> str:
    """A source of the test's own: a published artifact of one test is none of another's."""
    return f"s3://sources/{namespace}/{name}"


def model(namespace: str, name: str = "tiny", **spec: Any) -> dict[str, Any]:
    """A QuantizedModel; ``spec`` replaces whole parts."""
    return {
        "apiVersion": API_VERSION,
        "kind": "QuantizedModel",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "source": {"uri": source(namespace, name)},
            "quantization": {"format": "GGUF", "precision": "Q4_K_M"},
            "serving": {"resources": {"limits": {"cpu": "1000m", "memory": "1024Mi"}}},
            **spec,
        },
    }
