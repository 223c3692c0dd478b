"""ONNX of models that generate text by Olive, for onnxruntime-genai."""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from quantop_adapters import calibration, checkpoint, onnxruntime_genai, search, stage, workflow
from quantop_adapters.onnx_graph import ARTIFACT
from quantop_adapters.refusal import RefusedError

BUILDER = "ModelBuilder"
LOGITS = "logits"
"""The output of the graph, by the name that onnxruntime-genai knows."""
WHOLE = {"type": BUILDER, "precision": "fp32"}
KQUANT = {"type": "OnnxKQuantQuantization", "block_size": 32}
BLOCK_WISE = {
    "type": "OnnxBlockWiseRtnQuantization",
    "block_size": 32,
    # It would rename the graph's output, by which onnxruntime-genai knows the logits, and the
    # embedding is in the checkpoint's bits by the other methods, too.
    "nodes_to_exclude": ["/lm_head/MatMul", "/model/embed_tokens/Gather"],
}
# The settings of the builder that Olive would search through; in 32 bits they say nothing.
BUILT = {
    **WHOLE,
    "int4_block_size": 32,
    "int4_is_symmetric": False,
    "int4_algo_config": "default",
}
# Computes with 8-bit activations.
FAST = {"accuracy_level": 4}


def chosen(bits: int) -> workflow.Passes:
    """What a search chooses from."""
    kinds = ({**KQUANT, "bits": bits}, {**BLOCK_WISE, "bits": bits})
    return [BUILT, [{**each, **more} for each in kinds for more in ({}, FAST)]]


# The builder itself makes no 8 bits: Olive 0.13 has no name for them that it takes.
RECIPES: workflow.Recipes = {
    "INT8": {
        "KQuant": [WHOLE, {**KQUANT, "bits": 8}],
        "BlockWiseRtn": [WHOLE, {**BLOCK_WISE, "bits": 8}],
        search.METHOD: chosen(8),
    },
    "INT4": {
        BUILDER: [{"type": BUILDER, "precision": "int4"}],
        "KQuant": [WHOLE, KQUANT],
        "BlockWiseRtn": [WHOLE, BLOCK_WISE],
        search.METHOD: chosen(4),
    },
}
LOSSES = {"INT8": 1.0, "INT4": 5.0}
"""By how much the perplexity of a search's candidate may be above its source's, in percent."""
PASSES = (BUILDER, "OnnxKQuantQuantization", "OnnxBlockWiseRtnQuantization")
"""Types of what a workflow of the recipe's own may run: they need no text, and leave a graph that
onnxruntime-genai knows. OnnxHqqQuantization of Olive 0.13 leaves one that knows nothing more."""
METHODS: Mapping[str, Mapping[str, bool]] = workflow.methods(RECIPES)
"""The methods of each precision, the default one first; only a search needs text."""
OLIVES_OWN = (
    *("footprint.json", "input_model_metrics.json", "model_config.json"),
    *("output_footprint.json", "run_history.txt"),
)
"""What Olive writes about its run, with paths of the machine in it."""


class Olive(onnxruntime_genai.OnnxruntimeGenai):
    """Olive: ONNX, counted and run as what onnxruntime-genai makes."""

    name = "olive"
    precisions: tuple[str, ...] = tuple(METHODS)
    passes: tuple[str, ...] = PASSES

    def version(self) -> str:
        """The version of the package."""
        return workflow.version()

    def quantize(self, task: stage.Task, target: Path, progress: stage.Progress) -> None:
        """Run the workflow that the method names, or the recipe's own."""
        method, passes = workflow.choose(task, RECIPES, self.name)
        if task.workflow and (first := task.workflow[0]["type"]) != BUILDER:
            raise RefusedError(
                "UnsupportedWorkflow",
                f"spec.quantization.workflow begins with {first}; for this format it must begin "
                f"with {BUILDER}, which makes the graph that the others change",
            )
        progress(f"running the workflow {method}", 5)
        model = {"type": "HfModel", "model_path": str(task.source)}
        try:
            if method == search.METHOD:
                made = search.run(task, model, passes, [], measures(task), progress)
            else:
                made = workflow.run(task, model, passes)
        except stage.ToolError as error:
            unknown = onnxruntime_genai.UNKNOWN_ARCHITECTURE
            if not any(sentence in str(error) for sentence in unknown):
                raise workflow.final(task, error) from None
            config = checkpoint.read_json(task.source / "config.json")
            raise RefusedError(
                "UnsupportedArchitecture",
                f"the source's config.json says {checkpoint.architecture(config)}, which Olive's "
                f"{BUILDER} cannot build; choose format CompressedTensors or GGUF, ONNXEncoder for "
                "an encoder or a classifier, or another model",
            ) from None
        if task.workflow:
            check_output(made)
        for path in made.iterdir():
            if path.name not in OLIVES_OWN:
                shutil.move(path, target / path.name)


def measures(task: stage.Task) -> search.Measures:
    """What a search measures: the time for a token that follows a sequence of the calibration's,
    and for such a sequence; and the perplexity."""
    row = calibration.token_rows(task)[0]
    return search.Measures(
        figure="perplexityIncreasePercent",
        best=0.0,
        loss=LOSSES[task.precision],
        higher_is_better=False,
        latencies={
            "tokenMilliseconds": asked(task.source, row[-1:], len(row) - 1),
            "promptMilliseconds": asked(task.source, row, 0),
        },
        baseline=False,
    )


def asked(source: Path, ids: Sequence[int], before: int) -> workflow.Feed:
    """Tokens that follow others as the graph takes them, with nothing kept of the others but how
    many they are: what was computed of them says nothing about the time."""
    config = checkpoint.read_json(source / "config.json")
    heads = config["num_attention_heads"]
    size = config.get("head_dim") or config["hidden_size"] // heads
    kept = {"zeros": [config.get("num_key_value_heads") or heads, before, size]}
    return {
        "input_ids": list(ids),
        "attention_mask": [1] * (before + len(ids)),
        "position_ids": list(range(before, before + len(ids))),
        **{
            f"past_key_values.{layer}.{part}": kept
            for layer in range(config["num_hidden_layers"])
            for part in ("key", "value")
        },
    }


def check_output(folder: Path) -> None:
    """Refuse a graph whose answers onnxruntime-genai would not find.

    Raises:
        RefusedError: its output has another name: Olive renames what it quantizes.
    """
    onnx: Any = importlib.import_module("onnx")
    graph = onnx.load(folder / ARTIFACT, load_external_data=False).graph
    names = [output.name for output in graph.output]
    if LOGITS not in names:
        raise RefusedError(
            "UnsupportedWorkflow",
            f"spec.quantization.workflow leaves a graph without an output {LOGITS} (it has "
            f"{', '.join(names[:3])}): name the node that gives it, mostly /lm_head/MatMul, in "
            "nodes_to_exclude of the pass that renamed it",
        )


if __name__ == "__main__":
    sys.exit(stage.main(Olive()))
