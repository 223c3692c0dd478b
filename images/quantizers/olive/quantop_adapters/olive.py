"""ONNX of models that generate text by Olive, for onnxruntime-genai."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from quantop_adapters import checkpoint, onnxruntime_genai, stage, workflow
from quantop_adapters.refusal import RefusedError

BUILDER = "ModelBuilder"
WHOLE = {"type": BUILDER, "precision": "fp32"}
KQUANT = {"type": "OnnxKQuantQuantization", "block_size": 32}
BLOCK_WISE = {
    "type": "OnnxBlockWiseRtnQuantization",
    "block_size": 32,
    # It would rename the graph's output, by which onnxruntime-genai knows the logits, and the
    # embedding is in the checkpoint's bits by the other methods, too.
    "nodes_to_exclude": ["/lm_head/MatMul", "/model/embed_tokens/Gather"],
}
# The builder itself makes no 8 bits: Olive 0.13 has no name for them that it takes.
RECIPES: workflow.Recipes = {
    "INT8": {
        "KQuant": [WHOLE, {**KQUANT, "bits": 8}],
        "BlockWiseRtn": [WHOLE, {**BLOCK_WISE, "bits": 8}],
    },
    "INT4": {
        BUILDER: [{"type": BUILDER, "precision": "int4"}],
        "KQuant": [WHOLE, KQUANT],
        "BlockWiseRtn": [WHOLE, BLOCK_WISE],
    },
}
METHODS: Mapping[str, Mapping[str, bool]] = workflow.methods(RECIPES)
"""The methods of each precision, the default one first; none of them needs text."""
OLIVES_OWN = ("footprint.json", "model_config.json", "output_footprint.json", "run_history.txt")
"""What Olive writes about its run, with paths of the machine in it."""


class Olive(onnxruntime_genai.OnnxruntimeGenai):
    """Olive: ONNX, counted and run as what onnxruntime-genai makes."""

    name = "olive"
    precisions: tuple[str, ...] = tuple(METHODS)

    def version(self) -> str:
        """The version of the package."""
        return workflow.version()

    def quantize(self, task: stage.Task, target: Path, progress: stage.Progress) -> None:
        """Run the workflow that the method names."""
        method = stage.choose_method(task, METHODS[task.precision], self.name)
        progress(f"running the workflow {method}", 5)
        model = {"type": "HfModel", "model_path": str(task.source)}
        try:
            made = workflow.run(model, RECIPES[task.precision][method], task.scratch)
        except stage.ToolError as error:
            unknown = onnxruntime_genai.UNKNOWN_ARCHITECTURE
            if not any(sentence in str(error) for sentence in unknown):
                raise
            config = checkpoint.read_json(task.source / "config.json")
            raise RefusedError(
                "UnsupportedArchitecture",
                f"the source's config.json says {checkpoint.architecture(config)}, which Olive's "
                f"{BUILDER} cannot build; choose format CompressedTensors or GGUF, ONNXEncoder for "
                "an encoder or a classifier, or another model",
            ) from None
        for path in made.iterdir():
            if path.name not in OLIVES_OWN:
                shutil.move(path, target / path.name)


if __name__ == "__main__":
    sys.exit(stage.main(Olive()))
