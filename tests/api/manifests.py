"""One good manifest of each kind, and how to spoil it."""

import copy
from typing import Any

from quantop.api.base import API_VERSION

from tests.kube import Object

CERTIFICATE = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"

GOOD: dict[str, Object] = {
    "QuantizedModel": {
        "source": {"uri": "hf://owner/name", "revision": "main", "credentialsSecretName": "token"},
        "quantization": {
            "format": "GGUF",
            "precision": "Q4_K_M",
            "method": "GPTQ",
            "quantizerName": "llama-cpp",
            "overrides": [{"tensors": "ffn_down|^output[.]", "precision": "Q8_0"}],
            "maxFileSize": "5Gi",
            "calibration": {"uri": "s3://bucket/key"},
            "resources": {"requests": {"cpu": "500m"}, "limits": {"cpu": 2, "memory": "1Gi"}},
        },
        "quality": {
            "evaluation": {
                "uri": "pvc://claim/key",
                "prompts": {"uri": "s3://bucket/key", "maxPrompts": 8, "answerTokens": 16},
                "tasks": {"uri": "s3://bucket/prefix/", "maxSamples": 50},
            },
            "maxPerplexityIncreasePercent": 5,
            "minTopTokenAgreementPercent": "99.5",
            "maxMeanKLDivergence": "0.05",
            "maxP99KLDivergence": 1,
            "minMeanCosineSimilarity": "0.995",
            "minP1CosineSimilarity": "0.98",
            "minLabelAgreementPercent": "99",
            "minAccuracyPercent": "92.5",
            "minAnswerAgreementPercent": "80",
            "maxTaskAccuracyDropPoints": "1.5",
            "maxTimeToFirstTokenMilliseconds": 250,
            "minTokensPerSecond": "12.5",
            "maxMemory": "6Gi",
            "onFailure": "Warn",
        },
        "storage": {"storeName": "default", "deletionPolicy": "Delete"},
        "serving": {
            "runtimeName": "llama-cpp",
            "scaling": {"minReplicas": 1, "maxReplicas": 3},
            "resources": {"requests": {"memory": "1Gi"}, "limits": {"nvidia.com/gpu": 1}},
            "engine": {
                "maxModelLength": 8192,
                "maxConcurrentRequests": 4,
                "kvCacheType": "q8_0",
                "prefixCaching": "Enabled",
                "tensorParallelSize": 2,
                "pipelineParallelSize": 1,
                "draftModel": {"name": "smaller"},
            },
        },
    },
    "ModelStore": {
        "s3": {
            "endpoint": "https://s3.example.com:9000",
            "bucket": "artifacts",
            "prefix": "a/b",
            "caBundle": CERTIFICATE,
        },
        "credentials": {"writerSecretName": "writer", "readerSecretName": "reader"},
        "allowedNamespaces": {"from": "Selector", "matchLabels": {"models": "yes"}},
    },
    "Quantizer": {
        "image": "registry.example.com/toolchain:1",
        "format": "GGUF",
        "command": ["python", "-m", "toolchain"],
        "env": [{"name": "LEVEL", "value": "1"}],
        "precisions": [
            {
                "name": "Q4_K_M",
                "bitsPerWeight": {"min": "4", "max": "6.5"},
                "methods": [{"name": "GPTQ", "calibration": "Required"}],
            }
        ],
        "architectures": ["LlamaForCausalLM"],
        "sourceFiles": ["Safetensors", "SavedModel"],
        "passes": [{"type": "Quantize", "settings": ["bits"], "calibration": "Optional"}],
        "overrides": {"precisions": ["Q8_0", "F16"], "exceptFor": ["F16"]},
        "fileSplitting": "Supported",
        "evaluations": ["Text", "Prompts", "Tasks"],
        "resources": {"cpu": 2},
    },
    "ModelRuntime": {
        "image": "registry.example.com/engine:1",
        "formats": [{"format": "GGUF", "precisions": ["Q4_K_M"]}],
        "protocol": "OpenAI",
        "env": [{"name": "LEVEL", "value": "1"}],
        "probes": {
            "startup": {"path": "/health"},
            "readiness": {"path": "/health"},
            "liveness": {"path": "/health"},
        },
        "drain": {"command": ["sleep", "5"]},
        "metrics": {},
        "resources": {"limits": {"memory": "1Gi", "nvidia.com/gpu": 1}},
        "options": [
            {
                "name": "tensorParallelSize",
                "args": ["--tensor-parallel-size", "$(TENSOR_PARALLEL_SIZE)"],
                "maximum": 8,
                "multiplies": ["nvidia.com/gpu"],
            },
            {
                "name": "prefixCaching",
                "values": [
                    {"value": "Enabled", "args": ["--cache"]},
                    {"value": "Disabled", "args": ["--no-cache"]},
                ],
            },
        ],
        "nodeSelector": {"nvidia.com/gpu.family": "hopper"},
    },
    "Preset": {
        "description": "For phones.",
        "quantization": {
            "format": "GGUF",
            "precision": "Auto",
            "auto": {"precisions": ["Q4_K_M"]},
            "overrides": [{"tensors": "ffn_down", "precision": "Q8_0"}],
            "maxFileSize": "5Gi",
            "quantizerName": "llama-cpp",
        },
        "quality": {
            "maxPerplexityIncreasePercent": 5,
            "minTopTokenAgreementPercent": "99.5",
            "maxMeanKLDivergence": "0.05",
            "maxP99KLDivergence": 1,
            "minMeanCosineSimilarity": "0.995",
            "minP1CosineSimilarity": "0.98",
            "minLabelAgreementPercent": "99",
            "minAccuracyPercent": "92.5",
            "minAnswerAgreementPercent": "80",
            "maxTaskAccuracyDropPoints": "1.5",
            "maxTimeToFirstTokenMilliseconds": 250,
            "minTokensPerSecond": "12.5",
            "maxMemory": "6Gi",
        },
        "runtimeName": "llama-cpp",
    },
}
"""A spec of each kind that uses every nested type."""


def good(kind: str, namespace: str = "default", name: str = "good") -> Object:
    """A manifest that the API server takes."""
    metadata = {"name": name}
    if kind == "QuantizedModel":
        metadata["namespace"] = namespace
    return {
        "apiVersion": API_VERSION,
        "kind": kind,
        "metadata": metadata,
        "spec": copy.deepcopy(GOOD[kind]),
    }


def put(manifest: Object, path: str, value: Any) -> Object:
    """The manifest with ``value`` at a dotted path, whose numbers are places in lists; None
    removes what is there."""
    *parents, last = path.split(".")
    place: Any = manifest
    for step in parents:
        place = place[int(step) if step.isdigit() else step]
    where = int(last) if isinstance(place, list) else last
    if value is None:
        del place[where]
    else:
        place[where] = value
    return manifest
