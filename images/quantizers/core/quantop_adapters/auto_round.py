"""Classic GPTQ and AWQ checkpoints by AutoRound, which most engines with GPU kernels read."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantop_adapters import calibration, checkpoint, perplexity, stage
from quantop_adapters.coverage import Coverage, Weight, is_output
from quantop_adapters.refusal import RefusedError

AUTOROUND, ROUND_TO_NEAREST = "AutoRound", "RTN"
GROUP = 128
"""How many columns share one scale: what kernels for these formats are made for."""
NAMES: Mapping[str, str] = {"GPTQ": "auto_gptq", "AWQ": "auto_awq"}
"""What AutoRound calls the formats."""
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which of eight columns each nibble of an AWQ word holds, lowest first (AutoAWQ's packing)."""


@dataclass(frozen=True)
class Scheme:
    """The bits of a weight, and whether its range has a zero point of its own."""

    bits: int
    symmetric: bool = True


SCHEMES: Mapping[str, Mapping[str, Scheme]] = {
    "GPTQ": {"W8A16": Scheme(8), "W4A16": Scheme(4), "W2A16": Scheme(2)},
    "AWQ": {"W4A16": Scheme(4), "W4A16_ASYM": Scheme(4, symmetric=False)},
}
"""By format and precision."""
NEEDS_TEXT: Mapping[str, bool] = {AUTOROUND: True, ROUND_TO_NEAREST: False}
"""The methods, the default first."""
METHODS: Mapping[str, Mapping[str, bool]] = {
    precision: NEEDS_TEXT for schemes in SCHEMES.values() for precision in schemes
}
"""The methods of each precision, and whether they need text."""


