"""Compressed-tensors checkpoints by llm-compressor: integers and small floats for vLLM."""

from __future__ import annotations

import importlib
import importlib.metadata
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantop_adapters import calibration, checkpoint, perplexity, stage
from quantop_adapters.coverage import Coverage, Weight, is_output

GPTQ, AWQ, AUTOROUND, ROUND_TO_NEAREST = "GPTQ", "AWQ", "AutoRound", "RTN"
SMOOTHQUANT_GPTQ = "SmoothQuantGPTQ"


@dataclass(frozen=True)
class Scheme:
    """How a precision is made.

    `methods`: the default one first. `group`: how many columns share one scale; a layer's width
    must be a multiple of it. `fixed_inputs`: the scale of a layer's inputs is part of the artifact,
    so that every method has to see text.
    """

    methods: tuple[str, ...]
    group: int = 1
    fixed_inputs: bool = False

    def needs_text(self, method: str) -> bool:
        """Whether the method uses calibration text; it then needs it."""
        return self.fixed_inputs or method != ROUND_TO_NEAREST


SCHEMES: Mapping[str, Scheme] = {
    # Integers.
    "W4A16": Scheme((GPTQ, AWQ, AUTOROUND, ROUND_TO_NEAREST), group=128),
    "W4A16_ASYM": Scheme((GPTQ, AWQ, AUTOROUND, ROUND_TO_NEAREST), group=128),
    "W8A16": Scheme((GPTQ, ROUND_TO_NEAREST), group=128),
    "W4A8": Scheme((GPTQ, SMOOTHQUANT_GPTQ, ROUND_TO_NEAREST), group=128),
    "W8A8": Scheme((GPTQ, SMOOTHQUANT_GPTQ, ROUND_TO_NEAREST)),
    # Floats.
    "FP8": Scheme((ROUND_TO_NEAREST,), fixed_inputs=True),
    "FP8_DYNAMIC": Scheme((ROUND_TO_NEAREST,)),
    "FP8_BLOCK": Scheme((ROUND_TO_NEAREST,), group=128),
    "MXFP8": Scheme((ROUND_TO_NEAREST,), group=32),
    "MXFP8A16": Scheme((ROUND_TO_NEAREST,), group=32),
    "NVFP4": Scheme((ROUND_TO_NEAREST, GPTQ), group=16, fixed_inputs=True),
    "NVFP4A16": Scheme((ROUND_TO_NEAREST, GPTQ), group=16),
    "MXFP4": Scheme((ROUND_TO_NEAREST, GPTQ), group=32),
    "MXFP4A16": Scheme((ROUND_TO_NEAREST, GPTQ), group=32),
}
"""By llm-compressor's own names, which are also vLLM's."""
METHODS: Mapping[str, Mapping[str, bool]] = {
    precision: {method: scheme.needs_text(method) for method in scheme.methods}
    for precision, scheme in SCHEMES.items()
}
"""The methods of each precision, and whether they need text."""
MODIFIERS: Mapping[str, Sequence[tuple[str, str, Mapping[str, Any]]]] = {
    ROUND_TO_NEAREST: (("quantization", "QuantizationModifier", {}),),
    GPTQ: (("gptq", "GPTQModifier", {}),),
    SMOOTHQUANT_GPTQ: (
        ("transform.smoothquant", "SmoothQuantModifier", {"smoothing_strength": 0.8}),
        ("gptq", "GPTQModifier", {}),
    ),
    AWQ: (
        ("transform.awq", "AWQModifier", {"duo_scaling": "both"}),
        ("quantization", "QuantizationModifier", {}),
    ),
    # The image has no compiler.
    AUTOROUND: (("autoround", "AutoRoundModifier", {"enable_torch_compile": False}),),
}
"""llm-compressor's modifiers of each method: module, class, arguments. The last one quantizes."""


