"""GGUF of models that make an embedding of a text, by llama.cpp.

Encoders, and decoders that sentence-transformers' files in the checkpoint say how to pool. How that
is done is written into the file, and read from there by what measures and by what serves.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

from quantop_adapters import checkpoint, encoder, stage
from quantop_adapters.gguf_convert import convert
from quantop_adapters.llama_cpp import Engine, LlamaCpp, Model, check_tokenizer, first_file
from quantop_adapters.refusal import RefusedError

POOLINGS = ("mean", "cls", "last")
TRIAL_LENGTH = 64
"""Tokens that a text of ours may have, where no evaluation text is given."""
OTHER_FORMAT = "ONNXEncoder"
"""Written for models that llama.cpp does not read."""
WORD_BEGINS = "\u2581"
WORD_PIECE = 3
"""llama.cpp's number of the kind of tokenizer that BERT has."""


class LlamaCppEncoder(LlamaCpp):
    """llama.cpp: models that make embeddings."""

    format = "GGUFEncoder"
    # At four bits a MiniLM has lost as much as one may want. llama-imatrix reads windows, without
    # the tokens that such models read a text between.
    precisions: tuple[str, ...] = (
        *("F32", "BF16", "F16"),
        "Q8_0",
        "Q6_K",
        *("Q5_K_M", "Q5_K_S", "Q5_1", "Q5_0"),
        *("Q4_K_M", "Q4_K_S", "Q4_1", "Q4_0", "IQ4_NL", "IQ4_XS"),
    )

    def quantize(self, task: stage.Task, target: Path, progress: stage.Progress) -> None:
        """Convert and quantize."""
        stage.choose_method(task, {stage.DEFAULT_METHOD: False}, self.name)
        super().quantize(task, target, progress)

    def convert(self, task: stage.Task, full: Path, float_type: str) -> None:
        """Write the checkpoint to `full`, with how its states are pooled."""
        pooling = check(task.source)
        convert(task.source, full, task.model_name, float_type, pooling)
        check_tokenizer(full, task, special=True, instead=OTHER_FORMAT)

    def looked_up(self, names: Set[str]) -> Set[str]:
        """All embeddings: nothing predicts tokens by them."""
        return {"token_embd.weight", "position_embd.weight", "token_types.weight"}

    def vocabulary(self, artifact: Path) -> Mapping[str, int]:
        """Ask llama.cpp; where it wrote word pieces its own way, as their source wrote them."""
        model = Model(first_file(artifact), vocabulary_only=True)
        tokens = model.tokens()
        if model.library.llama_vocab_type(model.vocabulary) != WORD_PIECE:
            return tokens
        # It marks what begins a word, and the source what goes on with one.
        begin = {token[1:]: index for token, index in tokens.items() if token[:1] == WORD_BEGINS}
        return {f"##{token}": index for token, index in tokens.items()} | begin

    def measure(self, task: stage.Task, progress: stage.Progress) -> dict[str, object]:
        """Embed the evaluation text by the source and by the artifact."""
        longest = encoder.max_length(task.source)
        asked = task.evaluation.sequence_length if task.evaluation else TRIAL_LENGTH
        engine = Engine(first_file(task.artifact), min(longest, asked), task.threads, embeds=True)

        def read(text: str, most: int) -> tuple[list[int], Any]:
            ids = engine.cut(engine.tokenize(text, special=True), most)
            return ids, engine.embed(ids)

        return encoder.compare(task, progress, read, min(longest, asked))


def check(source: Path) -> str:
    """How the source's states become one embedding.

    Raises:
        RefusedError: the source makes none, or llama.cpp does not pool so.
    """
    architecture = checkpoint.architecture(checkpoint.read_json(source / "config.json"))
    if encoder.is_classifier(source):
        raise RefusedError(
            "UnsupportedHead",
            f"the source's config.json says {architecture}, whose head gives labels or a score and "
            f"no embedding: choose format {OTHER_FORMAT}",
        )
    if encoder.generates(architecture) and not (source / "modules.json").is_file():
        raise RefusedError(
            "UnsupportedArchitecture",
            f"the source's config.json says {architecture}, which generates text: choose format "
            "GGUF. (One that was trained for embeddings has sentence-transformers' modules.json.)",
        )
    mode, _ = encoder.pooling(source)
    if mode not in POOLINGS:
        raise RefusedError(
            "UnsupportedPooling",
            f"the source's states are pooled by {mode}, and llama.cpp pools by "
            f"{', '.join(POOLINGS)}: choose format {OTHER_FORMAT}",
        )
    return mode


if __name__ == "__main__":
    sys.exit(stage.main(LlamaCppEncoder()))
