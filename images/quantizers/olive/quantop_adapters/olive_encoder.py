"""ONNX of encoders and classifiers by Olive, for ONNX Runtime on CPUs.

Olive's own export knows nothing of how an encoder's states become one embedding: its passes start
from the graph that the Quantizer `onnxruntime` starts from.
"""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from quantop_adapters import encoder, onnxruntime, search, stage, workflow
from quantop_adapters.onnx_graph import ARTIFACT
from quantop_adapters.refusal import RefusedError

DYNAMIC = {
    "type": "OnnxDynamicQuantization",
    # As in `onnxruntime`.
    "precision": "uint8",
    "per_channel": True,
    # It fails at graphs whose lengths are free, which Olive passes over.
    "quant_preprocess": False,
}
STATIC = {
    "type": "OnnxStaticQuantization",
    "precision": "uint8",
    "activation_type": "uint8",
    "per_channel": True,
    "quant_preprocess": False,
    "op_types_to_quantize": ["MatMul"],
}
# As graphs that are exported for any length have it, and with operators fused.
GRAPHS: Sequence[workflow.Pass] = (
    {"type": "OnnxPeepholeOptimizer"},
    {"type": "OrtTransformersOptimization", "model_type": "bert"},
)
RTN = {"type": "OnnxBlockWiseRtnQuantization", "block_size": 32}
KQUANT = {"type": "OnnxKQuantQuantization", "block_size": 32}
# Computes with 8-bit activations.
FAST = {"accuracy_level": 4}
# What Olive would search through.
FIXED = {"reduce_range": False}
RECIPES: workflow.Recipes = {
    "FP16": {"Float16": [{"type": "OnnxFloatToFloat16", "keep_io_types": True}]},
    "INT8": {
        "Dynamic": [DYNAMIC],
        "FusedDynamic": [{"type": "OrtTransformersOptimization", "model_type": "bert"}, DYNAMIC],
        # Embeddings are looked up and need no range.
        "Static": [{**DYNAMIC, "op_types_to_quantize": ["Gather"]}, STATIC],
        search.METHOD: [
            GRAPHS,
            [
                {**DYNAMIC, **FIXED},
                {**DYNAMIC, **FIXED, "per_channel": False},
                {**STATIC, **FIXED, "calibrate_method": "MinMax", "quant_format": "QDQ"},
                {**KQUANT, **FAST, "bits": 8},
            ],
        ],
    },
    "INT4": {
        "BlockWiseRtn": [RTN],
        "KQuant": [KQUANT],
        search.METHOD: [GRAPHS, [RTN, {**RTN, **FAST}, KQUANT, {**KQUANT, **FAST}]],
    },
}
LOSSES = {"INT8": 0.02, "INT4": 0.05}
"""How much of its source's answers a candidate of a search may lose, of 1."""
METHODS: Mapping[str, Mapping[str, bool]] = workflow.methods(RECIPES)
"""The methods of each precision, the default one first, and whether they need text."""
PASSES = (
    *("OnnxFloatToFloat16", "OnnxDynamicQuantization", "OnnxStaticQuantization"),
    *("OnnxKQuantQuantization", "OnnxBlockWiseRtnQuantization", "OrtTransformersOptimization"),
    "OnnxPeepholeOptimizer",
)
"""Types of what a workflow of the recipe's own may run."""


class OliveEncoder(onnxruntime.Onnxruntime):
    """Olive: ONNXEncoder, counted and run as what onnxruntime makes."""

    name = "olive-encoder"
    precisions: tuple[str, ...] = tuple(METHODS)
    passes: tuple[str, ...] = PASSES

    def version(self) -> str:
        """The version of the package."""
        return workflow.version()

    def quantize(self, task: stage.Task, target: Path, progress: stage.Progress) -> None:
        """Export the source's graph, then run the workflow that the method names, or the recipe's
        own."""
        method, passes = workflow.choose(task, RECIPES, self.name)
        encoder.check(task.source)
        tokenizer = encoder.tokenizer(task.source)
        progress("exporting the graph", 5)
        file = task.scratch / search.INPUT / ARTIFACT
        file.parent.mkdir()
        onnxruntime.save(onnxruntime.export(task.source, task.scratch), file)
        progress(f"running the workflow {method}", 30)
        model = {"type": "ONNXModel", "model_path": str(file.parent), "onnx_file_name": ARTIFACT}
        onnx: Any = importlib.import_module("onnx")
        names = encoder.inputs(task.source)
        feeds = [
            {name: rows[0].tolist() for name, rows in encoder.feed(encoding, names).items()}
            for encoding in (encoder.calibration(task) if task.calibration else ())
        ]
        try:
            if method == search.METHOD:
                made = search.run(task, model, passes, feeds, measures(task, feeds), progress)
            else:
                made = workflow.run(task, model, passes, feeds)
        except stage.ToolError as error:
            raise workflow.final(task, error) from None
        onnxruntime.save(onnx.load(made / ARTIFACT), target / ARTIFACT)
        tokenizer.save(str(target / "tokenizer.json"))
        shutil.copyfile(task.source / "config.json", target / "config.json")


def measures(task: stage.Task, feeds: Sequence[workflow.Feed]) -> search.Measures:
    """What a search measures: the time for the longest text, and what is kept of the source's
    answers."""
    if not feeds:
        raise RefusedError(
            "CalibrationTextTooShort",
            "the calibration text has no text in it: give paragraphs, lines or JSON lines at "
            "spec.quantization.calibration",
        )
    classifies = encoder.is_classifier(task.source)
    whole = 100.0 if classifies else 1.0
    return search.Measures(
        figure="labelAgreementPercent" if classifies else "meanCosineSimilarity",
        best=whole,
        loss=whole * LOSSES[task.precision],
        higher_is_better=True,
        latencies={"latencyMilliseconds": max(feeds, key=lambda feed: len(feed["input_ids"]))},
        baseline=True,
    )


if __name__ == "__main__":
    sys.exit(stage.main(OliveEncoder()))
