"""Compressed-tensors checkpoints by llm-compressor: integer weights for vLLM."""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quantop_adapters import calibration, checkpoint, perplexity, stage
from quantop_adapters.coverage import Coverage, Weight
from quantop_adapters.refusal import RefusedError

# The first method is the precision's default.
GPTQ, ROUND_TO_NEAREST, SMOOTHQUANT_GPTQ = "GPTQ", "RTN", "SmoothQuantGPTQ"
METHODS: Mapping[str, tuple[str, ...]] = {
    "W4A16": (GPTQ, ROUND_TO_NEAREST),
    "W8A8": (GPTQ, SMOOTHQUANT_GPTQ, ROUND_TO_NEAREST),
}
GROUP_SIZE = {"W4A16": 128}
"""How many columns share one scale; a layer's width must be a multiple of it."""


class LlmCompressor:
    """llm-compressor: CompressedTensors."""

    name = "llm-compressor"
    format = "CompressedTensors"
    precisions: tuple[str, ...] = tuple(METHODS)

    def version(self) -> str:
        """The version of the package."""
        return importlib.metadata.version("llmcompressor")

    def quantize(self, task: stage.Task, target: Path, progress: stage.Progress) -> None:
        """Quantize every linear layer but the output layer, and save the packed checkpoint."""
        method = choose_method(task)
        self._check_shapes(task)
        progress("loading the toolchain", 2)
        llmcompressor: Any = importlib.import_module("llmcompressor")
        transformers: Any = importlib.import_module("transformers")
        progress("loading the checkpoint", 10)
        try:
            model = transformers.AutoModelForCausalLM.from_pretrained(
                task.source, dtype="auto", trust_remote_code=False, use_safetensors=True
            )
        except (ValueError, KeyError) as error:
            config = checkpoint.read_json(task.source / "config.json")
            raise RefusedError(
                "UnsupportedArchitecture",
                f"the source's config.json says {checkpoint.architecture(config)}, which "
                "transformers cannot load as a causal language model "
                f"({checkpoint.first_sentence(error)})",
            ) from None
        arguments: dict[str, Any] = {}
        if task.calibration and method != ROUND_TO_NEAREST:
            progress("preparing the calibration text", 15)
            rows = [
                {"input_ids": row, "attention_mask": [1] * len(row)}
                for row in calibration.token_rows(task)
            ]
            arguments = {
                "dataset": importlib.import_module("datasets").Dataset.from_list(rows),
                "num_calibration_samples": len(rows),
                "max_seq_length": task.calibration.sequence_length,
            }
        progress(f"quantizing to {task.precision} by {method}", 20)
        report_layers(model, progress)
        llmcompressor.oneshot(model=model, recipe=modifiers(task.precision, method), **arguments)
        progress("saving", 90)
        model.save_pretrained(target, save_compressed=True)
        checkpoint.copy_tokenizer(task.source, target)

    def _check_shapes(self, task: stage.Task) -> None:
        """Refuse a layer whose width no group fits, before hours of calibration."""
        group = GROUP_SIZE.get(task.precision, 1)
        for tensor in checkpoint.tensors(task.source).values():
            if (
                checkpoint.is_layer(tensor)
                and "lm_head" not in tensor.name
                and tensor.shape[1] % group
            ):
                raise RefusedError(
                    "UnsupportedShape",
                    f"precision {task.precision} groups {group} columns, and the source's "
                    f"{tensor.name} has {tensor.shape[1]}: choose precision W8A8",
                )

    def coverage(self, artifact: Path) -> Coverage:
        """Count the safetensors; a layer's packed weight, scale and zero point belong together."""
        tensors = checkpoint.tensors(artifact)
        groups: dict[str, list[checkpoint.Tensor]] = {}
        for name, tensor in tensors.items():
            layer, _, part = name.rpartition(".")
            groups.setdefault(f"{layer}.weight" if part.startswith("weight") else name, []).append(
                tensor
            )
        weights = []
        for parts in groups.values():
            kinds = {tensor.name.rpartition(".")[2]: tensor for tensor in parts}
            stored = kinds.get("weight_packed") or kinds.get("weight") or parts[0]
            quantized = "weight_scale" in kinds
            shape = kinds.get("weight_shape")
            numbers = stored.numbers
            if shape:
                rows, columns = shape.read_int64()
                numbers = rows * columns
            bits = sum(part.bits for kind, part in kinds.items() if kind != "weight_shape")
            weights.append(
                Weight(numbers, bits, quantized or checkpoint.is_layer(stored), quantized)
            )
        return Coverage(tuple(weights))

    def vocabulary(self, artifact: Path) -> Mapping[str, int]:
        """Read the tokenizer's files."""
        return checkpoint.vocabulary(artifact)

    def scorer(self, task: stage.Task) -> perplexity.Scorer:
        """Load the checkpoint by transformers, which unpacks it with compressed-tensors."""
        return perplexity.transformers_scorer(task.artifact, "artifact")


def choose_method(task: stage.Task) -> str:
    """The method asked for, or the precision's default.

    Raises:
        RefusedError: there is no such method, or calibration is missing or of no use.
    """
    methods = METHODS[task.precision]
    method = task.method or methods[0]
    if method not in methods:
        raise RefusedError(
            "UnsupportedMethod",
            f"spec.quantization.method is {method}; llm-compressor makes {task.precision} by "
            f"{', '.join(methods)}",
        )
    if method != ROUND_TO_NEAREST and not task.calibration:
        raise RefusedError(
            "CalibrationRequired",
            f"method {method} needs a text: set spec.quantization.calibration, or "
            f"spec.quantization.method {ROUND_TO_NEAREST}, which needs none",
        )
    if method == ROUND_TO_NEAREST and task.calibration:
        raise RefusedError(
            "CalibrationNotUsed",
            f"method {ROUND_TO_NEAREST} uses no calibration: remove "
            f"spec.quantization.calibration, or choose {GPTQ}",
        )
    return method


def report_layers(model: Any, progress: stage.Progress) -> None:
    """Report every tenth of the layers that GPTQ says in its log to be quantizing."""
    loguru: Any = importlib.import_module("loguru")
    torch: Any = importlib.import_module("torch")
    total = sum(isinstance(module, torch.nn.Linear) for module in model.modules())
    done = 0

    def on_log(message: str) -> None:
        nonlocal done
        before, done = 10 * done // total, done + 1
        if 10 * done // total > before:
            progress(f"quantized {done} of {total} layers", 20 + 70 * done // total)

    loguru.logger.add(on_log, filter=lambda record: record["message"].startswith("Quantizing "))


def modifiers(precision: str, method: str) -> list[Any]:
    """llm-compressor's recipe."""
    chosen = {"targets": "Linear", "scheme": precision, "ignore": ["lm_head"]}
    if method == ROUND_TO_NEAREST:
        quantization: Any = importlib.import_module("llmcompressor.modifiers.quantization")
        return [quantization.QuantizationModifier(**chosen)]
    gptq: Any = importlib.import_module("llmcompressor.modifiers.gptq")
    recipe = [gptq.GPTQModifier(**chosen)]
    if method == SMOOTHQUANT_GPTQ:
        smooth: Any = importlib.import_module("llmcompressor.modifiers.transform.smoothquant")
        recipe.insert(0, smooth.SmoothQuantModifier(smoothing_strength=0.8))
    return recipe


if __name__ == "__main__":
    sys.exit(stage.main(LlmCompressor()))
