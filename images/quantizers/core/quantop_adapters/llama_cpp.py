"""GGUF by llama.cpp: convert to floats, weigh by a calibration if given, quantize."""

from __future__ import annotations

import ctypes
import importlib
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from quantop_adapters import checkpoint, perplexity, stage
from quantop_adapters.coverage import Coverage, Weight, is_output, overridden
from quantop_adapters.gguf_convert import convert, import_from_llama_cpp
from quantop_adapters.refusal import RefusedError

ARTIFACT = "model.gguf"
SPLIT_UNIT = 1_000_000
"""Bytes: llama-gguf-split counts in whole megabytes."""
IMPORTANCE_MATRIX = "ImportanceMatrix"
FLOAT_TYPES = frozenset({"F32", "F16", "BF16"})
# Rounding by the type's own rule: an importance matrix changes nothing.
UNWEIGHTED = FLOAT_TYPES | {"Q8_0", "TQ1_0", "TQ2_0"}
# So few bits that llama-quantize makes them of weights it knows the importance of, or not at all.
WEIGHTED_ONLY = (
    "IQ3_XS",
    "IQ3_XXS",
    "Q2_K_S",
    "IQ2_M",
    "IQ2_S",
    "IQ2_XS",
    "IQ2_XXS",
    "IQ1_M",
    "IQ1_S",
)
TRIES = 20
"""Of a tool whose last lines may be lost."""
QUICK_SECONDS = 60.0
"""A failure that took longer is not worth another try for its reason: the Job makes one anyway."""
ERROR_LINE = re.compile(r"[0-9] E ")
"""How its log begins a line of an error, behind the time."""
BATCH = 256
"""Tokens decoded at once; as all logits are kept, this bounds memory for large vocabularies."""


class Model:
    """A GGUF file opened by llama.cpp through its library."""

    def __init__(self, path: Path, vocabulary_only: bool = False) -> None:
        """Open the file, and look at every number in it unless only its vocabulary is wanted.

        Raises:
            RefusedError: llama.cpp cannot load it, or a number in it is not finite.
        """
        self.library: Any = import_from_llama_cpp("llama_cpp.llama_cpp")
        self._log = self.library.llama_log_callback(self._on_log)
        self._problems: list[str] = []
        self.library.llama_log_set(self._log, ctypes.c_void_p(0))
        self.library.llama_backend_init()
        parameters = self.library.llama_model_default_params()
        parameters.vocab_only = vocabulary_only
        parameters.check_tensors = not vocabulary_only
        self.model = self.library.llama_model_load_from_file(str(path).encode(), parameters)
        if not self.model:
            raise RefusedError(
                "ArtifactNotLoadable",
                f"llama.cpp cannot load the GGUF file it made: {self.problems}",
            )
        self.vocabulary = self.library.llama_model_get_vocab(self.model)
        self.vocabulary_size: int = self.library.llama_vocab_n_tokens(self.vocabulary)

    def _on_log(self, level: int, text: bytes, _data: object) -> None:
        """Keep warnings and errors (ggml's levels 3 and 4) for messages."""
        if level in (3, 4):
            self._problems.append(text.decode(errors="replace").strip())

    @property
    def problems(self) -> str:
        """What llama.cpp warned of last."""
        return " ".join(self._problems[-3:])

    def tokenize(self, text: str, special: bool = False) -> list[int]:
        """The ids of a text, with or without the special tokens around it."""
        raw = text.encode()
        ids = (ctypes.c_int32 * (len(raw) + 8))()
        count = self.library.llama_tokenize(
            self.vocabulary, raw, len(raw), ids, len(ids), special, False
        )
        return list(ids[: max(0, count)])

    def cut(self, ids: list[int], length: int) -> list[int]:
        """A text's ids, with the special tokens around it, cut to `length` of them in all."""
        if len(ids) <= length:
            return ids
        adds_end = (self.library.llama_vocab_get_add_eos, self.library.llama_vocab_get_add_sep)
        kept = length - any(adds(self.vocabulary) for adds in adds_end)
        return [*ids[:kept], *ids[len(ids) - (length - kept) :]]

    def tokens(self) -> dict[str, int]:
        """Every token and its id."""
        text = self.library.llama_vocab_get_text
        return {
            text(self.vocabulary, index).decode(errors="replace"): index
            for index in range(self.vocabulary_size)
        }


