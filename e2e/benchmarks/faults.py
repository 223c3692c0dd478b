"""Make good artifacts and spoiled ones, evaluate each, and print what the evaluate stage said.

    python faults.py MODELS_DIR WORK_DIR FORMAT ...

Runs where the toolchains are: `quality.py` brings it into a pod of their image, so it imports
nothing of the project but the adapters. A spoiled artifact is a copy of a good one that one fault
was planted in, between the stages quantize and evaluate. One JSON line an artifact on stdout:
`model`, `format`, `precision`, `fault` (empty for a good one), `refused` (the reason, or empty),
`message` and `quality` (the report, or null).
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
from quantop_adapters import byhand
from quantop_adapters.stage import Calibration, Evaluation

ENCODER, GGUF_ENCODER, IR = "ONNXEncoder", "GGUFEncoder", "OpenVINO"
EVALUATED_TOKENS = 4096
PARALLEL = 2


@dataclass(frozen=True)
class Recipe:
    """How an artifact is made, and the fields of the contract's environment that differ."""

    model: str
    toolchain: str
    format: str
    precision: str
    method: str = ""
    calibrated: bool = False

    @property
    def name(self) -> str:
        """A name for its folder."""
        return "-".join((self.model, self.format, self.precision, self.method or "default"))


def gguf(model: str, precision: str, calibrated: bool = False) -> Recipe:
    """A recipe of llama.cpp."""
    return Recipe(model, "llama_cpp", "GGUF", precision, calibrated=calibrated)


def compressed(model: str, precision: str, method: str) -> Recipe:
    """A recipe of llm-compressor."""
    calibrated = method != "RTN"
    return Recipe(model, "llm_compressor", "CompressedTensors", precision, method, calibrated)


def onnx(model: str, precision: str) -> Recipe:
    """A recipe of onnxruntime-genai."""
    return Recipe(model, "onnxruntime_genai", "ONNX", precision)


def mlx(model: str, precision: str) -> Recipe:
    """A recipe of mlx-lm."""
    return Recipe(model, "mlx", "MLX", precision)


def ir(model: str, precision: str) -> Recipe:
    """A recipe of OpenVINO."""
    return Recipe(model, "openvino", IR, precision)


def encoder(model: str, precision: str, method: str = "", calibrated: bool = False) -> Recipe:
    """A recipe of ONNX Runtime for models that read a text whole."""
    return Recipe(model, "onnxruntime", ENCODER, precision, method, calibrated)


def gguf_encoder(model: str, precision: str) -> Recipe:
    """A recipe of llama.cpp for models that make embeddings."""
    return Recipe(model, "llama_cpp_encoder", GGUF_ENCODER, precision)


MODELS = ("tiny-llama", "tiny-phi3")
ENCODERS = ("tiny-bert", "tiny-bert-classifier")
EMBEDDER = "tiny-llama-embedder"
"""tiny-llama with sentence-transformers' files: a decoder whose last state is the embedding."""
EMBEDDERS = ("tiny-bert", EMBEDDER)
GOOD = [
    recipe
    for model in MODELS
    for recipe in (
        *(
            gguf(model, precision)
            for precision in (
                *("F16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q5_0", "Q4_K_M", "Q4_K_S"),
                *("Q4_0", "IQ4_NL", "IQ4_XS", "Q3_K_M", "Q2_K"),
            )
        ),
        gguf(model, "IQ3_XXS", calibrated=True),
        *(compressed(model, "W8A8", each) for each in ("RTN", "GPTQ", "SmoothQuantGPTQ")),
        *(compressed(model, "W4A16", each) for each in ("RTN", "GPTQ")),
        *(onnx(model, precision) for precision in ("FP32", "INT8", "INT4")),
        *(mlx(model, precision) for precision in ("8bit", "6bit", "4bit")),
        *(ir(model, precision) for precision in ("FP32", "FP16", "INT8", "INT4")),
    )
] + [
    recipe
    for model in ENCODERS
    for recipe in (
        *(encoder(model, precision) for precision in ("FP32", "FP16", "INT8", "INT4")),
        encoder(model, "INT8", "BlockWise"),
        encoder(model, "INT8", "StaticA16MinMax", calibrated=True),
    )
]
GOOD += [
    gguf_encoder(model, precision)
    for model in EMBEDDERS
    for precision in ("F16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_0", "Q4_K_M", "Q4_0", "IQ4_XS")
]
Q8_0, Q4_K_M = (gguf("tiny-llama", each) for each in ("Q8_0", "Q4_K_M"))
W8A8, W4A16 = (compressed("tiny-llama", each, "GPTQ") for each in ("W8A8", "W4A16"))
FP32, INT8, INT4 = (onnx("tiny-llama", each) for each in ("FP32", "INT8", "INT4"))
MLX_8, MLX_4 = (mlx("tiny-llama", each) for each in ("8bit", "4bit"))
IR_32, IR_8, IR_4 = (ir("tiny-llama", each) for each in ("FP32", "INT8", "INT4"))
ENCODER_32, ENCODER_8, ENCODER_4 = (encoder("tiny-bert", each) for each in ("FP32", "INT8", "INT4"))
CLASSIFIER_8, CLASSIFIER_4 = (encoder("tiny-bert-classifier", each) for each in ("INT8", "INT4"))
BERT_8, BERT_4 = (gguf_encoder("tiny-bert", each) for each in ("Q8_0", "Q4_K_M"))
EMBEDDER_8, EMBEDDER_4 = (gguf_encoder(EMBEDDER, each) for each in ("Q8_0", "Q4_K_M"))


