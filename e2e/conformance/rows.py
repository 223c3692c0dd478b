"""The rows: what the chart's Quantizers offer, and which of its ModelRuntimes serve that."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from quantop.api.modelruntime import ServedFormat
from quantop.api.quantizedmodel import MAX_NAME_LENGTH
from quantop.reconcile.choices import serves

REPOSITORY = Path(__file__).resolve().parents[2]
VALUES = REPOSITORY / "charts" / "quantop" / "values.yaml"
GPU_RUNTIME = REPOSITORY / "examples" / "modelruntime-vllm-gpu.yaml"
SAMPLE = ("llama-cpp/Q4_0/Default", "onnxruntime-genai/INT8/RTN")
"""Rows that are quick: every change has to pass them."""
TEXT_MODEL, ENCODER, SAVED_ENCODER = "tiny-llama", "tiny-bert", "tiny-bert-tensorflow"
"""The test models: one that generates text, one that turns a text into an embedding, and that as
TensorFlow saves it."""
WORKFLOWS: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "olive": (
        {"type": "ModelBuilder", "precision": "fp32"},
        {"type": "OnnxKQuantQuantization", "bits": 4, "block_size": 64},
    ),
    "olive-encoder": (
        {"type": "OrtTransformersOptimization", "model_type": "bert"},
        {"type": "OnnxKQuantQuantization", "bits": 4, "block_size": 64},
    ),
}
"""Of Quantizers that run workflows, one to 4 bits that none of their methods names."""
ENCODER_FORMATS = ("ONNXEncoder", "QNN", "GGUFEncoder")
"""Formats of models that read a text whole."""

Manifest = Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """A Quantizer, a precision and a method of it."""

    quantizer: str
    format: str
    precision: str
    method: str
    bits_per_weight: Mapping[str, str]
    calibrated: bool
    runtime: str | None
    """The chart's first ModelRuntime that serves it; None: there is none."""
    others: tuple[str, ...]
    """The rest of them."""
    elsewhere: str | None
    """Another ModelRuntime that is written to serve it, on other hardware."""
    classifies: bool
    """Whether the Quantizer reads classifiers, too."""
    saved: bool
    """Whether it reads TensorFlow's SavedModels."""

    @property
    def encodes(self) -> bool:
        """Whether it is of models that read a text whole."""
        return self.format in ENCODER_FORMATS

    @property
    def model(self) -> str:
        """The test model that it is made of."""
        if not self.encodes:
            return TEXT_MODEL
        return SAVED_ENCODER if self.saved else ENCODER

    @property
    def id(self) -> str:
        """QUANTIZER/PRECISION/METHOD."""
        return f"{self.quantizer}/{self.precision}/{self.method}"

    @property
    def name(self) -> str:
        """A name for its object, as long as one may be."""
        return self.id.replace("/", "-").replace("_", "-").lower()[:MAX_NAME_LENGTH]


def rows() -> Iterator[Row]:
    """All, in the chart's order."""
    values = yaml.safe_load(VALUES.read_text())
    runtimes = {name: each["spec"] for name, each in values["modelRuntimes"].items()}
    gpu = yaml.safe_load(GPU_RUNTIME.read_text())
    elsewhere = {gpu["metadata"]["name"]: gpu["spec"]}
    for quantizer, entry in values["quantizers"].items():
        spec = entry["spec"]
        for precision in spec["precisions"]:
            wanted = (spec["format"], precision["name"], spec.get("hardware", ""))
            able = serving(runtimes, *wanted)
            for method in precision["methods"]:
                yield Row(
                    quantizer=quantizer,
                    format=spec["format"],
                    precision=precision["name"],
                    method=method["name"],
                    bits_per_weight=precision["bitsPerWeight"],
                    calibrated=method.get("calibration") == "Required",
                    runtime=next(iter(able), None),
                    others=able[1:],
                    elsewhere=next(iter(serving(elsewhere, *wanted)), None),
                    classifies=any(
                        each.endswith("ForSequenceClassification")
                        for each in spec.get("architectures", [])
                    ),
                    saved="SavedModel" in spec.get("sourceFiles", []),
                )


def serving(
    runtimes: Mapping[str, Manifest], format_: str, precision: str, hardware: str
) -> tuple[str, ...]:
    """The runtimes that serve the precision of the format, made for that hardware or for any."""
    return tuple(
        name
        for name, spec in runtimes.items()
        if serves(map(ServedFormat.model_validate, spec["formats"]), format_, precision, hardware)
    )