class Engine(Model):
    """A GGUF file loaded for inference."""

    def __init__(self, path: Path, context: int, threads: int, embeds: bool = False) -> None:
        """Load the file for sequences of at most `context` tokens; one that `embeds` reads them
        whole.

        Raises:
            RefusedError: llama.cpp cannot load it, or a number in it is not finite.
        """
        super().__init__(path)
        parameters = self.library.llama_context_default_params()
        parameters.n_ctx = context
        parameters.n_batch = parameters.n_ubatch = context if embeds else min(BATCH, context)
        parameters.embeddings = embeds
        parameters.n_threads = parameters.n_threads_batch = threads
        self.context = self.library.llama_init_from_model(self.model, parameters)
        if not self.context:
            raise RefusedError(
                "ArtifactNotLoadable",
                f"llama.cpp cannot make a context of {context} tokens: {self.problems}",
            )

    def score(self, ids: Sequence[int], start: int = 0) -> Iterator[Any]:
        """The logits at each position, as many at a time as are decoded at once.

        Raises:
            RuntimeError: llama.cpp could not decode.
        """
        numpy: Any = importlib.import_module("numpy")
        if not start:
            self.library.llama_memory_clear(self.library.llama_get_memory(self.context), True)
        for first in range(0, len(ids), BATCH):
            some = ids[first : first + BATCH]
            self._decode(some, start + first)
            yield numpy.ctypeslib.as_array(
                self.library.llama_get_logits(self.context),
                shape=(len(some), self.vocabulary_size),
            )

    def embed(self, ids: Sequence[int]) -> Any:
        """The embedding of a text, as the file says that states are pooled, of length 1 as
        llama-server gives it: an array of shape (numbers,).

        Raises:
            RuntimeError: llama.cpp could not decode.
        """
        numpy: Any = importlib.import_module("numpy")
        self.library.llama_memory_clear(self.library.llama_get_memory(self.context), True)
        self._decode(ids, 0)
        found = numpy.ctypeslib.as_array(
            self.library.llama_get_embeddings_seq(self.context, 0),
            shape=(self.library.llama_model_n_embd(self.model),),
        )
        return found / (numpy.linalg.norm(found) or 1)

    def _decode(self, ids: Sequence[int], start: int) -> None:
        """Read one batch, from position `start` on, and keep what every token gives."""
        batch = self.library.llama_batch_init(len(ids), 0, 1)
        try:
            batch.n_tokens = len(ids)
            for index, token in enumerate(ids):
                batch.token[index] = token
                batch.pos[index] = start + index
                batch.n_seq_id[index] = 1
                batch.seq_id[index][0] = 0
                batch.logits[index] = 1
            if self.library.llama_decode(self.context, batch) != 0:
                raise RuntimeError(f"llama.cpp could not decode: {self.problems}")
        finally:
            self.library.llama_batch_free(batch)