def write_embedder(decoder: Path, folder: Path) -> None:
    """A checkpoint of a decoder that says of itself how its states become an embedding."""
    shutil.copytree(decoder, folder)
    kinds = {"": "Transformer", "pooling": "Pooling"}
    modules = [
        {"path": path, "type": f"sentence_transformers.models.{kind}"}
        for path, kind in kinds.items()
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "pooling").mkdir()
    pooling = {"pooling_mode_lasttoken": True}
    (folder / "pooling" / "config.json").write_text(json.dumps(pooling))


class Workshop:
    """Runs the adapters' stages on artifacts below one folder."""

    def __init__(self, models: Path, work: Path) -> None:
        self.models = models
        self.work = work
        write_embedder(models / "tiny-llama", self.source(EMBEDDER))

    def source(self, model: str) -> Path:
        """Where a checkpoint is."""
        return (self.work if model == EMBEDDER else self.models) / model

    def folder(self, recipe: Recipe) -> Path:
        """Where a good artifact of the recipe is."""
        return self.work / recipe.name / "artifact"

    def stage(self, stage: str, recipe: Recipe, folder: Path) -> tuple[int, dict[str, Any]]:
        """Run a stage as the operator does; its exit status and termination message."""
        low, high = BANDS.get((recipe.format, recipe.precision), (None, None))
        reads_whole = recipe.format in (ENCODER, GGUF_ENCODER)
        text = "classification.jsonl" if reads_whole else "evaluation.txt"
        task = byhand.task_below(
            folder,
            self.source(recipe.model),
            (recipe.format, recipe.precision, recipe.method),
            calibration=Calibration(self.models / "calibration.txt", 64, 256)
            if recipe.calibrated
            else None,
            evaluation=Evaluation(self.models / text, 256, EVALUATED_TOKENS),
            bits_per_weight_min=low,
            bits_per_weight_max=high,
        )
        return byhand.run(recipe.toolchain, stage, task)

    def make(self, recipe: Recipe) -> None:
        """Quantize.

        Raises:
            RuntimeError: the stage failed.
        """
        folder = self.folder(recipe).parent
        folder.mkdir(parents=True)
        status, said = self.stage("quantize", recipe, folder)
        if status:
            raise RuntimeError(f"{recipe.name}: quantize ended with {status}: {said}")

    def judge(self, recipe: Recipe, fault: str, folder: Path) -> dict[str, Any]:
        """Evaluate the artifact below `folder` as one of the recipe's."""
        status, said = self.stage("evaluate", recipe, folder)
        report = folder / "state" / "quality.json"
        return {
            "model": recipe.model,
            "format": recipe.format,
            "precision": recipe.precision,
            "method": recipe.method,
            "fault": fault,
            "refused": said.get("reason", f"ExitStatus{status}") if status else "",
            "message": said.get("message", "") if status else "",
            "quality": None if status else json.loads(report.read_text()),
        }

    def spoil(self, recipe: Recipe, fault: str, plant: Callable[[Path], None]) -> dict[str, Any]:
        """Plant a fault in a copy of a good artifact, and evaluate that."""
        folder = self.work / "spoiled" / f"{recipe.name}-{fault.replace(' ', '-')}"
        shutil.copytree(self.folder(recipe), folder / "artifact")
        (folder / "state").mkdir()
        shutil.copy(self.folder(recipe).parent / "state" / "quantize.done", folder / "state")
        plant(folder / "artifact")
        found = self.judge(recipe, fault, folder)
        shutil.rmtree(folder / "artifact")
        return found