class LlmCompressor:
    """llm-compressor: CompressedTensors."""

    name = "llm-compressor"
    format = "CompressedTensors"
    precisions: tuple[str, ...] = tuple(SCHEMES)

    def version(self) -> str:
        """The version of the package."""
        return importlib.metadata.version("llmcompressor")

    def quantize(self, task: stage.Task, target: Path, progress: stage.Progress) -> None:
        """Quantize every linear layer but the output layer, and save the packed checkpoint."""
        method = stage.choose_method(task, METHODS[task.precision], self.name)
        checkpoint.check_widths(task.source, task.precision, SCHEMES[task.precision].group)
        progress("loading the toolchain", 2)
        llmcompressor: Any = importlib.import_module("llmcompressor")
        progress("loading the checkpoint", 10)
        model = checkpoint.load_causal_model(task.source)
        arguments: dict[str, Any] = {}
        if task.calibration:
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

    def coverage(self, artifact: Path) -> Coverage:
        """Count the safetensors; a layer's packed weight, scales and zero point belong together."""
        tensors = checkpoint.tensors(artifact)
        groups: dict[str, list[checkpoint.Tensor]] = {}
        for name, tensor in tensors.items():
            layer, _, part = name.rpartition(".")
            belongs = part.startswith(("weight", "input_"))
            groups.setdefault(f"{layer}.weight" if belongs else name, []).append(tensor)
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
            elif "weight_packed" in kinds:
                numbers *= 2  # floats of 4 bits have no shape of their own: two to a byte
            bits = sum(part.bits for kind, part in kinds.items() if kind != "weight_shape")
            weights.append(
                Weight(
                    numbers,
                    bits,
                    is_layer=quantized or checkpoint.is_layer(stored),
                    quantized=quantized,
                    is_output=is_output(stored.name),
                )
            )
        return Coverage(tuple(weights))

    def vocabulary(self, artifact: Path) -> Mapping[str, int]:
        """Read the tokenizer's files."""
        return checkpoint.vocabulary(artifact)

    def scorer(self, task: stage.Task, length: int) -> perplexity.Scorer:
        """Load the checkpoint by transformers, which unpacks it with compressed-tensors."""
        return perplexity.transformers_scorer(task.artifact, "artifact")


def report_layers(model: Any, progress: stage.Progress) -> None:
    """Report every tenth of the layers that GPTQ and AutoRound say in the log to be working on."""
    loguru: Any = importlib.import_module("loguru")
    total = model.config.get_text_config().num_hidden_layers
    reported = 0

    def on_log(message: str) -> None:
        nonlocal reported
        found = re.search(r"layers\.(\d+)", message)
        layer = int(found[1]) if found else 0
        if 10 * layer // total > reported:
            reported = 10 * layer // total
            progress(f"quantized {layer} of {total} layers", 20 + 70 * layer // total)

    def is_news(record: Mapping[str, Any]) -> bool:
        return str(record["message"]).startswith(("Quantizing ", "Applying AutoRound "))

    loguru.logger.add(on_log, filter=is_news)


def modifiers(precision: str, method: str) -> list[Any]:
    """llm-compressor's recipe."""
    if method == AWQ:
        leave_memory_unpinned()
    chosen: dict[str, Any] = {"targets": "Linear", "scheme": precision, "ignore": ["lm_head"]}
    *transforms, quantizer = MODIFIERS[method]
    return [modifier(*each) for each in transforms] + [modifier(*quantizer, **chosen)]


def modifier(module: str, name: str, arguments: Mapping[str, Any], **more: Any) -> Any:
    """One of llm-compressor's modifiers."""
    return getattr(importlib.import_module(f"llmcompressor.modifiers.{module}"), name)(
        **arguments, **more
    )


def leave_memory_unpinned() -> None:
    """Keep AWQ from pinning memory for a device that is not there.

    It does so to copy faster to an accelerator, and torch refuses it where there is none.
    """
    torch: Any = importlib.import_module("torch")
    if not torch.accelerator.is_available():
        cache: Any = importlib.import_module("llmcompressor.pipelines.cache")
        cache.IntermediatesCache.pin_memory = lambda *_, **__: None


if __name__ == "__main__":
    sys.exit(stage.main(LlmCompressor()))