class LlamaCpp:
    """llama.cpp: GGUF."""

    name = "llama.cpp"
    format = "GGUF"
    precisions: tuple[str, ...] = (
        *("F32", "BF16", "F16"),
        "Q8_0",
        "Q6_K",
        *("Q5_K_M", "Q5_K_S", "Q5_1", "Q5_0"),
        *("Q4_K_M", "Q4_K_S", "Q4_1", "Q4_0", "IQ4_NL", "IQ4_XS"),
        *("Q3_K_L", "Q3_K_M", "Q3_K_S", "IQ3_M", "IQ3_S"),
        "Q2_K",
        *WEIGHTED_ONLY,
        *("TQ2_0", "TQ1_0"),
    )
    # Those that need no importance matrix, by the names of ggml's types.
    override_precisions: tuple[str, ...] = (
        *("F32", "BF16", "F16"),
        "Q8_0",
        "Q6_K",
        *("Q5_K", "Q5_1", "Q5_0"),
        *("Q4_K", "Q4_1", "Q4_0", "IQ4_NL", "IQ4_XS"),
        *("Q3_K", "IQ3_S"),
        "Q2_K",
        *("TQ2_0", "TQ1_0"),
    )

    def version(self) -> str:
        """The version of the llama-cpp-python release whose llama.cpp this is."""
        root = Path(os.environ.get("LLAMA_CPP_PYTHON", "/opt/llama.cpp/python")).parent
        return (root / "VERSION").read_text().strip()

    def quantize(self, task: stage.Task, target: Path, progress: stage.Progress) -> None:
        """Convert and quantize."""
        weighted = self._weighted(task)
        if task.overrides and task.precision in FLOAT_TYPES:
            raise RefusedError(
                "UnsupportedOverride",
                f"spec.quantization.overrides is set, but {task.precision} quantizes no tensor: "
                "remove it, or choose another precision",
            )
        progress("converting the checkpoint to GGUF", 5)
        output = target / ARTIFACT
        is_float = task.precision in FLOAT_TYPES
        full = output if is_float else task.scratch / "full.gguf"
        # What is in BF16 stays in it on the way: F16 has less range.
        tensors = checkpoint.tensors(task.source).values()
        types = {tensor.dtype for tensor in tensors if checkpoint.is_layer(tensor)}
        kept = "BF16" if types == {"BF16"} else "F16"
        float_type = task.precision if is_float else kept
        self.convert(task, full, float_type)
        if full != output:
            command = ["llama-quantize"]
            if weighted:
                progress("computing the importance matrix", 30)
                command += ["--imatrix", str(self._importance_matrix(task, full, progress))]
            if task.overrides:
                command += ["--tensor-type-file", str(tensor_types(task, full))]
            progress(f"quantizing to {task.precision}", 60, full.stat().st_size)
            command += [str(full), str(output), task.precision, str(task.threads)]
            stage.run_tool(command, on_line=tensor_progress(progress))

    def convert(self, task: stage.Task, full: Path, float_type: str) -> None:
        """Write the checkpoint to `full` in floats, the matrices in `float_type`.

        Raises:
            RefusedError: llama.cpp cannot read it, or splits text otherwise.
        """
        if convert(task.source, full, task.model_name, float_type):
            check_tokenizer(full, task)

    def _weighted(self, task: stage.Task) -> bool:
        """Whether an importance matrix is to be used."""
        if task.method not in ("", IMPORTANCE_MATRIX):
            raise RefusedError(
                "UnsupportedMethod",
                f"spec.quantization.method is {task.method}; llama.cpp knows {IMPORTANCE_MATRIX}, "
                "or leave it out",
            )
        if task.method and not task.calibration:
            raise RefusedError(
                "CalibrationRequired",
                f"method {IMPORTANCE_MATRIX} needs a text: set spec.quantization.calibration",
            )
        if task.precision in WEIGHTED_ONLY and not task.calibration:
            raise RefusedError(
                "CalibrationRequired",
                f"precision {task.precision} needs an importance matrix, and that a text: set "
                "spec.quantization.calibration",
            )
        if task.calibration and task.precision in UNWEIGHTED:
            raise RefusedError(
                "CalibrationNotUsed",
                f"precision {task.precision} uses no calibration: remove "
                "spec.quantization.calibration",
            )
        return task.calibration is not None

    def _importance_matrix(self, task: stage.Task, full: Path, progress: stage.Progress) -> Path:
        """Weigh the columns of every layer by what the calibration text sends through them."""
        assert task.calibration is not None
        length, samples = task.calibration.sequence_length, task.calibration.samples
        text = task.scratch / "calibration.txt"
        text.write_text(perplexity.read_text(task.calibration.file), encoding="utf-8")
        tokens = len(checkpoint.token_ids(task.source, text.read_text(encoding="utf-8")))
        if tokens < 2 * length:
            raise RefusedError(
                "CalibrationTextTooShort",
                f"the calibration text has {tokens} tokens and llama.cpp needs two windows of "
                f"{length}; give a longer text at spec.quantization.calibration or a shorter "
                "sequenceLength",
            )
        matrix = task.scratch / "importance.gguf"
        chunks = min(samples, tokens // length)
        command = ["llama-imatrix", "--model", str(full), "--file", str(text)]
        command += ["--output", str(matrix), "--ctx-size", str(length), "--chunks", str(chunks)]
        command += ["--no-ppl", "--threads", str(task.threads)]
        ask(command)
        return matrix

    def split(self, target: Path, max_file_bytes: int) -> None:
        """Let llama-gguf-split do it: it counts tensors alone, so that there has to be room for
        what a file says of them, and the first of everything else."""
        whole = target / ARTIFACT
        if whole.stat().st_size <= max_file_bytes:
            return
        gguf: Any = import_from_llama_cpp("gguf")
        reader = gguf.GGUFReader(whole)
        before = int(reader.data_offset)
        megabytes = (max_file_bytes - before) // SPLIT_UNIT
        least = -(-max(int(tensor.n_bytes) for tensor in reader.tensors) // SPLIT_UNIT)
        if megabytes < least:
            raise RefusedError(
                "MaxFileSizeTooSmall",
                f"spec.quantization.maxFileSize is {max_file_bytes:,} bytes, and tensors are not "
                f"cut: with the largest one's it has to be {before + least * SPLIT_UNIT:,} or more",
            )
        command = ["llama-gguf-split", "--split", "--split-max-size", f"{megabytes}M"]
        stage.run_tool([*command, str(whole), str(target / whole.stem)])
        whole.unlink()

    def coverage(self, artifact: Path) -> Coverage:
        """Count the tensors of all files by their types."""
        gguf: Any = import_from_llama_cpp("gguf")
        tensors = [
            tensor
            for path in sorted(artifact.glob("*.gguf"))
            for tensor in gguf.GGUFReader(path).tensors
        ]
        names = Counter(tensor.name for tensor in tensors)
        if twice := [name for name, count in names.items() if count > 1]:
            # What is measured need not be what is served.
            raise ValueError(f"{twice[0]} is in more than one file")
        looked_up = self.looked_up({tensor.name for tensor in tensors})
        return Coverage(
            tuple(
                Weight(
                    numbers=int(tensor.n_elements),
                    bits=int(tensor.n_bytes) * 8,
                    is_layer=len(tensor.shape) > 1 and tensor.name not in looked_up,
                    quantized=tensor.tensor_type.name not in FLOAT_TYPES,
                    is_output=is_output(tensor.name),
                    name=tensor.name if len(tensor.shape) > 1 else "",
                    precision=tensor.tensor_type.name,
                )
                for tensor in tensors
                if not tensor.name.startswith("rope_")
            )
        )

    def looked_up(self, names: Set[str]) -> Set[str]:
        """Which tensors of these names are matrices to look up in, and no layers."""
        # A tied embedding is the output layer, too.
        return {"token_embd.weight"} if "output.weight" in names else set()

    def vocabulary(self, artifact: Path) -> Mapping[str, int]:
        """Ask llama.cpp, which reads the file's token list."""
        return Model(first_file(artifact), vocabulary_only=True).tokens()

    def scorer(self, task: stage.Task, length: int) -> perplexity.Scorer:
        """Load the file with room for one text."""
        return Engine(first_file(task.artifact), length, task.threads).score


def first_file(artifact: Path) -> Path:
    """The file that llama.cpp is told to open: it finds the others by the first one's name."""
    return min(artifact.glob("*.gguf"))


def ask(command: Sequence[str], tells: Callable[[str], bool] = lambda _: True) -> str:
    """Run a tool of llama.cpp's and return what it printed.

    Those with a log print it by a thread that they do not wait for when they end (llama.cpp's pull
    request 22273 leaks it on purpose): of forty failures to load a model thirteen came without a
    word. So it is run again while what is wanted of it is not there: `tells` finds that in what it
    printed, or, where it failed at once, there is a line of an error.

    Raises:
        ToolError: its exit status was not 0, or it never told.
    """
    for left in reversed(range(TRIES)):
        began = time.monotonic()
        try:
            said = stage.run_tool(command)
        except stage.ToolError as error:
            was_quick = time.monotonic() - began < QUICK_SECONDS
            if not left or error.status < 0 or not was_quick or ERROR_LINE.search(str(error)):
                raise
        else:
            if tells(said):
                return said
    raise stage.ToolError(f"{command[0]} did not tell, {TRIES} times: {said[-2000:]}")


def tensor_types(task: stage.Task, full: Path) -> Path:
    """A file for llama-quantize that gives each tensor that an override names its type: by whole
    names, so that what the expressions mean is said in one place.

    Raises:
        RefusedError: an override names nothing.
    """
    gguf: Any = import_from_llama_cpp("gguf")
    names = [each.name for each in gguf.GGUFReader(full).tensors if len(each.shape) > 1]
    named = {name: its for name in names if (its := overridden(name, task.overrides))}
    for index, override in enumerate(task.overrides):
        if not any(its is override for its in named.values()):
            raise RefusedError(
                "OverrideNotFollowed",
                f"spec.quantization.overrides[{index}].tensors is {override.tensors!r}, which is "
                "found in the name of no matrix that an earlier override leaves; they are called "
                f"{', '.join(names[:12])} and so on: correct or remove it",
            )
    path = task.scratch / "tensor-types.txt"
    path.write_text("".join(f"^{re.escape(n)}$={its.precision}\n" for n, its in named.items()))
    return path


def tensor_progress(progress: stage.Progress) -> Any:
    """Turn llama-quantize's lines `[ 3/ 291] name ...` into ten progress lines."""
    last = -1

    def on_line(line: str) -> None:
        nonlocal last
        match = re.match(r"\[\s*(\d+)/\s*(\d+)\]\s*(\S+)", line)
        if match and (tenth := 10 * int(match[1]) // max(1, int(match[2]))) > last:
            last = tenth
            progress(f"quantized {match[3]}", 60 + 3 * tenth)

    return on_line


def check_tokenizer(
    path: Path, task: stage.Task, special: bool = False, instead: str = "CompressedTensors or ONNX"
) -> None:
    """Compare llama.cpp's ids of a text with the checkpoint's own, with or without the special
    tokens around it; `instead` names formats for who is refused.

    Raises:
        RefusedError: they differ, so the served model would read other text than it was sent.
    """
    expected = list(
        checkpoint.load_tokenizer(task.source)(task.sample, add_special_tokens=special).input_ids
    )
    found = Model(path, vocabulary_only=True).tokenize(task.sample, special)
    if found != expected:
        raise RefusedError(
            "UnsupportedTokenizer",
            "llama.cpp splits text otherwise than the source's tokenizer "
            f"({len(found)} tokens for {len(expected)}): choose format {instead}",
        )


if __name__ == "__main__":
    sys.exit(stage.main(LlamaCpp()))