class Gptq:
    """auto-round: GPTQ."""

    name = "auto-round"
    format = "GPTQ"
    precisions: tuple[str, ...] = tuple(SCHEMES[format])

    def version(self) -> str:
        """The version of the package."""
        return importlib.metadata.version("auto-round")

    def quantize(self, task: stage.Task, target: Path, progress: stage.Progress) -> None:
        """Quantize every linear layer but the output layer, and save the packed checkpoint."""
        method = stage.choose_method(task, METHODS[task.precision], self.name)
        scheme = SCHEMES[self.format][task.precision]
        checkpoint.check_widths(task.source, task.precision, GROUP)
        progress("loading the checkpoint", 5)
        model = checkpoint.load_causal_model(task.source)
        progress(f"quantizing to {task.precision} by {method}", 20)
        library: Any = importlib.import_module("auto_round")
        rounding = library.AutoRound(
            model,
            checkpoint.load_tokenizer(task.source),
            scheme={
                "bits": scheme.bits,
                "group_size": GROUP,
                "sym": scheme.symmetric,
                "data_type": "int",
            },
            device_map="cpu",
            # The image has no compiler.
            enable_torch_compile=False,
            **tuning(task),
        )
        rounding.quantize_and_save(str(task.scratch), format=NAMES[self.format])
        progress("saving", 95)
        # It names a folder of its own.
        (saved,) = (path.parent for path in task.scratch.rglob("config.json"))
        for path in saved.iterdir():
            shutil.move(path, target)
        checkpoint.copy_tokenizer(task.source, target)

    def coverage(self, artifact: Path) -> Coverage:
        """Count the safetensors; a layer's packed weight, scales and zeros belong together."""
        bits = checkpoint.read_json(artifact / "config.json")["quantization_config"]["bits"]
        tensors = checkpoint.tensors(artifact)
        weights = []
        for name, tensor in tensors.items():
            layer, _, part = name.rpartition(".")
            if part == "qweight":
                beside = [tensors[each] for each in _parts(layer) if each in tensors]
                stored = sum(each.bits for each in beside)
                weights.append(Weight(tensor.bits // bits, stored, True, True, is_output(name)))
            elif f"{layer}.qweight" not in tensors:
                layered = checkpoint.is_layer(tensor)
                weights.append(Weight(tensor.numbers, tensor.bits, layered, quantized=False))
        return Coverage(tuple(weights))

    def vocabulary(self, artifact: Path) -> Mapping[str, int]:
        """Read the tokenizer's files."""
        return checkpoint.vocabulary(artifact)

    def scorer(self, task: stage.Task, length: int) -> perplexity.Scorer:
        """Unpack the weights to single precision and load them by transformers: kernels for these
        formats want a GPU, and give the same numbers up to rounding."""
        unpacked = task.scratch
        shutil.rmtree(unpacked, ignore_errors=True)
        try:
            unpack(task.artifact, unpacked)
            return perplexity.transformers_scorer(unpacked, "artifact")
        finally:
            shutil.rmtree(unpacked, ignore_errors=True)


class Awq(Gptq):
    """auto-round: AWQ."""

    format = "AWQ"
    precisions: tuple[str, ...] = tuple(SCHEMES[format])


def tuning(task: stage.Task) -> dict[str, Any]:
    """AutoRound's arguments for learning how to round, or for rounding to the nearest."""
    if not task.calibration:
        return {"iters": 0, "disable_opt_rtn": True}
    torch: Any = importlib.import_module("torch")
    rows = calibration.token_rows(task)
    return {
        "dataset": [torch.tensor([row]) for row in rows],
        "nsamples": len(rows),
        "seqlen": task.calibration.sequence_length,
        "batch_size": min(8, len(rows)),
    }


def unpack(artifact: Path, target: Path) -> None:
    """Write the checkpoint again with plain weights of single precision.

    Raises:
        RefusedError: a layer's parts do not fit each other.
    """
    config = checkpoint.read_json(artifact / "config.json")
    quantization = config.pop("quantization_config")
    target.mkdir(parents=True)
    (target / "config.json").write_text(json.dumps(config | {"dtype": "float32"}))
    torch: Any = importlib.import_module("safetensors.torch")
    weight_map: dict[str, str] = {}
    for file in sorted(artifact.glob("*.safetensors")):
        tensors = dict(_unpacked(torch.load_file(file), quantization))
        torch.save_file(tensors, target / file.name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, file.name)
    index = json.dumps({"metadata": {}, "weight_map": weight_map})
    if len(set(weight_map.values())) > 1:
        (target / "model.safetensors.index.json").write_text(index)


def _unpacked(
    tensors: Mapping[str, Any], quantization: Mapping[str, Any]
) -> Iterator[tuple[str, Any]]:
    """The tensors of one file; a layer's parts are always in the same."""
    torch: Any = importlib.import_module("torch")
    for name, tensor in tensors.items():
        layer, _, part = name.rpartition(".")
        if part == "qweight":
            packed = {
                each.rpartition(".")[2]: tensors[each].numpy()
                for each in _parts(layer)
                if each in tensors
            }
            try:
                yield f"{layer}.weight", torch.from_numpy(weight_of(packed, quantization))
            except (KeyError, IndexError, ValueError) as error:
                raise RefusedError(
                    "ArtifactNotLoadable",
                    f"the parts of the artifact's {layer} do not fit each other "
                    f"({checkpoint.first_sentence(error)})",
                ) from error
        elif f"{layer}.qweight" not in tensors:
            yield name, tensor.float()


def _parts(layer: str) -> list[str]:
    return [f"{layer}.{part}" for part in ("qweight", "qzeros", "scales", "g_idx")]


def weight_of(packed: Mapping[str, Any], quantization: Mapping[str, Any]) -> Any:
    """A layer's weight of shape (outputs, inputs): (number - zero point) x scale of its group.

    Raises:
        KeyError, IndexError, ValueError: a part is missing, or has not the shape that it must have.
    """
    numpy: Any = importlib.import_module("numpy")
    bits, group = quantization["bits"], quantization["group_size"]
    if quantization["quant_method"] == "awq":
        numbers = _fields(packed["qweight"], bits, AWQ_ORDER)
        zeros = _fields(packed["qzeros"], bits, AWQ_ORDER)
    else:
        numbers = _fields(packed["qweight"].T, bits).T
        # GPTQ keeps the zero point less one.
        zeros = _fields(packed["qzeros"], bits) + 1
    groups = packed.get("g_idx", numpy.arange(len(numbers)) // group)
    scales = packed["scales"].astype(numpy.float32)
    return numpy.ascontiguousarray(((numbers - zeros[groups]) * scales[groups]).T)


def _fields(words: Any, bits: int, order: tuple[int, ...] = ()) -> Any:
    """The numbers of `bits` in rows of words of 32, lowest first or as `order` says."""
    numpy: Any = importlib.import_module("numpy")
    fields = (words[..., None] >> numpy.arange(0, 32, bits)) & (1 << bits) - 1
    if order:
        fields = fields[..., numpy.argsort(order)]
    return fields.reshape(*words.shape[:-1], -1).astype(numpy.int16)


if __name__ == "__main__":
    sys.exit(stage.main(Awq() if os.environ.get("FORMAT") == Awq.format else Gptq()))