# Faults that any format can have.


def write_nothing(artifact: Path) -> None:
    """A tool that ends with 0 and leaves an empty folder."""
    for path in artifact.iterdir():
        path.unlink()


def largest(artifact: Path) -> Path:
    """The file that holds the weights."""
    return max(artifact.iterdir(), key=lambda path: path.stat().st_size)


def truncate(artifact: Path) -> None:
    """A disk that was full."""
    path = largest(artifact)
    os.truncate(path, path.stat().st_size * 9 // 10)


def garble(artifact: Path) -> None:
    """A twentieth of the weights' file overwritten."""
    path = largest(artifact)
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 2)
        file.write(np.random.default_rng(1).bytes(size // 20))


def replaced_by(other: Path) -> Callable[[Path], None]:
    """Another artifact of the same format under this one's name."""

    def plant(artifact: Path) -> None:
        shutil.rmtree(artifact)
        shutil.copytree(other, artifact)

    return plant


def without(*names: str) -> Callable[[Path], None]:
    """Files that were not written."""

    def plant(artifact: Path) -> None:
        for name in names:
            (artifact / name).unlink()

    return plant


def shift_tokens(artifact: Path) -> None:
    """Another model's tokenizer: every token has its neighbour's id."""
    path = artifact / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    tokenizer["model"]["vocab"] = {
        token: (index + 1) % len(tokens) for index, token in enumerate(tokens)
    }
    path.write_text(json.dumps(tokenizer))


def swap_two_tokens(artifact: Path) -> None:
    """A vocabulary in which two ordinary tokens changed places."""
    path = artifact / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    one, other = sorted(vocabulary, key=vocabulary.__getitem__)[300:302]
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    path.write_text(json.dumps(tokenizer))


# GGUF.

GGUF_CLS = 2
"""llama.cpp's number of the pooling that takes the first token's state."""
SCALE_BYTES = {"Q8_0": (34, 2), "Q4_K": (144, 4), "Q6_K": (210, 0), "Q5_0": (22, 2)}
"""Bytes of a block and of the scales at its start (ggml's block structures)."""


def gguf_tensors(artifact: Path) -> dict[str, Any]:
    """The file's tensors by name; their `data` can be written to."""
    from quantop_adapters.gguf_convert import import_from_llama_cpp

    reader = import_from_llama_cpp("gguf").GGUFReader(artifact / "model.gguf", "r+")
    return {tensor.name: tensor for tensor in reader.tensors}


def gguf_scales(value: float) -> Callable[[Path], None]:
    """All scales of one tensor set to a value."""

    def plant(artifact: Path) -> None:
        tensor = next(
            tensor
            for name, tensor in gguf_tensors(artifact).items()
            if name.startswith("blk.1.ffn") and SCALE_BYTES.get(tensor.tensor_type.name, (0, 0))[1]
        )
        block, scales = SCALE_BYTES[tensor.tensor_type.name]
        blocks = tensor.data.reshape(-1).view(np.uint8).reshape(-1, block)
        blocks[:, :scales] = np.frombuffer(np.float16(value).tobytes() * (scales // 2), np.uint8)

    return plant


def gguf_norm(value: float) -> Callable[[Path], None]:
    """One number of a norm, which stays in 32 bits, set to a value."""

    def plant(artifact: Path) -> None:
        tensors = gguf_tensors(artifact)
        tensors[named(tensors, "blk.1.", "norm.weight")].data[3] = value

    return plant


def gguf_zero(artifact: Path) -> None:
    """A layer's matrix of nothing but zero bytes."""
    gguf_tensors(artifact)["blk.0.attn_output.weight"].data[:] = 0


def gguf_swap_layers(artifact: Path) -> None:
    """Two layers that changed places, as far as their types are the same."""
    tensors = gguf_tensors(artifact)
    for name, tensor in tensors.items():
        other = tensors.get(name.replace("blk.0.", "blk.1."))
        if name.startswith("blk.0.") and other and other.data.shape == tensor.data.shape:
            kept = tensor.data.copy()
            tensor.data[:] = other.data
            other.data[:] = kept


def gguf_permute_rows(artifact: Path) -> None:
    """A vocabulary permuted in the weights: every embedding belongs to its neighbour."""
    data = gguf_tensors(artifact)["token_embd.weight"].data
    data[:] = np.roll(data, 1, axis=0)


def gguf_field(artifact: Path, key: str) -> Any:
    """What the file says under the first key that holds this; its `parts` can be written to."""
    from quantop_adapters.gguf_convert import import_from_llama_cpp

    reader = import_from_llama_cpp("gguf").GGUFReader(artifact / "model.gguf", "r+")
    return reader.fields[named(reader.fields, key)]


def gguf_says(key: str, value: int) -> Callable[[Path], None]:
    """A number that the file says of its model, set to a value."""

    def plant(artifact: Path) -> None:
        field = gguf_field(artifact, key)
        assert field.parts[field.data[0]][0] != value, "it is another one"
        field.parts[field.data[0]][0] = value

    return plant


def gguf_stale(other: Path) -> Callable[[Path], None]:
    """A file of an earlier run, from when artifacts were split."""

    def plant(artifact: Path) -> None:
        shutil.copy(other / "model.gguf", artifact / "model-00001-of-00001.gguf")

    return plant


def gguf_swap_tokens(artifact: Path) -> None:
    """Two tokens of the same length that changed places in the file's token list."""
    field = gguf_field(artifact, "tokenizer.ggml.tokens")
    tokens = [field.parts[index] for index in field.data[300:400]]
    one, other = next(
        (one, other)
        for one, other in itertools.pairwise(tokens)
        if len(one) == len(other) and bytes(one) != bytes(other)
    )
    kept = one.copy()
    one[:] = other
    other[:] = kept


def gguf_skip_layer(source: Path, precision: str) -> Callable[[Path], None]:
    """A tool that left two matrices as they were."""

    def plant(artifact: Path) -> None:
        command = ["llama-quantize"]
        for name in ("ffn_down", "ffn_up"):
            command += ["--tensor-type", rf"blk\.1\.{name}=f16"]
        target = artifact / "model.gguf"
        command += [str(source / "model.gguf"), str(target), precision, "1"]
        subprocess.run(command, check=True, capture_output=True)

    return plant


# Safetensors.


def safetensors(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    """Load the tensors, change them, save them."""

    def plant(artifact: Path) -> None:
        from safetensors.torch import load_file, save_file

        path = artifact / "model.safetensors"
        tensors = load_file(path)
        change(tensors)
        save_file({k: v.contiguous() for k, v in tensors.items()}, path, {"format": "pt"})

    return plant


def named(tensors: Mapping[str, Any], *parts: str) -> str:
    """The first tensor whose name holds all parts."""
    return next(name for name in tensors if all(part in name for part in parts))


def fill(value: float, *parts: str, where: slice = slice(None)) -> Callable[[Path], None]:
    """Numbers of one tensor set to a value."""

    def change(tensors: dict[str, Any]) -> None:
        tensors[named(tensors, *parts)].view(-1)[where] = value

    return safetensors(change)


def swap_layers(tensors: dict[str, Any]) -> None:
    """Two layers that changed places."""
    for name in list(tensors):
        if ".layers.0." in name:
            other = name.replace(".layers.0.", ".layers.2.")
            tensors[name], tensors[other] = tensors[other], tensors[name]


def permute_rows(tensors: dict[str, Any]) -> None:
    """A vocabulary permuted in the weights."""
    name = named(tensors, "embed_tokens")
    tensors[name] = tensors[name].roll(1, 0)


def drop_tensor(tensors: dict[str, Any]) -> None:
    """A norm that was not saved: transformers would make up one."""
    del tensors[named(tensors, "layers.1.post_attention_layernorm")]


def drop_layer(tensors: dict[str, Any]) -> None:
    """A whole layer that was not saved."""
    for name in [name for name in tensors if ".layers.3." in name]:
        del tensors[name]


def keep_layer(source: Path) -> Callable[[Path], None]:
    """A tool that left two matrices as they were."""

    def change(tensors: dict[str, Any]) -> None:
        from safetensors.torch import load_file

        original = load_file(source / "model.safetensors")
        for layer in ("model.layers.1.mlp.down_proj", "model.layers.1.mlp.up_proj"):
            for name in [name for name in tensors if name.startswith(f"{layer}.weight")]:
                del tensors[name]
            tensors[f"{layer}.weight"] = original[f"{layer}.weight"]

    return safetensors(change)


def stale_shard(artifact: Path) -> None:
    """A file of an earlier run that holds the same tensors."""
    shutil.copy(artifact / "model.safetensors", artifact / "model-00002-of-00002.safetensors")


def fewer_layers(artifact: Path) -> None:
    """A config.json that says less than what is there."""
    path = artifact / "config.json"
    config = json.loads(path.read_text())
    config["num_hidden_layers"] -= 1
    if "layer_types" in config:
        config["layer_types"] = config["layer_types"][:-1]
    path.write_text(json.dumps(config))


def copy_source(source: Path) -> Callable[[Path], None]:
    """A tool that copied the checkpoint and quantized nothing."""

    def plant(artifact: Path) -> None:
        shutil.copy(source / "model.safetensors", artifact)
        config = json.loads((artifact / "config.json").read_text())
        config.pop("quantization_config")
        (artifact / "config.json").write_text(json.dumps(config))

    return plant


# ONNX.


def onnx_graph(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    """Load the initializers as arrays, change them in place, save them."""

    def plant(artifact: Path) -> None:
        import onnx as library

        model = library.load(artifact / "model.onnx")
        arrays = {
            tensor.name: library.numpy_helper.to_array(tensor).copy()
            for tensor in model.graph.initializer
        }
        change(arrays)
        for tensor in model.graph.initializer:
            tensor.CopyFrom(library.numpy_helper.from_array(arrays[tensor.name], tensor.name))
        for name in ("model.onnx", "model.onnx.data"):
            (artifact / name).unlink()
        library.save_model(
            model,
            artifact / "model.onnx",
            save_as_external_data=True,
            location="model.onnx.data",
        )

    return plant


def onnx_fill(value: float, *parts: str, first: int | None = None) -> Callable[[Path], None]:
    """Numbers of one initializer set to a value."""

    def change(arrays: dict[str, Any]) -> None:
        arrays[named(arrays, *parts)].reshape(-1)[:first] = value

    return onnx_graph(change)


def onnx_swap_layers(arrays: dict[str, Any]) -> None:
    """Two layers that changed places."""
    for name in arrays:
        if "layers.0." in name and "MatMul" in name:
            other = name.replace("layers.0.", "layers.2.")
            kept = arrays[name].copy()
            arrays[name][:] = arrays[other]
            arrays[other][:] = kept


def onnx_permute_rows(arrays: dict[str, Any]) -> None:
    """A vocabulary permuted in the weights."""
    name = named(arrays, "embed_tokens")
    arrays[name] = np.roll(arrays[name], 1, axis=0)


def encoder_scales(value: float, position: int) -> Callable[[Path], None]:
    """The scales of one of an encoder's matrices, of which each layer has six, set to a value."""

    def change(arrays: dict[str, Any]) -> None:
        names = [name for name in arrays if name.startswith("val_") and "_scale" in name]
        arrays[names[position]].reshape(-1)[:] = value

    return onnx_graph(change)


def encoder_swap_layers(arrays: dict[str, Any]) -> None:
    """Two layers that changed places: their matrices, in the order in which they are stored."""
    parts = ("_quantized", "_Q4", "_scale", "_scales", "_zero_point", "_zero_points")
    names = [name for name in arrays if name.startswith("val_") and name.endswith(parts)]
    half = len(names) // 2
    for name, other in zip(names[:half], names[half:], strict=True):
        arrays[name], arrays[other] = arrays[other], arrays[name]


def encoder_permute_rows(arrays: dict[str, Any]) -> None:
    """A vocabulary permuted in the weights."""
    for name in [name for name in arrays if "word_embeddings" in name and arrays[name].ndim > 1]:
        arrays[name] = np.roll(arrays[name], 1, axis=0)


def rotate_labels(artifact: Path) -> None:
    """Every label has its neighbour's name, by which it is served."""
    path = artifact / "config.json"
    config = json.loads(path.read_text())
    names = [config["id2label"][index] for index in sorted(config["id2label"], key=int)]
    config["id2label"] = {str(index): name for index, name in enumerate(names[1:] + names[:1])}
    path.write_text(json.dumps(config))


# OpenVINO.


def ir_operands(artifact: Path) -> list[tuple[str, list[Any]]]:
    """The graph's weights: the largest part's name, and all parts, which can be written to; those
    that are floats as such, and the others as bytes."""
    from quantop_adapters import openvino

    file = artifact / "openvino_model.bin"

    def array(part: Any) -> Any:
        kind = openvino.FLOATS.get(part.kind, "u1")
        shape = part.size // np.dtype(kind).itemsize
        return np.memmap(file, kind, "r+", part.offset, (shape,))

    return [
        (operand.parts[0].name, [array(part) for part in operand.parts])
        for operand in openvino.operands(artifact)
    ]


def ir_parts(artifact: Path, *names: str) -> list[Any]:
    """The parts of the first weight whose name holds all of these."""
    return next(
        parts for name, parts in ir_operands(artifact) if all(each in name for each in names)
    )


def ir_scales(value: float, *names: str) -> Callable[[Path], None]:
    """All scales of one weight set to a value."""

    def plant(artifact: Path) -> None:
        scales = [part for part in ir_parts(artifact, *names)[1:] if part.dtype.kind == "f"]
        assert scales, "it has scales"
        for part in scales:
            part[:] = value

    return plant


def ir_norm(artifact: Path) -> None:
    """One number of a norm that is infinite."""
    norms = (parts for _, parts in ir_operands(artifact) if len(parts) == 1)
    next(parts[0] for parts in norms if parts[0].dtype.kind == "f")[3] = np.inf


def ir_zero(artifact: Path) -> None:
    """A layer's matrix of nothing but zero bytes."""
    for part in ir_parts(artifact, "layers.0.", "down_proj"):
        part[:] = 0


def ir_swap_layers(artifact: Path) -> None:
    """Two layers that changed places."""
    operands = dict(ir_operands(artifact))
    for name, parts in operands.items():
        if "layers.0." in name:
            for ours, theirs in zip(
                parts, operands[name.replace("layers.0.", "layers.2.")], strict=True
            ):
                kept = ours.copy()
                ours[:] = theirs
                theirs[:] = kept


def ir_permute_rows(artifact: Path) -> None:
    """A vocabulary permuted in the weights: every embedding belongs to its neighbour."""
    numbers = ir_parts(artifact, "embed_tokens")[0]
    rows = numbers.reshape(2048, -1)
    rows[:] = np.roll(rows, 1, axis=0)


def ir_garble_tokenizer(artifact: Path) -> None:
    """A graph of the tokenizer whose tokens are others: upper and lower case have changed."""
    path = artifact / "openvino_tokenizer.bin"
    path.write_bytes(path.read_bytes().swapcase())


def ir_other_graph(other: Path) -> Callable[[Path], None]:
    """A stale graph of an earlier run, beside the numbers of this one."""

    def plant(artifact: Path) -> None:
        shutil.copy(other / "openvino_model.xml", artifact)

    return plant


Fault = tuple[Recipe, str, Callable[[Path], None]]


def faults(shop: Workshop) -> Iterator[Fault]:
    """Every artifact to spoil, the fault's name, and what plants it."""
    source = shop.models / "tiny-llama"
    for recipe in (Q8_0, Q4_K_M, W8A8, W4A16, INT8, INT4, MLX_8, MLX_4, IR_8, IR_4):
        yield recipe, "nothing written", write_nothing
        yield recipe, "truncated", truncate
        yield recipe, "garbled", garble
        phi3 = shop.folder(replace(recipe, model="tiny-phi3"))
        yield recipe, "another model's artifact", replaced_by(phi3)
    for recipe, other in (
        (Q8_0, gguf("tiny-llama", "Q2_K")),
        (Q4_K_M, Q8_0),
        (W8A8, W4A16),
        (W4A16, W8A8),
        (INT8, INT4),
        (INT4, INT8),
        (MLX_8, MLX_4),
        (MLX_4, MLX_8),
        (IR_8, IR_4),
        (IR_4, IR_8),
        (ENCODER_8, ENCODER_4),
        (ENCODER_4, ENCODER_8),
        (CLASSIFIER_8, CLASSIFIER_4),
        (BERT_8, BERT_4),
        (BERT_4, BERT_8),
        (EMBEDDER_8, EMBEDDER_4),
        (EMBEDDER_4, EMBEDDER_8),
    ):
        yield recipe, "wrong precision behind the right name", replaced_by(shop.folder(other))
    for recipe in (Q8_0, Q4_K_M, BERT_8, BERT_4, EMBEDDER_8, EMBEDDER_4):
        full = shop.folder(replace(recipe, precision="F16"))
        yield recipe, "unquantized weights", replaced_by(full)
        yield recipe, "zeroed scales", gguf_scales(0)
        yield recipe, "NaN in scales", gguf_scales(np.nan)
        yield recipe, "infinite number", gguf_norm(np.inf)
        yield recipe, "zeroed weights", gguf_zero
        yield recipe, "swapped layers", gguf_swap_layers
        yield recipe, "permuted vocabulary", gguf_permute_rows
        yield recipe, "another tokenizer", gguf_swap_tokens
        yield recipe, "skipped layers", gguf_skip_layer(full, recipe.precision)
        yield recipe, "stale files of an earlier run", gguf_stale(shop.folder(recipe))
    for recipe, other in (
        (BERT_8, EMBEDDER_8),
        (BERT_4, EMBEDDER_4),
        (EMBEDDER_8, BERT_8),
        (EMBEDDER_4, BERT_4),
    ):
        yield recipe, "nothing written", write_nothing
        yield recipe, "truncated", truncate
        yield recipe, "garbled", garble
        yield recipe, "another model's artifact", replaced_by(shop.folder(other))
        yield recipe, "another pooling", gguf_says("pooling_type", GGUF_CLS)
        yield recipe, "another special token", gguf_says("bos_token_id", 300)
    for recipe in (BERT_8, BERT_4):
        yield recipe, "another normalizer", gguf_says("normalizer.lowercase", 0)
    for recipe in (W8A8, W4A16):
        yield recipe, "unquantized weights", copy_source(source)
        yield recipe, "zeroed scales", fill(0, "layers.1.mlp.down_proj.weight_scale")
        yield recipe, "NaN in scales", fill(np.nan, "weight_scale", where=slice(1))
        yield recipe, "infinite number", fill(np.inf, "input_layernorm", where=slice(1))
        yield recipe, "zeroed weights", fill(0, "layers.0.self_attn.o_proj.weight_scale")
        yield recipe, "swapped layers", safetensors(swap_layers)
        yield recipe, "permuted vocabulary", safetensors(permute_rows)
        yield recipe, "another tokenizer", shift_tokens
        yield recipe, "two tokens swapped", swap_two_tokens
        yield recipe, "no tokenizer", without("tokenizer.json")
        yield recipe, "skipped layers", keep_layer(source)
        yield recipe, "missing tensor", safetensors(drop_tensor)
        yield recipe, "missing layer", safetensors(drop_layer)
        yield recipe, "stale files of an earlier run", stale_shard
        yield recipe, "fewer layers than there are", fewer_layers
    for recipe in (MLX_8, MLX_4):
        yield recipe, "zeroed scales", fill(0, "layers.1.mlp.down_proj.scales")
        yield recipe, "NaN in scales", fill(np.nan, ".scales", where=slice(1))
        yield recipe, "infinite number", fill(np.inf, "input_layernorm", where=slice(1))
        yield recipe, "swapped layers", safetensors(swap_layers)
        yield recipe, "permuted vocabulary", safetensors(permute_rows)
        yield recipe, "another tokenizer", shift_tokens
        yield recipe, "no tokenizer", without("tokenizer.json")
        yield recipe, "missing tensor", safetensors(drop_tensor)
        yield recipe, "missing layer", safetensors(drop_layer)
        yield recipe, "stale files of an earlier run", stale_shard
        yield recipe, "fewer layers than there are", fewer_layers
    for recipe in (INT8, INT4):
        yield recipe, "unquantized weights", replaced_by(shop.folder(FP32))
        yield recipe, "zeroed scales", onnx_fill(0, "layers.1.mlp.down_proj", "scale")
        yield recipe, "NaN in scales", onnx_fill(np.nan, "layers.1.mlp.down_proj", "scale")
        yield recipe, "infinite number", onnx_fill(np.inf, "input_layernorm", first=1)
        yield recipe, "swapped layers", onnx_graph(onnx_swap_layers)
        yield recipe, "permuted vocabulary", onnx_graph(onnx_permute_rows)
        yield recipe, "another tokenizer", shift_tokens
        yield recipe, "two tokens swapped", swap_two_tokens
        yield recipe, "no tokenizer", without("tokenizer.json")
        yield recipe, "missing weights' file", without("model.onnx.data")
    for recipe, other in ((IR_8, IR_4), (IR_4, IR_8)):
        yield recipe, "unquantized weights", replaced_by(shop.folder(IR_32))
        yield recipe, "zeroed scales", ir_scales(0, "layers.1.", "down_proj")
        yield recipe, "NaN in scales", ir_scales(np.nan, "layers.1.", "down_proj")
        yield recipe, "infinite number", ir_norm
        yield recipe, "zeroed weights", ir_zero
        yield recipe, "swapped layers", ir_swap_layers
        yield recipe, "permuted vocabulary", ir_permute_rows
        yield recipe, "another tokenizer", shift_tokens
        yield recipe, "two tokens swapped", swap_two_tokens
        yield recipe, "garbled tokenizer", ir_garble_tokenizer
        yield recipe, "no tokenizer", without("openvino_tokenizer.xml", "openvino_tokenizer.bin")
        yield recipe, "missing weights' file", without("openvino_model.bin")
        yield recipe, "stale files of an earlier run", ir_other_graph(shop.folder(other))
    for recipe in (ENCODER_8, ENCODER_4, CLASSIFIER_8):
        yield recipe, "nothing written", write_nothing
        yield recipe, "truncated", truncate
        yield recipe, "garbled", garble
        yield recipe, "zeroed scales", encoder_scales(0, 4)
        yield recipe, "NaN in scales", encoder_scales(np.nan, 4)
        yield recipe, "infinite number", onnx_fill(np.inf, "LayerNorm.weight", first=1)
        yield recipe, "zeroed weights", encoder_scales(0, 3)
        yield recipe, "swapped layers", onnx_graph(encoder_swap_layers)
        yield recipe, "permuted vocabulary", onnx_graph(encoder_permute_rows)
        yield recipe, "another tokenizer", shift_tokens
        yield recipe, "two tokens swapped", swap_two_tokens
        yield recipe, "no tokenizer", without("tokenizer.json")
        yield recipe, "missing weights' file", without("model.onnx.data")
        one, two = ENCODERS
        model = two if recipe.model == one else one
        yield (
            recipe,
            "another model's artifact",
            replaced_by(shop.folder(replace(recipe, model=model))),
        )
    yield ENCODER_8, "unquantized weights", replaced_by(shop.folder(ENCODER_32))
    yield CLASSIFIER_8, "rotated labels", rotate_labels


BANDS: dict[tuple[str, str], tuple[Decimal, Decimal]] = {}
"""The bits per weight that the chart promises, as the operator passes them on."""


def main(arguments: list[str]) -> int:
    """Print a line for every artifact."""
    models, work = (Path(each).resolve() for each in arguments[:2])
    formats = arguments[2:]
    for key, band in json.loads(os.environ["BANDS"]).items():
        format_, _, precision = key.partition("/")
        BANDS[format_, precision] = Decimal(band["min"]), Decimal(band["max"])
    shop = Workshop(models, work)

    def good(recipe: Recipe) -> dict[str, Any]:
        shop.make(recipe)
        return shop.judge(recipe, "", shop.folder(recipe).parent)

    with ThreadPoolExecutor(PARALLEL) as pool:
        for found in pool.map(good, (each for each in GOOD if each.format in formats)):
            print(json.dumps(found), flush=True)
        wanted = (fault for fault in faults(shop) if fault[0].format in formats)
        for found in pool.map(lambda fault: shop.spoil(*fault), wanted):
            print(json.dumps(found), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
