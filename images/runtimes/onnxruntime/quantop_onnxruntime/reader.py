"""ONNX Runtime: encoders and classifiers that quantop's Quantizer `onnxruntime` wrote."""

from __future__ import annotations

import json
from pathlib import Path

import numpy
import onnxruntime
from quantop_serving.reader import Reading
from tokenizers import Tokenizer


class OnnxRuntimeReader:
    """One model on the CPU."""

    platform = "onnxruntime"

    def __init__(self, model_dir: Path, threads: int) -> None:
        """Load the folder; `threads` is the CPU limit.

        Raises OSError or ValueError when a file cannot be read, and onnxruntime's errors.
        """
        options = onnxruntime.SessionOptions()
        # ONNX Runtime counts the machine's cores, not the container's share of them.
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            str(model_dir / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )
        self._inputs = [each.name for each in self._session.get_inputs()]
        (output,) = self._session.get_outputs()
        self.size: int = output.shape[-1]
        self._tokenizer = Tokenizer.from_file(str(model_dir / "tokenizer.json"))
        self.context_length: int = self._tokenizer.truncation["max_length"]
        self.labels: tuple[str, ...] = ()
        if output.name == "logits":
            names = json.loads((model_dir / "config.json").read_text())["id2label"]
            self.labels = tuple(names[index] for index in sorted(names, key=int))

    def read(self, text: str) -> Reading:
        encoding = self._tokenizer.encode(text)
        values = {
            "input_ids": encoding.ids,
            "attention_mask": encoding.attention_mask,
            "token_type_ids": encoding.type_ids,
        }
        fed = {name: numpy.array([values[name]], dtype=numpy.int64) for name in self._inputs}
        numbers = self._session.run(None, fed)[0][0]
        if self.labels:
            weights = numpy.exp(numbers - numbers.max())
            numbers = weights / weights.sum()
        return Reading(numbers.tolist(), len(encoding.ids))
